using LowRank.Adapters;
using LowRank.Models;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>What of the model is trained. The classifier always is.</summary>
public enum Trained
{
    /// <summary>LoRA on query and value.</summary>
    Lora,
    /// <summary>DoRA on query and value.</summary>
    Dora,
    /// <summary>Every weight.</summary>
    Full,
}

/// <summary>One training step (forward, cross-entropy, backward, AdamW) of a vision transformer of the shipped model's sizes on a batch of 32.</summary>
public sealed record VisionRow(string Group) : Row(Group)
{
    /// <summary>What is trained.</summary>
    public Trained Trained { get; init; }

    /// <inheritdoc/>
    public override int Rank => Trained == Trained.Full ? 0 : 8;

    /// <inheritdoc/>
    public override string Shape => $"ViT 128x5, batch 32, {Trained switch { Trained.Lora => "LoRA", Trained.Dora => "DoRA", _ => "all weights" }}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new VisionCase(this, device);
}

internal sealed class VisionCase : Case
{
    private const int Batch = 32, Classes = 10;
    private const double LearningRate = 0;     // every form starts from the same weights at every call; the work is that of any rate
    private const float Alpha = 16;
    private static readonly VisionTransformerConfig Sizes = new VisionTransformerConfig
    {
        HiddenSize = 128,
        Layers = 5,
        Heads = 4,
        IntermediateSize = 512,
        ImageSize = 28,
        PatchSize = 7,
        Channels = 1,
    }.WithClasses(Classes);

    private readonly VisionRow row;
    private readonly Device device;
    private readonly VisionTransformer model;
    private readonly AdaptedModel? adapted;
    private readonly IReadOnlyList<Parameter> trained;
    private readonly Tensor images, labels;
    private readonly AdamW ours;
    private readonly Dictionary<string, Torch.Tensor> weights = [];
    private readonly Dictionary<string, Factors> factors = [];
    private readonly List<TorchSharp.Modules.Parameter> theirTrained = [];
    private readonly Torch.Tensor theirImages, theirLabels;
    private readonly Torch.optim.Optimizer theirs;

    public VisionCase(VisionRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        model = Load(Sizes, device, row.Type);
        foreach ((string name, Parameter p) in model.Parameters)
        {
            weights.Add(name, TorchTensors.Of(p.Value.ToDoubles(), p.Value.Shape, row.Type));
        }
        if (row.Trained == Trained.Full)
        {
            trained = model.TrainAll();
        }
        else
        {
            adapted = model.Attach(new LoraConfig { Rank = row.Rank, Alpha = Alpha, Targets = ["query", "value"], Dora = row.Trained == Trained.Dora, ModulesToSave = ["classifier"] });
            trained = adapted.Parameters;
            foreach (Adapter adapter in adapted.Adapters)
            {
                Parameter b = adapter.Parameters[1];
                b.Value.Set(Draw("b", b.Value.Shape.Count, 0.1));
                TorchSharp.Modules.Parameter[] own = [.. adapter.Parameters.Select(p => new TorchSharp.Modules.Parameter(TorchTensors.Of(p.Value.ToDoubles(), p.Value.Shape, row.Type)))];
                theirTrained.AddRange(own);
                factors.Add(adapter.Site.Aliases[0], new Factors(own[0], own[1], own.ElementAtOrDefault(2)));
            }
        }
        foreach (Parameter p in trained.Where(p => weights.ContainsKey(p.Name)))
        {
            var own = new TorchSharp.Modules.Parameter(weights[p.Name]);
            weights[p.Name] = own;
            theirTrained.Add(own);
        }
        ours = new AdamW(trained) { LearningRate = LearningRate };
        theirs = Torch.optim.AdamW(theirTrained, LearningRate, weight_decay: ours.WeightDecay);
        Shape shape = [Batch, Sizes.Channels, Sizes.ImageSize, Sizes.ImageSize];
        float[] pixels = Draw("pixels", shape.Count);
        int[] wanted = [.. Enumerable.Range(0, Batch).Select(i => i % Classes)];
        images = model.Store.Of(shape, pixels, row.Type);
        labels = model.Store.Of([Batch], wanted);
        theirImages = TorchTensors.Of(pixels, shape, row.Type);
        theirLabels = Torch.tensor(wanted).to(Torch.ScalarType.Int64);
    }

    public override double Bound => row.Type == DType.F32 ? Close.Model : Close.ModelBFloat16;

    /// <summary>Products of the linear layers forward, and of dx (and dW where it is trained) backward; attention and norms are small beside them.</summary>
    public override Cost Cost
    {
        get
        {
            long d = Sizes.HiddenSize, tokens = Batch * Sizes.Tokens;
            long perToken = Sizes.Layers * ((4 * d * d) + (2 * d * Sizes.IntermediateSize) + (2 * d * Sizes.Tokens));
            long forward = 2 * tokens * perToken;
            return new(forward * (row.Trained == Trained.Full ? 3 : 2), 0);
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => row.Trained == Trained.Full
        ? new Dictionary<string, Action<int, Results?>> { ["functions"] = (_, results) => Step(null, results) }
        : new Dictionary<string, Action<int, Results?>>
        {
            ["module"] = (_, results) => Step((w, bias, f, x) => f.Scaled(F.linear(x, w) + (F.linear(F.linear(x, f.A), f.B) * Scale), w) + bias, results),
            ["addmm"] = (_, results) => Step(Fused, results),
        };

    private float Scale => Alpha / row.Rank;

    public override void Ours(int set, Results? results = null)
    {
        using Tape tape = device.BeginTape();
        Tensor logits = model.Forward(images);
        Tensor loss = new CrossEntropy().Apply(logits, labels);
        tape.Backward(loss);
        if (results is not null)
        {
            results.Add(logits);
            results.Add(loss);
            results.AddJoined(trained.Select(p => p.Gradient!.ToDoubles()));
        }
        if (adapted is null)
        {
            ours.Step();
        }
        else
        {
            adapted.Step(ours);
        }
    }

    protected override void Dispose(bool disposing)
    {
        ours.Dispose();
        adapted?.Dispose();
        model.Dispose();
        theirs.Dispose();
        foreach (Torch.Tensor tensor in weights.Values.Concat(theirTrained).Append(theirImages).Append(theirLabels))
        {
            tensor.Dispose();
        }
    }

    /// <summary>A model with weights packed for training adapters, which the loader does: through a folder of its own.</summary>
    internal static VisionTransformer Load(VisionTransformerConfig sizes, Device device, DType type)
    {
        string folder = Directory.CreateTempSubdirectory("lowrank-bench").FullName;
        try
        {
            using (var random = new VisionTransformer(sizes, device, new Rng(1)))
            {
                random.Save(folder);
            }
            return VisionTransformer.Load(folder, device, new LoadOptions { Type = type });
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private Torch.Tensor Fused(Torch.Tensor w, Torch.Tensor bias, Factors f, Torch.Tensor x)
    {
        Torch.Tensor rows = x.view(-1, x.shape[^1]);
        bool scaled = f.M is not null;
        Torch.Tensor y = Torch.addmm(F.linear(rows, w, scaled ? null : bias), F.linear(rows, f.A), f.B.t(), 1, Scale);
        return (scaled ? f.Scaled(y, w) + bias : y).view(x.shape[0], x.shape[1], -1);
    }

    private void Step(Func<Torch.Tensor, Torch.Tensor, Factors, Torch.Tensor, Torch.Tensor>? layer, Results? results)
    {
        using var scope = Torch.NewDisposeScope();
        var network = new TorchVisionTransformer(Sizes, weights)
        {
            Adapted = (name, x) => layer is not null && factors.TryGetValue(name, out Factors? f) ? layer(weights[name + ".weight"], weights[name + ".bias"], f, x) : null,
        };
        Torch.Tensor logits = network.Forward(theirImages);
        Torch.Tensor loss = F.cross_entropy(logits, theirLabels);
        loss.backward();
        results?.Add(logits);
        results?.Add(loss);
        results?.AddJoined(theirTrained.Select(p => TorchTensors.Values(p.grad!)));
        theirs.step();
        theirs.zero_grad();
    }

    /// <summary>An adapter's A [r,in], B [out,r] and DoRA's m [out].</summary>
    private sealed record Factors(Torch.Tensor A, Torch.Tensor B, Torch.Tensor? M)
    {
        public Torch.Tensor Scaled(Torch.Tensor y, Torch.Tensor w)
        {
            if (M is null)
            {
                return y;
            }
            Torch.Tensor norm;
            using (Torch.no_grad())
            {
                norm = Torch.linalg.norm(Torch.addmm(w, B, A, 1, Alpha / A.shape[0]), dims: [1]);
            }
            return (M / norm) * y;
        }
    }
}
