namespace LowRank.Adapters;

/// <summary>The factors of several sets of adapters, packed layer by layer for batches whose samples choose.</summary>
internal sealed class PackedAdapters : IDisposable
{
    private readonly Scope store;
    private readonly (AdaptedModel Set, long Version, double Strength)[] stamp;
    private readonly Dictionary<Site, AdapterSet?> layers = [];

    public PackedAdapters(Model model, IReadOnlyList<AdaptedModel> sets)
    {
        store = model.Device.NewStore();
        stamp = [.. Stamp(sets)];
        foreach (Site site in model.Sites.Where(site => sets.Any(s => s.Touches(site))))
        {
            AdapterFactors?[] factors = [.. sets.Select(s => s.Packable(site))];
            layers.Add(site, Array.TrueForAll(factors, f => f is null) ? null : AdapterSet.Pack(store, site.Weight.Value.DType.ForParameters(), factors));
        }
    }

    /// <summary>Layers that some set changes, and their factors where one has such.</summary>
    public IReadOnlyDictionary<Site, AdapterSet?> Layers => layers;

    /// <summary>True while these are the factors of <paramref name="sets"/>.</summary>
    public bool IsOf(IReadOnlyList<AdaptedModel> sets) => stamp.SequenceEqual(Stamp(sets));

    public void Dispose() => store.Dispose();

    private static IEnumerable<(AdaptedModel, long, double)> Stamp(IReadOnlyList<AdaptedModel> sets) => sets.SelectMany(s => s.Adapters.Select(a => (s, s.Version, a.Strength)));
}

/// <summary>One batch whose samples choose; stands in for the layers until it is disposed.</summary>
internal sealed class MixedBatch : IDisposable
{
    private readonly PackedAdapters packed;
    private readonly AdaptedModel[] sets;
    private readonly int[] choice;
    private readonly AdaptedModel[] suspended;
    private readonly Dictionary<int, AdapterChoice> rows = [];       // by rows a sample has at a layer

    public MixedBatch(PackedAdapters packed, AdaptedModel[] sets, int[] choice)
    {
        (this.packed, this.sets, this.choice) = (packed, sets, choice);
        suspended = Array.FindAll(sets, s => s.Enabled);
        Array.ForEach(suspended, s => s.Disable());
        foreach (Site site in packed.Layers.Keys)
        {
            site.Rows = Forward;
        }
    }

    public void Dispose()
    {
        foreach (Site site in packed.Layers.Keys)
        {
            site.Rows = null;
        }
        Array.ForEach(suspended, s => s.Enable());
    }

    private Tensor Forward(Site site, Tensor x)
    {
        if (x.Device.Current is Tape)
        {
            throw new InvalidOperationException($"Mix: a tape is open at {site.Path}, want a scope: a batch whose samples choose their adapters computes and does not train");
        }
        int samples = choice.Length;
        if (x.Shape.Rank == 0 || samples == 0 || x.Shape[0] % samples != 0)
        {
            throw new ShapeException($"Mix: the input of {site.Path} is {x.Shape}, want a first dimension of so many rows for each of {samples} samples");
        }
        int each = x.Shape[0] / samples;
        AdapterSet? set = packed.Layers[site];
        bool inOnePass = set is not null && Array.Exists(choice, i => i >= 0 && set.Table[i].Rank > 0);
        Tensor y = inOnePass ? set!.Forward(x, site.Weight, Rows(x.Shape.Rows / samples), site.Bias?.Value) : site.BaseForward(x);
        for (int i = 0; i < samples; i++)
        {
            if (choice[i] >= 0 && sets[choice[i]] is var own && own.Touches(site) && own.Packable(site) is null)
            {
                y.Slice(i * each, each).CopyFrom(own.Alone(site, x.Slice(i * each, each)));
            }
        }
        return y;
    }

    private AdapterChoice Rows(int each)
    {
        if (!rows.TryGetValue(each, out AdapterChoice? chosen))
        {
            rows.Add(each, chosen = AdapterChoice.PerRow(choice, each));
        }
        return chosen;
    }
}
