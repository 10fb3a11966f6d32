using System.Diagnostics;

namespace LowRank.Adapters;

/// <summary>How the layers of a model are compressed and what makes up for it.</summary>
public sealed record CompressionOptions
{
    /// <summary>Rounding of the weights; null: none.</summary>
    public RowGrid? Grid { get; init; }

    /// <summary>Weights that are set to 0, before any rounding; null: none.</summary>
    public SparsePattern? Pattern { get; init; }

    /// <summary>Rank of the compensation; a layer with a smaller side has that rank.</summary>
    public int Rank { get; init; } = 128;

    /// <summary>What the error is weighed by.</summary>
    public EoraMode Mode { get; init; }

    /// <summary>Weights of the samples.</summary>
    public MomentAverage Average { get; init; }

    /// <summary>Least eigenvalue of a second moment as a share of its largest; 0: none.</summary>
    public double Floor { get; init; }

    /// <summary>Layers, by the rules of adapters' targets.</summary>
    public Names Targets { get; init; } = Names.AllLinear;

    /// <summary>The type that compressed weights are rounded to, that of the file they will lie in; null: the weights' own.</summary>
    public DType? StoredAs { get; init; }

    internal int RankOf(Site site) => Math.Min(Rank, Math.Min(site.Outputs, site.Inputs));

    internal IReadOnlyList<Site> Select(Model model)
    {
        if (Grid is null && Pattern is null)
        {
            throw new AdapterConfigException("CompressionOptions: neither Grid nor Pattern is given, want at least one");
        }
        Grid?.Validate();
        if (Rank < 1)
        {
            throw new AdapterConfigException($"CompressionOptions: Rank is {Rank}, want at least 1");
        }
        IReadOnlyList<Site> sites = TargetRules.Select(new LoraConfig { Targets = Targets }, model);
        if (sites.FirstOrDefault(s => s.Kind != SiteKind.Linear || s.Weight.Value.IsQuantized || s.Adapter is not null) is { } wrong)
        {
            throw new AdapterConfigException($"CompressionOptions: Targets names {wrong.Path}, {(wrong.Kind != SiteKind.Linear ? $"a layer of kind {wrong.Kind}" : wrong.Adapter is not null ? "which has an adapter" : $"whose weight is {wrong.Weight.Value}")}, want linear layers with plain weights");
        }
        foreach (Site site in sites)
        {
            Pattern?.Validate(site.Inputs);
        }
        return sites;
    }
}

/// <summary>What became of a layer.</summary>
/// <param name="Path">Its path.</param>
/// <param name="Outputs">Rows of W.</param>
/// <param name="Inputs">Columns of W.</param>
/// <param name="Rank">Of its compensation.</param>
/// <param name="Before">Squared error of its outputs on the calibration data as a share of their squares, with Wq alone.</param>
/// <param name="After">The same with Wq + B·A.</param>
/// <param name="Replaced">Eigenvalues of H that were negative or below the floor.</param>
/// <param name="Time">For its compression and factors.</param>
public sealed record CompressedLayer(string Path, int Outputs, int Inputs, int Rank, double Before, double After, int Replaced, TimeSpan Time);

/// <summary>A model whose layers hold compressed weights Wq, and the factors of EoRA that make up for the loss.</summary>
public sealed class CompressedModel
{
    private readonly Model model;
    private readonly List<(Site Site, double[] A, double[] B)> factors = [];
    private readonly List<CompressedLayer> layers = [];

    private CompressedModel(Model model) => this.model = model;

    /// <summary>The layers in the model's order.</summary>
    public IReadOnlyList<CompressedLayer> Layers => layers;

    /// <summary>Compresses a model block by block (methods/eora: algorithm): the samples run through the model with the blocks before compensated and the
    /// block's own weights as they were; from what reaches its layers follow Wq and B·A. The whole model runs once a block and sample. At the end the layers
    /// hold Wq. A run that fails or is cancelled leaves the model as it was.</summary>
    /// <param name="model">Its linear layers are compressed in place.</param>
    /// <param name="data">A sample a batch.</param>
    /// <param name="options">How.</param>
    /// <param name="progress">Told of each layer.</param>
    /// <param name="cancellation">Ends the work between two samples or layers.</param>
    /// <exception cref="AdapterConfigException">An option is out of range or does not fit a layer.</exception>
    /// <exception cref="NumericException">No data reaches a layer, or its second moment has no factors: names the layer.</exception>
    public static CompressedModel Compress(Model model, Calibration data, CompressionOptions options, IProgress<CompressedLayer>? progress = null, CancellationToken cancellation = default)
    {
        IReadOnlyList<Site> sites = options.Select(model);
        var made = new CompressedModel(model);
        List<(Parameter Weight, Tensor Before, Tensor After)> changed = [];
        using Scope between = model.Device.NewStore();     // compensated weights, while later blocks are calibrated
        try
        {
            foreach (Site[] block in Blocks(sites))
            {
                Dictionary<Site, InputMoments> moments = Watch(model, data, block, options.Average, cancellation);
                foreach (Site site in block)
                {
                    cancellation.ThrowIfCancellationRequested();
                    Tensor before = site.Weight.Value;
                    (Tensor after, Tensor compensated) = made.Compress(site, moments[site], options, between);
                    changed.Add((site.Weight, before, after));
                    site.Weight.Replace(compensated);
                    progress?.Report(made.layers[^1]);
                }
            }
        }
        catch
        {
            changed.ForEach(c => c.Weight.Replace(c.Before));
            throw;
        }
        changed.ForEach(c => c.Weight.Replace(c.After));
        HashSet<Parameter> own = [.. changed.Select(c => c.Weight)];
        Func<Parameter, Scope, Tensor?>? read = model.Original;
        model.Original = read is null ? null : (parameter, scope) => own.Contains(parameter) ? null : read(parameter, scope);     // no file holds Wq yet
        return made;
    }

    /// <summary>The layers that a run with these options would compress, and nothing done: errors are NaN.</summary>
    /// <exception cref="AdapterConfigException">An option is out of range or does not fit a layer.</exception>
    public static IReadOnlyList<CompressedLayer> Plan(Model model, CompressionOptions options) =>
        [.. options.Select(model).Select(s => new CompressedLayer(s.Path, s.Outputs, s.Inputs, options.RankOf(s), double.NaN, double.NaN, 0, default))];

    /// <summary>The compensation as LoRA on the compressed model, with scale 1: to be saved, or trained on from there.</summary>
    /// <param name="baseModel">Where the compressed model lies, for the adapter's settings.</param>
    public AdaptedModel Attach(string? baseModel = null)
    {
        int rank = layers.Max(l => l.Rank);
        Dictionary<string, double> lower = layers.Where(l => l.Rank < rank).ToDictionary(l => l.Path, l => (double)l.Rank);
        AdaptedModel adapted = model.Attach(new LoraConfig { Targets = Names.Of([.. layers.Select(l => l.Path)]), Rank = rank, Alpha = rank, RankPattern = lower, AlphaPattern = lower, BaseModel = baseModel });
        foreach ((Site site, double[] a, double[] b) in factors)
        {
            LoraPair pair = adapted.Adapters.OfType<Lora>().Single(l => l.Site == site).Pair;
            pair.A.Value.Set(a);
            pair.B.Value.Set(b);
        }
        return adapted;
    }

    private (Tensor After, Tensor Compensated) Compress(Site site, InputMoments moments, CompressionOptions options, Scope between)
    {
        var clock = Stopwatch.StartNew();
        using Scope scope = model.Device.BeginScope();
        try
        {
            Tensor w = site.WeightMatrix();
            double[] values = w.ToDoubles();
            values = options.Pattern?.Prune(values, moments.Squares) ?? values;
            values = options.Grid?.Round(values, site.Inputs).Values ?? values;
            DType own = site.Weight.Value.DType;
            Tensor stored = scope.Of(w.Shape, values, options.StoredAs ?? own).ConvertTo(own, scope), compressed = stored.ConvertTo(w.DType, scope);
            Tensor second = scope.Of([site.Inputs, site.Inputs], moments.Second);
            int rank = options.RankOf(site);
            EoraFactors found = options.Mode switch
            {
                EoraMode.Eigenspace => Eora.Of(w, compressed, second, rank, scope, options.Floor),
                EoraMode.Activation => Eora.Scaled(w, compressed, moments.Magnitudes, rank, scope, options.Floor),
                _ => Eora.Plain(w, compressed, rank, scope),
            };
            double signal = Eora.Error(w, scope.NewZeros(w.Shape, w.DType), null, second);
            double Share(EoraFactors? factors) => signal > 0 ? Eora.Error(w, compressed, factors, second) / signal : 0;
            factors.Add((site, found.A.ToDoubles(), found.B.ToDoubles()));
            Tensor whole = new AddMatMul(1).Apply(compressed, found.B, found.A).ConvertTo(own, scope);
            layers.Add(new CompressedLayer(site.Path, site.Outputs, site.Inputs, rank, Share(null), Share(found), found.Replaced, clock.Elapsed));
            Tensor Placed(Tensor rows, Scope target) => site.Weight.Value.IsPacked ? Packing.Pack(rows, target) : rows.CopyTo(target);
            return (Placed(stored, model.Store), Placed(whole, between));
        }
        catch (NumericException error)
        {
            throw new NumericException($"CompressedModel: {site.Path}: {error.Message}");
        }
    }

    /// <summary>What reaches the layers of a block; those that read one tensor share what is made of it.</summary>
    private static Dictionary<Site, InputMoments> Watch(Model model, Calibration data, Site[] block, MomentAverage average, CancellationToken cancellation)
    {
        var moments = new Dictionary<Site, InputMoments>();
        for (int i = 0; i < data.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var seen = new Dictionary<Tensor, InputMoments>(ReferenceEqualityComparer.Instance);
            data.WatchTensors(model.Device, i, block, (site, x) =>
            {
                if (seen.TryGetValue(x, out InputMoments? shared) && (!moments.TryGetValue(site, out InputMoments? had) || had == shared))
                {
                    moments[site] = shared;
                    return;
                }
                if (!moments.TryGetValue(site, out InputMoments? mine))
                {
                    moments.Add(site, mine = new InputMoments(site.Inputs, data.Count, average));
                }
                mine.Add(x);
                seen[x] = mine;
            });
        }
        return block.FirstOrDefault(site => !moments.ContainsKey(site)) is { } dry
            ? throw new NumericException($"CompressedModel: {dry.Path}: eora: no calibration data reaches the layer")
            : moments;
    }

    /// <summary>Layers of one numbered block after the other; a layer outside of all is a block of its own.</summary>
    private static IEnumerable<Site[]> Blocks(IReadOnlyList<Site> sites)
    {
        static string BlockOf(Site site)
        {
            string[] parts = site.Path.Split('.');
            int number = Array.FindIndex(parts, part => part.All(char.IsAsciiDigit));
            return number < 0 ? site.Path : string.Join('.', parts[..(number + 1)]);
        }
        return sites.GroupBy(BlockOf).Select(g => g.ToArray());
    }
}
