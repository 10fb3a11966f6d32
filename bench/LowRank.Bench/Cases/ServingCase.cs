using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Bench.Cases;

/// <summary>What a batch of requests with an adapter each is measured against; both sides are ours.</summary>
public enum Serving
{
    /// <summary>A forward pass for each request, its adapter active.</summary>
    InTurn,
    /// <summary>For each request its adapter merged, the plain forward pass, and unmerged.</summary>
    MergedInTurn,
}

/// <summary>Requests of one image each, every one with another LoRA on query and value; forward in one batch whose rows choose.</summary>
public sealed record ServingRow(Serving Against) : Row($"mixed batch, against {(Against == Serving.InTurn ? "one after another" : "merge, forward, unmerge")}")
{
    /// <summary>Requests, and adapters.</summary>
    public int Adapters { get; init; } = 8;

    /// <inheritdoc/>
    public override int Rank => 8;

    /// <inheritdoc/>
    public override string Shape => $"ViT {ServingCase.Sizes.HiddenSize}x{ServingCase.Sizes.Layers}, {Adapters} adapters x {ServingCase.Sizes.Tokens} tokens";

    /// <inheritdoc/>
    public override Case Make(Device device) => new ServingCase(this, device);
}

internal sealed class ServingCase : Case
{
    public static readonly VisionTransformerConfig Sizes = new VisionTransformerConfig
    {
        HiddenSize = 384,
        Layers = 6,
        Heads = 12,
        IntermediateSize = 1536,
        ImageSize = 32,
        PatchSize = 8,
        Channels = 3,
    }.WithClasses(10);

    private readonly ServingRow row;
    private readonly VisionTransformer model;
    private readonly NamedAdapters adapters;
    private readonly string[] names;
    private readonly Tensor images;

    public ServingCase(ServingRow row, Device device)
    {
        this.row = row;
        model = VisionCase.Load(Sizes, device, row.Type);
        adapters = new NamedAdapters(model);
        names = [.. Enumerable.Range(0, row.Adapters).Select(i => $"adapter {i}")];
        foreach (string name in names)
        {
            foreach (Adapter adapter in adapters.Add(name, new LoraConfig { Rank = row.Rank, Alpha = 2 * row.Rank, Targets = ["query", "value"] }).Adapters)
            {
                Tensor b = adapter.Parameters[1].Value;
                b.Set(Draw(name + adapter.Site.Path, b.Shape.Count, 0.1));
            }
        }
        Shape shape = [row.Adapters, Sizes.Channels, Sizes.ImageSize, Sizes.ImageSize];
        images = model.Store.Of(shape, Draw("pixels", shape.Count), row.Type);
    }

    public override double Bound => row.Type == DType.F32 ? Close.Model : Close.ModelBFloat16;

    /// <summary>Products of the linear layers, and the weights once.</summary>
    public override Cost Cost
    {
        get
        {
            long d = Sizes.HiddenSize, weights = Sizes.Layers * ((4 * d * d) + (2 * d * Sizes.IntermediateSize));
            return new(2L * row.Adapters * Sizes.Tokens * weights, row.Type.Size() * weights);
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        [row.Against == Serving.InTurn ? "in turn" : "merged in turn"] = (_, results) =>
        {
            List<double[]> each = [];
            for (int i = 0; i < names.Length; i++)
            {
                adapters.Activate(names[i]);
                if (row.Against == Serving.MergedInTurn)
                {
                    adapters.Merge();
                }
                using Scope scope = model.Device.BeginScope();
                Tensor logits = model.Forward(images.Slice(i, 1));
                if (results is not null)
                {
                    each.Add(logits.ToDoubles());
                }
            }
            adapters.Activate();
            results?.AddJoined(each);
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using IDisposable mixed = adapters.Mix(names);
        using Scope scope = model.Device.BeginScope();
        Tensor logits = model.Forward(images);
        results?.Add(logits);
    }

    protected override void Dispose(bool disposing)
    {
        adapters.Dispose();
        model.Dispose();
    }
}
