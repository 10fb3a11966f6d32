using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>How EVA spends ranks, as PEFT's eva_config has it.</summary>
public sealed record EvaOptions
{
    /// <summary>A layer gets at most this many times its rank.</summary>
    [JsonPropertyName("rho"), JsonConverter(typeof(FloatConverter))]
    public double MostRankFactor { get; init; } = 2;

    /// <summary>Cosine between a component and what it was a batch before from which on it counts as found.</summary>
    [JsonPropertyName("tau"), JsonConverter(typeof(FloatConverter))]
    public double Similarity { get; init; } = 0.99;

    /// <summary>Whether tokens with <see cref="LabelMask"/> as their label are left out; <see cref="Calibration.Rows"/> does it.</summary>
    [JsonPropertyName("use_label_mask")]
    public bool UseLabelMask { get; init; } = true;

    /// <summary>The label of tokens to leave out.</summary>
    [JsonPropertyName("label_mask_value")]
    public int LabelMask { get; init; } = -100;

    /// <summary>Divide row i of A by the root of its singular value.</summary>
    [JsonPropertyName("whiten")]
    public bool Whiten { get; init; }

    /// <summary>Let alpha follow the rank, so that the scale of every layer stays what it was.</summary>
    [JsonPropertyName("adjust_scaling_factors")]
    public bool KeepScale { get; init; } = true;
}

/// <summary>EVA (arXiv 2410.07170): A [r,in] = the first principal components of the layer's inputs, B = 0; the sum of all ranks goes to the components that
/// explain the largest share of their layer's variance. Layers that read the same share one decomposition; batches come round until every component
/// that is needed stands still. Inputs of layers other than linear ones are not looked at.</summary>
internal sealed class Eva
{
    private const int MostBatches = 10_000;
    private readonly LoraConfig config;
    private readonly EvaOptions options;
    private readonly Calibration data;
    private readonly Device device;
    private readonly Site[] sites;                                 // linear ones: those with a decomposition of their own, then the others
    private readonly Dictionary<Site, Site> readers = [];          // whose decomposition a layer uses
    private readonly Dictionary<Site, IncrementalPca> components = [];
    private readonly Dictionary<Site, bool[]> found = [];
    private Dictionary<Site, int> ranks;

    private Eva(LoraConfig config, Device device, IReadOnlyList<Site> all, Calibration data)
    {
        (this.config, options, this.data, this.device) = (config, config.Eva ?? new(), data, device);
        Site[] linear = [.. all.Where(s => s.Kind == SiteKind.Linear)];
        var firsts = new Dictionary<string, Site>(StringComparer.Ordinal);
        var inputs = new Dictionary<Site, string>();
        data.Watch(device, 0, linear, (site, x) => inputs.TryAdd(site, Convert.ToHexString(SHA256.HashData(MemoryMarshal.AsBytes(x.AsSpan())))));
        foreach (Site site in linear)
        {
            if (!inputs.TryGetValue(site, out string? input))
            {
                throw new AdapterConfigException($"{nameof(LoraConfig)}: init_lora_weights is eva and batch 0 does not reach {site.Path}, want data that does, or other target_modules");
            }
            readers.Add(site, firsts.TryGetValue(input, out Site? other) ? other : firsts[input] = site);
        }
        sites = [.. firsts.Values.OrderBy(s => Array.IndexOf(linear, s)), .. linear.Where(s => readers[s] != s)];
        ranks = sites.ToDictionary(s => s, Most);
        foreach (Site site in firsts.Values)
        {
            components.Add(site, new IncrementalPca(device, Most(site), site.Inputs));
            found.Add(site, new bool[Most(site)]);
        }
    }

    /// <summary>Ranks and first values of A from the data.</summary>
    /// <exception cref="AdapterConfigException">A layer is not reached, or the components do not come to rest.</exception>
    public static CalibratedStart Start(LoraConfig config, Device device, IReadOnlyList<Site> sites, Calibration data)
    {
        var eva = new Eva(config, device, sites, data);
        eva.Fit();
        Site[] kept = [.. sites.Where(s => eva.ranks.GetValueOrDefault(s, 1) > 0)];
        int Rank(Site site) => eva.ranks.GetValueOrDefault(site, config.RankOf(site));
        double Alpha(Site site) => config.AlphaOf(site) * (eva.options.KeepScale ? (double)Rank(site) / config.RankOf(site) : 1);
        return new CalibratedStart(
            config with
            {
                Eva = eva.options,
                Targets = Names.Of([.. kept.Select(s => s.Path)]),
                RankPattern = kept.Where(s => Rank(s) != config.Rank).ToDictionary(s => s.Path, s => (double)Rank(s)),
                AlphaPattern = kept.Where(s => Alpha(s) != config.Alpha).ToDictionary(s => s.Path, Alpha),
            },
            kept.Where(eva.readers.ContainsKey).ToDictionary(s => $"{s.Path}.lora_A.weight", eva.FirstValues));
    }

    private void Fit()
    {
        for (int i = 0; ; i++)
        {
            Site[] moving = [.. components.Keys.Where(s => found[s].AsSpan(0, ranks[s]).Contains(false))];
            if (moving.Length == 0)
            {
                return;
            }
            if (i == MostBatches)
            {
                throw new AdapterConfigException($"{nameof(LoraConfig)}: eva_config: components of {moving[0].Path} still move after {i} batches, want more rows a batch, or a smaller tau than {options.Similarity}");
            }
            data.Watch(device, i % data.Count, moving, Look);
            if (components.Values.All(c => c.Rows > 0))
            {
                ranks = Spend();
            }
        }
    }

    private void Look(Site site, double[] x)
    {
        IncrementalPca pca = components[site];
        if (x.Length / pca.Width < Most(site))
        {
            return;
        }
        double[] before = pca.Components;
        pca.Add(x);
        for (int i = 0; before.Length > 0 && i < found[site].Length; i++)
        {
            double cosine = before.Skip(i * pca.Width).Take(pca.Width).Zip(pca.Components.Skip(i * pca.Width), (a, b) => a * b).Sum();
            found[site][i] = cosine >= options.Similarity;
        }
    }

    /// <summary>The whole budget to the components of the largest shares; of layers that share a decomposition the one that holds it gets the most.</summary>
    private Dictionary<Site, int> Spend()
    {
        Dictionary<Site, int> spent = sites.ToDictionary(s => s, _ => 0);
        foreach (Site site in sites.SelectMany(s => components[readers[s]].ExplainedVarianceRatio.Select(share => (Site: s, Share: share)))
            .OrderByDescending(c => c.Share).Take(sites.Sum(config.RankOf)).Select(c => c.Site))
        {
            spent[site]++;
        }
        foreach ((Site site, Site holder) in readers)
        {
            (spent[holder], spent[site]) = (Math.Max(spent[holder], spent[site]), Math.Min(spent[holder], spent[site]));
        }
        return spent;
    }

    private double[] FirstValues(Site site)
    {
        IncrementalPca pca = components[readers[site]];
        return [.. pca.Components.Take(ranks[site] * pca.Width).Select((v, i) => options.Whiten ? v / Math.Sqrt(pca.SingularValues[i / pca.Width]) : v)];
    }

    private int Most(Site site) => Math.Min(site.Inputs, (int)Math.Round(config.RankOf(site) * options.MostRankFactor));
}
