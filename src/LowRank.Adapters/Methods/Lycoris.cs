using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Settings that LoHa and LoKr share: W_eff = W + s·dW, s = Alpha/Rank, dW made of small matrices.</summary>
public abstract record LycorisConfig(string Method) : AdapterConfig(Method)
{
    /// <summary>r: columns and rows of the small matrices.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 8;

    /// <summary>Numerator of the scale s.</summary>
    [JsonPropertyName("alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 8;

    /// <summary>Other ranks by pattern: the first key that matches the end of a path counts.</summary>
    [JsonPropertyName("rank_pattern"), JsonConverter(typeof(NumberMapConverter))]
    public IReadOnlyDictionary<string, double> RankPattern { get; init; } = NoPattern;

    /// <summary>Other values of <see cref="Alpha"/>, as <see cref="RankPattern"/>.</summary>
    [JsonPropertyName("alpha_pattern"), JsonConverter(typeof(NumberMapConverter))]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = NoPattern;

    /// <summary>Share of the rows of dW that a step of training leaves out.</summary>
    [JsonPropertyName("rank_dropout"), JsonConverter(typeof(FloatConverter))]
    public double RankDropout { get; init; }

    /// <summary>Share of the calls in training that leave dW out.</summary>
    [JsonPropertyName("module_dropout"), JsonConverter(typeof(FloatConverter))]
    public double ModuleDropout { get; init; }

    /// <summary>Kernels of more than 1×1 as F = Σ_ij t[i,j,:,:]·a[i,out]·b[j,in], t [r,r,kh,kw], a [r,out], b [r,in] (arXiv 2108.06098, proposition 3).</summary>
    [JsonPropertyName("use_effective_conv2d")]
    public bool EffectiveConvolution { get; init; }

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind is SiteKind.Linear or SiteKind.Conv2d;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        foreach ((string pattern, double rank) in RankPattern)
        {
            RequireRank($"rank_pattern {pattern}", rank);
        }
        RequireFinite("alpha", Alpha, "alpha_pattern", AlphaPattern);
        RequireShare("rank_dropout", RankDropout);
        RequireShare("module_dropout", ModuleDropout);
    }

    /// <summary>Rank of a layer after <see cref="RankPattern"/>.</summary>
    public int RankOf(Site site) => (int)TargetRules.FirstMatch(RankPattern, site, Rank);

    /// <summary>Scale s of a layer after the patterns.</summary>
    public double ScaleOf(Site site) => TargetRules.FirstMatch(AlphaPattern, site, Alpha) / RankOf(site);

    /// <summary>True for a convolution with kernels of more than 1×1 that takes the effective form.</summary>
    internal bool IsEffective(Site site) => EffectiveConvolution && site.Kind == SiteKind.Conv2d && Taps(site) > 1;

    /// <summary>kh·kw of a convolution, 1 of a linear layer.</summary>
    internal static int Taps(Site site) => site.Inputs / site.Weight.Value.Shape[1];
}

/// <summary>What LoHa and LoKr share: the layer on rows, and what training drops.</summary>
internal abstract class Lycoris : Adapter
{
    private readonly LycorisConfig config;
    private readonly Rng draws;
    private readonly bool rescales;
    private readonly double trained;        // s as the settings say
    private long calls;

    /// <param name="config">The settings.</param>
    /// <param name="site">The layer.</param>
    /// <param name="rng">Of the layer.</param>
    /// <param name="store">Memory of the adapter's tensors.</param>
    /// <param name="rescales">The rows that rank_dropout keeps are divided by their share.</param>
    protected Lycoris(LycorisConfig config, Site site, Rng rng, Scope store, bool rescales)
        : base(site, store)
    {
        (this.config, this.rescales) = (config, rescales);
        draws = rng.Fork("dropout");
        trained = Scale = config.ScaleOf(site);
        IsEffective = config.IsEffective(site);
    }

    /// <summary>s as it is applied.</summary>
    protected double Scale { get; private set; }

    /// <summary>True for the effective form of a convolution.</summary>
    protected bool IsEffective { get; }

    public override Tensor EffectiveWeight() => Add(Site.WeightMatrix(), null).Reshape(Site.Weight.Value.Shape);

    public override Tensor Forward(Tensor x)
    {
        Rng? call = x.Device.Current is Tape tape && (config.RankDropout > 0 || config.ModuleDropout > 0) ? draws.Fork($"{Step}.{tape.Next(ref calls)}") : null;
        if (call?.Uniform(Site.Outputs) < config.ModuleDropout)
        {
            return Site.BaseForward(x);
        }
        Tensor? kept = call is null || config.RankDropout == 0 ? null : Kept(call);
        return Site.Kind == SiteKind.Conv2d ? Site.FromPatches(Rows(Site.Patches(x), kept), x) : Rows(x, kept);
    }

    protected override bool TakesStrength(double strength)
    {
        Scale = strength * trained;
        return true;
    }

    /// <summary>W + s·dW [out, in·kh·kw], rows of dW times <paramref name="kept"/> [out].</summary>
    protected abstract Tensor Add(Tensor w, Tensor? kept);

    /// <summary>The layer on rows x [..., in·kh·kw].</summary>
    protected virtual Tensor Rows(Tensor x, Tensor? kept) => new Linear().Apply(x, Add(Site.WeightMatrix(), kept), Site.Bias?.Value);

    /// <summary>F [out, in·kh·kw] of the effective form.</summary>
    protected static Tensor Effective(Tensor t, Tensor a, Tensor b)
    {
        (int r, int taps, int outputs, int inputs) = (t.Shape[0], t.Shape[2] * t.Shape[3], a.Shape[1], b.Shape[1]);
        Tensor left = new MatMul(TransposeA: true).Apply(a, t.Reshape([r, r * taps])).Reshape([outputs, r, taps]);             // Σ_i a[i,o]·t[i,j,:]
        Tensor turned = new Transpose().Apply(left).Reshape([outputs * taps, r]);
        return new Transpose().Apply(new MatMul().Apply(turned, b).Reshape([outputs, taps, inputs])).Reshape([outputs, inputs * taps]);
    }

    /// <summary>Declares a matrix, uniform on ±1/√columns or zero.</summary>
    protected Parameter Declare(string suffix, Shape shape, bool zero, Rng rng) =>
        Declare(suffix, (zero ? Init.Zeros : Init.KaimingUniform(Math.Sqrt(5))).Make(Store, rng.Fork(suffix), shape, Precision));

    internal override void StartStep(long step)
    {
        base.StartStep(step);
        calls = 0;
    }

    private Tensor Kept(Rng call)
    {
        double[] rows = [.. Enumerable.Range(0, Site.Outputs).Select(row => call.Uniform(row) > config.RankDropout ? 1.0 : 0)];
        double share = rescales && rows.Any(v => v > 0) ? rows.Average() : 1;
        return Site.Weight.Value.Device.Current!.Of([Site.Outputs], [.. rows.Select(v => v / share)], Precision);
    }
}
