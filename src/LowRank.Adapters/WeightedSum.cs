namespace LowRank.Adapters;

/// <summary>One LoRA of several, as <see cref="CombineOptions"/> says; computed in float64 on the host.</summary>
internal sealed class WeightedSum
{
    private readonly (AdaptedModel Set, double Weight)[] parts;
    private readonly CombineOptions options;
    private readonly Rng rng;
    private int masks;

    public WeightedSum((AdaptedModel Set, double Weight)[] parts, CombineOptions options)
    {
        this.parts = parts;
        this.options = options = options.LikePeft && parts.Length == 1 ? options with { Kind = Combination.Linear } : options;     // as PEFT takes one part
        rng = new Rng(options.Seed).Fork("combine");
        int[] ranks = [.. Configs.Select(RankOf)];
        if (parts.Length == 0 || parts.Any(p => p.Set.Config is not LoraConfig) || parts.Any(p => !double.IsFinite(p.Weight)))
        {
            throw Bad("the parts", $"[{string.Join(", ", parts.Select(p => $"{p.Set.Config.Method} x {p.Weight}"))}]", "adapters of type LORA with finite weights, at least one");
        }
        if (parts.Any(p => p.Set.Whole.Any() || ((LoraConfig)p.Set.Config).LoraBias || p.Set.ChangesBase))
        {
            throw Bad("a part", "more than A and B: whole modules, biases, or a start that changed the base weights", "what a weighted sum is defined for");
        }
        if (parts.Any(p => p.Set.Adapters.Any(a => a.Site.Kind == SiteKind.Stack || a.TiedTo is not null)))
        {
            throw Bad("a part", "on bare parameters or tied words", "layers with a matrix and a product of their own");
        }
        if (options.Rank < 1 || !(options.Density > 0 && options.Density <= 1))
        {
            throw Bad("Rank and Density", $"{options.Rank} and {options.Density}", "at least 1, and above 0 to 1");
        }
        if (options.OnFactors && ranks.Distinct().Count() > 1)
        {
            throw Bad("the rank of the parts", string.Join(", ", ranks), $"one for all: PEFT's {options.Kind} sums A and B apart");
        }
        Rank = options.OnFactors ? ranks[0] : options.Rank is { } rank && (options.IsSvd || !IsExact) ? rank : options.IsSvd ? ranks.Max() : ranks.Sum();
    }

    private int Rank { get; }

    private IEnumerable<LoraConfig> Configs => parts.Select(p => p.Set.Config).OfType<LoraConfig>();

    /// <summary>A sum of products is one of stacked factors.</summary>
    private bool IsExact => options.Kind is Combination.Cat or Combination.Linear && parts.All(p => p.Set.Adapters.All(IsFactored));

    /// <summary>The new set on <paramref name="model"/>, beside the parts.</summary>
    public AdaptedModel Build(Model model)
    {
        var result = new AdaptedModel(model, Settings(model), 0, shares: true);
        try
        {
            foreach (Adapter adapter in result.Adapters)
            {
                (HostMatrix a, HostMatrix b) = Factors(adapter.Site);
                adapter.Parameters[0].Value.Set(a.Values);
                adapter.Parameters[1].Value.Set(b.Values);
            }
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    private static int RankOf(LoraConfig config) => config.RankPattern.Values.Select(r => (int)r).Append(config.Rank).Max();

    private LoraConfig Settings(Model model)
    {
        LoraConfig first = Configs.First();
        var none = new Dictionary<string, double>();
        LoraConfig settings = first with { Rank = Rank, Alpha = Rank, RankPattern = none, AlphaPattern = none, Targets = Together([.. Configs.Select(c => c.Targets!)]) };
        if (!options.LikePeft)
        {
            settings = settings with { RankStabilized = false, Dora = false, Init = LoraInit.Default };
        }
        Site[] wanted = [.. model.Sites.Where(s => parts.Any(p => p.Set.Adapters.Any(a => a.Site == s)))];
        bool fits = settings.Targets is not null && TargetRules.Select(settings, model).SequenceEqual(wanted);
        return fits ? settings : settings with { Targets = Names.Of([.. wanted.Select(s => s.Path)]), Exclude = null, LayersToTransform = null, LayersPattern = null };
    }

    /// <summary>Names as one list, expressions as alternatives; null where there are both.</summary>
    private static Names? Together(Names[] targets) =>
        targets.All(t => !t.IsPattern) ? Names.Of([.. targets.SelectMany(t => t).Distinct().Order(StringComparer.Ordinal)])
        : targets.All(t => t.IsPattern) && targets.DistinctBy(t => t.Expression).Count() == 1 ? targets[0]
        : targets.All(t => t.IsPattern && t.Expression != Names.AllLinear.Expression) ? Names.Pattern(string.Join("|", targets.Select(t => $"({t.Expression})")))
        : null;

    /// <summary>A [Rank, in] and B [out, Rank] of a layer; an embedding's width counts as out.</summary>
    private (HostMatrix A, HostMatrix B) Factors(Site site)
    {
        (Adapter Adapter, double Weight)[] here = [.. parts.Select(p => (p.Set.Adapters.FirstOrDefault(a => a.Site == site), p.Weight)).Where(p => p.Item1 is not null).Select(p => (p.Item1!, p.Weight))];
        if (options.OnFactors)
        {
            (HostMatrix A, HostMatrix B, double Scale)[] factors = [.. here.Select(p => Product(p.Adapter))];
            double[] v = [.. here.Select((p, i) => p.Weight * factors[i].Scale)];
            return (Merged([.. factors.Select(f => f.A)], [.. v.Select(x => Math.Sign(x) * Math.Sqrt(Math.Abs(x)))]), Merged([.. factors.Select(f => f.B)], [.. v.Select(x => Math.Sqrt(Math.Abs(x)))]));
        }
        bool summed = options.Kind is Combination.Cat or Combination.Linear or Combination.Svd && here.All(p => options.LikePeft || IsFactored(p.Adapter));
        if (summed)
        {
            (HostMatrix a, HostMatrix b) = Stacked([.. here.Select(p => (Product(p.Adapter), p.Weight))]);
            return options.Kind == Combination.Svd ? HostMatrix.Truncated(a, b, Rank) : (Padded(a, Rank, a.Cols), Padded(b, b.Rows, Rank));
        }
        return Merged([.. here.Select(p => Delta(p.Adapter))], [.. here.Select(p => p.Weight)]).Truncated(Rank);
    }

    private static bool IsFactored(Adapter adapter) => adapter.Factors is not null;

    /// <summary>A, B and s of a LoRA; DoRA's magnitudes aside.</summary>
    private static (HostMatrix A, HostMatrix B, double Scale) Product(Adapter adapter)
    {
        AdapterFactors delta = ((Lora)adapter).Delta;
        return (HostMatrix.Of(delta.A), HostMatrix.Of(delta.B), delta.Scale);
    }

    /// <summary>ΔW as [out, in]; of an embedding transposed.</summary>
    private HostMatrix Delta(Adapter adapter)
    {
        if (options.LikePeft || IsFactored(adapter))
        {
            (HostMatrix a, HostMatrix b, double scale) = Product(adapter);
            return b.Times(a).Scaled(scale);
        }
        using Scope scope = adapter.Site.Weight.Value.Device.BeginScope();
        Tensor w = adapter.Site.WeightMatrix();
        HostMatrix delta = HostMatrix.Of(new Add(-1).Apply(adapter.EffectiveWeight().Reshape(w.Shape), w));
        return adapter.Site.Kind == SiteKind.Embedding ? delta.Transposed() : delta;
    }

    /// <summary>[wᵢ·sᵢ·Aᵢ] under each other, [Bᵢ] side by side.</summary>
    private static (HostMatrix A, HostMatrix B) Stacked(((HostMatrix A, HostMatrix B, double Scale) Factors, double Weight)[] parts)
    {
        int rank = parts.Sum(p => p.Factors.A.Rows), at = 0;
        HostMatrix a = HostMatrix.Zeros(rank, parts[0].Factors.A.Cols), b = HostMatrix.Zeros(rank, parts[0].Factors.B.Rows);
        foreach ((var factors, double weight) in parts)
        {
            factors.A.Scaled(weight * factors.Scale).Values.CopyTo(a.Values, at * a.Cols);
            factors.B.Transposed().Values.CopyTo(b.Values, at * b.Cols);
            at += factors.A.Rows;
        }
        return (a, b.Transposed());
    }

    private static HostMatrix Padded(HostMatrix matrix, int rows, int cols)
    {
        HostMatrix padded = HostMatrix.Zeros(rows, cols);
        for (int i = 0; i < matrix.Rows; i++)
        {
            matrix.Row(i).CopyTo(padded.Row(i));
        }
        return padded;
    }

    /// <summary>Pruning or dropping, then the weighted sum, or the mean of those that agree with the elected sign.</summary>
    private HostMatrix Merged(HostMatrix[] tensors, double[] weights)
    {
        HostMatrix[] pruned = options.Density == 1 ? tensors
            : options.Drops ? [.. tensors.Select(Dropped)]
            : options.Prunes ? [.. tensors.Select(Pruned)]
            : tensors;
        HostMatrix sum = HostMatrix.Zeros(tensors[0].Rows, tensors[0].Cols);
        for (int i = 0; i < sum.Values.Length; i++)
        {
            double election = 0, total = 0;
            foreach (HostMatrix tensor in pruned)
            {
                election += options.MajoritySign == MajoritySign.Total ? tensor.Values[i] : Math.Sign(tensor.Values[i]);
            }
            int sign = election >= 0 ? 1 : -1, agree = 0;
            for (int p = 0; p < pruned.Length; p++)
            {
                if (!options.ElectsSigns || Math.Sign(pruned[p].Values[i]) == sign)
                {
                    total += weights[p] * pruned[p].Values[i];
                    agree++;
                }
            }
            sum.Values[i] = options.ElectsSigns ? total / Math.Max(1, agree) : total;
        }
        return sum;
    }

    private HostMatrix Pruned(HostMatrix tensor)
    {
        double[] kept = [.. tensor.Values];
        Magnitudes.KeepLargest(kept, (int)(options.Density * kept.Length));
        return tensor with { Values = kept };
    }

    private HostMatrix Dropped(HostMatrix tensor)
    {
        byte[]? mask = options.Masks?.Invoke(masks);
        var draws = new double[mask is null ? tensor.Values.Length : 0];
        rng.Fork($"mask {masks++}").FillUniform(draws, 0, 1);
        return tensor with { Values = [.. tensor.Values.Select((v, i) => (mask is null ? draws[i] < options.Density : mask[i] != 0) ? v / options.Density : 0)] };
    }

    private static AdapterConfigException Bad(string what, string got, string want) => new($"Combine: {what} is {got}, want {want}");
}
