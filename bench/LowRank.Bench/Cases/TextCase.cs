using LowRank.Adapters;
using LowRank.Models;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>What is done with a text model.</summary>
public enum TextWork
{
    /// <summary>MiniLM (22 M parameters): one vector a sentence.</summary>
    Embed,
    /// <summary>MiniLM: a training step (forward, cross-entropy, backward, AdamW), LoRA on query and value.</summary>
    Step,
    /// <summary>A layer of a llama-like decoder: forward and backward to its input, LoRA on all linear layers.</summary>
    Layer,
}

/// <summary>A text model on a batch of sentences without padding. MiniLM's real weights where LOWRANK_MODELS names its folder, else random ones of its shapes.</summary>
public sealed record TextRow(TextWork Work, int Batch, int Tokens) : Row(Work switch { TextWork.Embed => "minilm embedding", TextWork.Step => "minilm step", _ => "llama layer" })
{
    /// <inheritdoc/>
    public override int Rank => Work == TextWork.Embed ? 0 : 8;

    /// <inheritdoc/>
    public override string Shape => Work == TextWork.Layer ? $"{Batch * Tokens} tokens, 1024 wide, 16 heads, 4 kv" : $"{Batch} x {Tokens} tokens";

    /// <inheritdoc/>
    public override Case Make(Device device) => new TextCase(this, device);
}

internal sealed class TextCase : Case
{
    private const int Layers = 6, Classes = 4;
    private const float Alpha = 16;
    /// <summary>Sizes of MiniLM.</summary>
    public const string Bert = """
        {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0}
        """;

    private const string Llama = """
        {"model_type": "llama", "architectures": ["LlamaModel"], "vocab_size": 512, "hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16,
         "num_key_value_heads": 4, "intermediate_size": 2816, "rms_norm_eps": 1e-5, "max_position_embeddings": 512}
        """;

    private readonly TextRow row;
    private readonly Device device;
    private readonly TextModel model;
    private readonly AdaptedModel? adapted;
    private readonly IReadOnlyList<Parameter> trained = [];
    private readonly Optimizer? ours;
    private readonly TextBatch batch;
    private readonly int[] classes;
    private readonly Dictionary<string, Torch.Tensor> weights = [];
    private readonly List<TorchSharp.Modules.Parameter> theirTrained = [];
    private readonly TorchText network;
    private readonly Torch.Tensor theirIds, theirClasses;
    private readonly Torch.optim.Optimizer? theirs;
    private readonly Tensor dy;
    private readonly Torch.Tensor theirDy;

    public TextCase(TextRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        bool decoder = row.Work == TextWork.Layer;
        ModelConfig config = ModelConfig.Parse(decoder ? Llama : Bert);
        var options = new LoadOptions { Type = row.Type, Classes = row.Work == TextWork.Step ? [.. Enumerable.Range(0, Classes).Select(i => $"{i}")] : null };
        string? real = Environment.GetEnvironmentVariable("LOWRANK_MODELS") is { Length: > 0 } folder && !decoder ? Path.Combine(folder, "minilm") : null;
        model = real is null ? TextModel.Create(config, device, options) : (TextModel)PretrainedModel.Load(real, device, options);
        foreach ((string name, Parameter p) in model.Parameters)
        {
            weights.Add(name, TorchTensors.Of(p.Value.ToDoubles(), p.Value.Shape, row.Type));
        }
        int heads = config.Count("num_attention_heads"), kvHeads = config.Count("num_key_value_heads", heads), d = config.Count("hidden_size");
        network = new TorchText(weights, heads, kvHeads, config.Number(decoder ? "rms_norm_eps" : "layer_norm_eps")) { Scale = Alpha / Math.Max(1, row.Rank), Angles = decoder ? Angles(row.Tokens, d / heads, row.Type) : null };
        if (row.Work != TextWork.Embed)
        {
            adapted = model.Attach(new LoraConfig
            {
                Rank = row.Rank,
                Alpha = Alpha,
                Targets = decoder ? ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] : ["query", "value"],
                ModulesToSave = decoder ? null : ["classifier"],
            });
            // The gradient of the layer's input goes on to the table of words.
            Parameter? words = decoder ? model.Parameters["embed_tokens.weight"] : null;
            if (words is not null)
            {
                words.Frozen = false;
            }
            trained = words is null ? adapted.Parameters : [.. adapted.Parameters, words];
            Pair();
            ours = decoder ? new Sgd(trained) : new AdamW(trained) { LearningRate = 0 };     // every form starts from the same weights at every call
            theirs = decoder ? null : Torch.optim.AdamW(theirTrained, ours.LearningRate, weight_decay: ours.WeightDecay);
        }
        int[] ids = new int[row.Batch * row.Tokens];
        var rng = new Rng(1);
        foreach (ref int id in ids.AsSpan())
        {
            id = rng.Below(model.Vocabulary);
        }
        batch = new TextBatch(row.Batch, ids);
        classes = [.. Enumerable.Range(0, row.Batch).Select(i => i % Classes)];
        theirIds = Torch.tensor(ids).to(Torch.ScalarType.Int64).view(row.Batch, row.Tokens);
        theirClasses = Torch.tensor(classes).to(Torch.ScalarType.Int64);
        Shape shape = [row.Batch, row.Tokens, d];
        dy = model.Store.Of(shape, Draw("dy", shape.Count), row.Type);
        theirDy = TorchTensors.Of(dy);
    }

    public override double Bound => row.Type == DType.F32 ? Close.Model : Close.ModelBFloat16;

    /// <summary>Products of the layers forward, and of dx backward; attention is small beside them.</summary>
    public override Cost Cost
    {
        get
        {
            long perToken = model.Sites.Where(s => s.Kind == SiteKind.Linear && !s.IsOutput && !s.Path.Contains("pooler", StringComparison.Ordinal)).Sum(s => (long)s.Outputs * s.Inputs);
            long forward = 2 * row.Batch * row.Tokens * perToken;
            return new(row.Work == TextWork.Embed ? forward : 2 * forward, 0);
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => row.Work == TextWork.Embed
        ? new Dictionary<string, Action<int, Results?>> { ["functions"] = (_, results) => TheirEmbedding(results) }
        : new Dictionary<string, Action<int, Results?>> { ["module"] = (_, results) => Theirs(fused: false, results), ["addmm"] = (_, results) => Theirs(fused: true, results) };

    public override void Ours(int set, Results? results = null)
    {
        if (row.Work == TextWork.Embed)
        {
            float[][] embeddings = SentenceEmbedding.Of(model, batch);
            results?.AddJoined(embeddings.Select(e => Array.ConvertAll(e, v => (double)v)));
            return;
        }
        using (Tape tape = device.BeginTape())
        {
            Tensor y = row.Work == TextWork.Layer ? model.Hidden(batch) : model.Forward(batch).Logits!;
            results?.Add(y);
            if (row.Work == TextWork.Layer)
            {
                tape.Backward(y, dy);
            }
            else
            {
                tape.Backward(new CrossEntropy().Apply(y, tape.Of([classes.Length], classes)));
            }
            results?.AddJoined(trained.Select(p => p.Gradient!.ToDoubles()));
        }
        if (row.Work == TextWork.Layer)
        {
            ours!.ClearGradients();
        }
        else
        {
            adapted!.Step(ours!);
        }
    }

    protected override void Dispose(bool disposing)
    {
        ours?.Dispose();
        adapted?.Dispose();
        model.Dispose();
        theirs?.Dispose();
        foreach (Torch.Tensor tensor in weights.Values.Concat(theirTrained).Concat([theirIds, theirClasses, theirDy]))
        {
            tensor.Dispose();
        }
        network.Angles?.Cosine.Dispose();
        network.Angles?.Sine.Dispose();
    }

    /// <summary>Gives torch what is trained here, with factors B that are not zero.</summary>
    private void Pair()
    {
        TorchSharp.Modules.Parameter Own(Tensor value)
        {
            var own = new TorchSharp.Modules.Parameter(TorchTensors.Of(value.ToDoubles(), value.Shape, row.Type));
            theirTrained.Add(own);
            return own;
        }
        foreach (Adapter adapter in adapted!.Adapters)
        {
            Parameter b = adapter.Parameters[1];
            b.Value.Set(Draw("b", b.Value.Shape.Count, 0.1));
            string weight = adapter.Site.Weight.Name;
            network.Factors.Add(weight[..weight.LastIndexOf('.')], (Own(adapter.Parameters[0].Value), Own(b.Value)));
        }
        foreach (Parameter p in trained.Where(p => weights.ContainsKey(p.Name)))
        {
            weights[p.Name].Dispose();
            weights[p.Name] = Own(p.Value);
        }
    }

    private static (Torch.Tensor, Torch.Tensor) Angles(int tokens, int dim, DType type)
    {
        double[] angles = [.. Enumerable.Range(0, tokens * dim / 2).Select(i => i / (dim / 2) * Math.Pow(10000, -2.0 * (i % (dim / 2)) / dim))];
        Shape shape = [tokens, dim / 2];
        return (TorchTensors.Of(Array.ConvertAll(angles, Math.Cos), shape, type), TorchTensors.Of(Array.ConvertAll(angles, Math.Sin), shape, type));
    }

    private void TheirEmbedding(Results? results)
    {
        using var scope = Torch.NewDisposeScope();
        using var _ = Torch.no_grad();
        Torch.Tensor y = F.normalize(network.Bert("", Layers, theirIds).mean([1]), dim: -1);
        results?.Add(y);
    }

    private void Theirs(bool fused, Results? results)
    {
        using var scope = Torch.NewDisposeScope();
        network.Fused = fused;
        Torch.Tensor y;
        if (row.Work == TextWork.Layer)
        {
            y = network.LlamaLayer(theirIds);
            y.backward([theirDy]);
        }
        else
        {
            Torch.Tensor last = network.Bert("bert.", Layers, theirIds);
            y = network.Linear("classifier", Torch.tanh(network.Linear("bert.pooler.dense", last.select(1, 0))));
            F.cross_entropy(y, theirClasses).backward();
        }
        results?.Add(y);
        results?.AddJoined(theirTrained.Select(p => TorchTensors.Values(p.grad!)));
        theirs?.step();
        foreach (TorchSharp.Modules.Parameter p in theirTrained)
        {
            p.grad = null;
        }
    }
}
