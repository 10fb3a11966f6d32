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
        int samples = choice.Length;
        if (x.Shape.Rank == 0 || samples == 0 || x.Shape[0] % samples != 0)
        {
            throw new ShapeException($"Mix: the input of {site.Path} is {x.Shape}, want a first dimension of so many rows for each of {samples} samples");
        }
        if (x.Device.Current is Tape)
        {
            return Recorded(site, x);
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

    /// <summary>The same so that gradients flow: each adapter sees its own samples, and what it makes of them goes back to their places.</summary>
    private Tensor Recorded(Site site, Tensor x)
    {
        int[] own = [.. choice.Select(i => i >= 0 && sets[i].Touches(site) ? i : AdapterChoice.None)], groups = [.. own.Distinct()];
        if (groups.FirstOrDefault(i => i >= 0 && sets[i].TrainsWhole(site), AdapterChoice.None) is >= 0 and var whole)
        {
            throw new InvalidOperationException($"Mix: adapter {whole} trains {site.Path} as a whole, want no tape: of the adapters of a batch whose samples choose, whole modules and biases compute and do not train");
        }
        Tensor Output(int set, Tensor part) => set < 0 ? site.BaseForward(part) : sets[set].Alone(site, part);
        if (groups.Length == 1)
        {
            return Output(groups[0], x);
        }
        int samples = choice.Length, each = x.Shape[0] / samples;
        Scope scope = x.Device.Current!;
        Tensor? y = null;
        foreach (int set in groups)
        {
            int[] at = [.. Enumerable.Range(0, samples).Where(i => own[i] == set)];
            Tensor made = Output(set, Taken(x, at, samples, each, scope));
            int wide = checked((int)(made.Shape.Count / at.Length));
            // Samples of others read some sample, times 0.
            int[] place = [.. Enumerable.Range(0, samples).Select(i => Math.Max(0, Array.IndexOf(at, i)))];
            double[] mine = [.. own.Select(i => i == set ? 1.0 : 0)];
            Tensor spread = new Gather().Apply(made.Reshape([at.Length, wide]), scope.Of([samples], place));
            Tensor part = new ScaleRows().Apply(spread, scope.Of([samples], mine, made.DType.ForParameters()));
            int[] sizes = [.. made.Shape];
            sizes[0] = sizes[0] / at.Length * samples;
            y = y is null ? part.Reshape(Shape.Of(sizes)) : new Add().Apply(y, part.Reshape(Shape.Of(sizes)));
        }
        return y!;
    }

    /// <summary>Samples of x, one after the other.</summary>
    private static Tensor Taken(Tensor x, int[] at, int samples, int each, Scope scope)
    {
        int[] sizes = [.. x.Shape];
        sizes[0] = at.Length * each;
        int wide = checked((int)(x.Shape.Count / samples));
        if (x.DType == DType.I32)
        {
            int[] ids = x.ToInts();
            return scope.Of(Shape.Of(sizes), [.. at.SelectMany(i => ids.AsSpan(i * wide, wide).ToArray())]);
        }
        return new Gather().Apply(x.Reshape([samples, wide]), scope.Of([at.Length], at)).Reshape(Shape.Of(sizes));
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
