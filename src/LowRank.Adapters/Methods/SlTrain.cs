using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>SLTrain (arXiv 2406.02214): the layer's weight is sigma·B·A + S and nothing else, for pre-training: A [r,in], B [out,r], S of trunc(sp_ratio·out·in)
/// trained values at random places that never change; sigma = alpha/r, or tanh(theta) with theta trained from 1. W itself is never read, so that a layer starts
/// as S alone, and <see cref="AdaptedModel.ReleaseBase"/> gives W's memory back. A bias of the layer is drawn anew and trained. The drawn places go into the file.</summary>
public sealed record SlTrainConfig() : AdapterConfig("SLTRAIN")
{
    /// <summary>r.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 128;

    /// <summary>sigma = alpha/r.</summary>
    [JsonPropertyName("alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 32;

    /// <summary>Share of W's elements in the sparse part.</summary>
    [JsonPropertyName("sp_ratio")]
    public double Density { get; init; } = 0.01;

    /// <summary>sigma is tanh(theta).</summary>
    [JsonPropertyName("trainable_scaling")]
    public bool TrainsScale { get; init; }

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <summary>Values in the sparse part of a layer.</summary>
    /// <exception cref="AdapterConfigException">There are none, or the weight has more than 2^31 - 1 elements.</exception>
    public int Count(Site site)
    {
        long all = (long)site.Outputs * site.Inputs;
        string layer = $"{Density} for {site.Path} of [{site.Outputs}, {site.Inputs}]";
        return all > int.MaxValue ? throw Bad("sp_ratio", layer, $"a weight of at most {int.MaxValue} elements")
            : (int)(Density * all) is > 0 and var count ? count : throw Bad("sp_ratio", layer, "at least one value");
    }

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new SlTrain(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site) =>
        ((long)Rank * (site.Outputs + site.Inputs)) + Count(site) + (TrainsScale ? 1 : 0) + (site.Bias is null ? 0 : site.Outputs);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        if (!(Density > 0 && Density < 1))
        {
            throw Bad("sp_ratio", Density, "more than 0 and less than 1");
        }
        if (!double.IsFinite(Alpha))
        {
            throw Bad("alpha", Alpha, "a finite number");
        }
    }
}

/// <summary>A, B, the values v at sorted places, theta and the bias. The low-rank part is two thin products; v takes its gradient at its places alone.</summary>
internal sealed class SlTrain : Adapter
{
    private readonly double scale;
    private readonly Tensor places;
    private readonly Parameter a, b, v;
    private readonly Parameter? theta, bias;

    public SlTrain(SlTrainConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        int count = config.Count(site);
        scale = config.TrainsScale ? 1 : config.Alpha / config.Rank;
        theta = config.TrainsScale ? Declare("sltrain_theta", Init.Ones.Make(store, rng, [1], Precision)) : null;
        a = Declare("sltrain_A", Init.KaimingUniform(Math.Sqrt(5)).Make(store, rng.Fork("sltrain_A"), [config.Rank, site.Inputs], Precision));
        b = Declare("sltrain_B", Init.Zeros.Make(store, rng, [site.Outputs, config.Rank], Precision));
        v = Declare("sltrain_v", Init.Uniform(1 / Math.Sqrt(site.Inputs)).Make(store, rng.Fork("sltrain_v"), [count], Precision));
        bias = site.Bias is null ? null : Declare("sltrain_bias", Init.Uniform(1 / Math.Sqrt(site.Outputs)).Make(store, rng.Fork("sltrain_bias"), [site.Outputs], Precision));
        places = store.Of([count], Draw(rng.Fork("sltrain_idx"), count, checked(site.Outputs * site.Inputs)));
    }

    internal override bool ReplacesBase => true;

    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope) => [.. base.Saved(plain, scope), ("sltrain_idx", places)];

    internal override string? Fault
    {
        get
        {
            int[] found = places.ToInts();
            int limit = Site.Outputs * Site.Inputs, wrong = Array.FindIndex(found, place => (uint)place >= (uint)limit);
            int unsorted = Enumerable.Range(1, Math.Max(0, found.Length - 1)).FirstOrDefault(j => found[j] <= found[j - 1]);
            return wrong >= 0 ? $"has place {found[wrong]} in {Path}.sltrain_idx, want 0 .. {limit - 1}"
                : unsorted > 0 ? $"has place {found[unsorted]} after {found[unsorted - 1]} in {Path}.sltrain_idx, want them sorted and each once"
                : null;
        }
    }

    /// <summary>A, and with trained scaling tanh(theta)·A.</summary>
    private Tensor A => theta is null ? a : new Mul().Apply(a, new Tanh().Apply(theta));

    public override Tensor EffectiveWeight() => new AddSparse().Apply(new MatMul(Scale: scale).Apply(b, A), v, places);

    public override Tensor? EffectiveBias() => bias?.Value;

    public override Tensor Forward(Tensor x) => new SparseLoraLinear(scale).Apply(x, A, b, v, places, bias?.Value);

    /// <summary>Sorted places, every choice of so many as likely as any other: each place is taken with the chance of what is wanted still among what is left.</summary>
    private static int[] Draw(Rng rng, int count, int all)
    {
        int[] places = new int[count];
        for (int place = 0, taken = 0; taken < count; place++)
        {
            if ((double)rng.Uniform(place) * (all - place) < count - taken)
            {
                places[taken++] = place;
            }
        }
        return places;
    }
}
