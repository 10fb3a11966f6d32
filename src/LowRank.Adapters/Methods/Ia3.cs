using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>(IA)³ (arXiv 2205.05638): one trained factor a channel. Feed-forward layers scale their inputs, W_eff = W·diag(l); others their outputs,
/// W_eff = diag(l)·W with bias l ⊙ b.</summary>
public sealed record Ia3Config() : AdapterConfig("IA3")
{
    /// <summary>Those of the targets whose inputs are scaled: ends of paths, or an expression that a whole path must match.</summary>
    [JsonPropertyName("feedforward_modules")]
    public Names? FeedForward { get; init; }

    /// <summary>Factors start at 1, where W_eff = W; false: at normal numbers.</summary>
    [JsonPropertyName("init_ia3_weights")]
    public bool InitWeights { get; init; } = true;

    /// <summary>The stored weights are [in, out] (GPT-2). Sites hold them transposed already; kept for the file.</summary>
    [JsonPropertyName("fan_in_fan_out")]
    public bool FanInFanOut { get; init; }

    /// <inheritdoc/>
    internal override IReadOnlyList<string> OwnKeys => ["layers_pattern", "layers_to_transform"];

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind is SiteKind.Linear or SiteKind.Conv2d;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Ia3(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => Channels(site);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (FeedForward is { IsPattern: false } inner && Targets is { IsPattern: false } && inner.Except(Targets).FirstOrDefault() is { } alone)
        {
            throw Bad("feedforward_modules", $"{inner}", $"names of target_modules {Targets}, {alone} is none of them");
        }
    }

    /// <summary>Number of factors of a layer.</summary>
    internal int Channels(Site site) => ScalesInputs(site) ? site.Weight.Value.Shape[1] : site.Outputs;

    /// <summary>True where the inputs are scaled. PEFT takes any end of a path here, without a dot before it.</summary>
    internal bool ScalesInputs(Site site) => FeedForward is { } names && TargetRules.Paths(site)
        .Any(path => names.IsPattern ? TargetRules.Whole(names.Expression, path) : names.Any(name => path.EndsWith(name, StringComparison.Ordinal)));
}

/// <summary>l [1,in] where inputs are scaled, else [out,1]; of a convolution [1,channels,1,1].</summary>
internal sealed class Ia3 : Adapter
{
    private readonly bool inputs;
    private readonly Parameter l;
    private readonly Tensor? channelOf;     // of a convolution's inputs: the channel of each tap [in·kh·kw]

    public Ia3(Ia3Config config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        inputs = config.ScalesInputs(site);
        int channels = config.Channels(site);
        Shape shape = site.Kind == SiteKind.Conv2d ? [1, channels, 1, 1] : inputs ? [1, channels] : [channels, 1];
        l = Declare("ia3_l", (config.InitWeights ? Init.Ones : Init.Normal(1)).Make(store, rng, shape, Precision));
        channelOf = inputs && site.Kind == SiteKind.Conv2d
            ? store.Of([site.Inputs], [.. Enumerable.Range(0, site.Inputs).Select(tap => tap / (site.Inputs / channels))])
            : null;
    }

    /// <summary>The factors along the rows that a layer multiplies [in·kh·kw], or along its outputs [out].</summary>
    private Tensor LayerScale => channelOf is null ? Flat : new Gather().Apply(l.Value.Reshape([Flat.Shape[0], 1]), channelOf).Reshape([Site.Inputs]);

    private Tensor Flat => l.Value.Reshape([checked((int)l.Value.Shape.Count)]);

    public override Tensor EffectiveWeight()
    {
        Tensor w = Site.WeightMatrix();
        return (inputs ? new Mul().Apply(w, LayerScale) : new ScaleRows().Apply(w, LayerScale)).Reshape(Site.Weight.Value.Shape);
    }

    public override Tensor? EffectiveBias() => inputs || Site.Bias is null ? null : new Mul().Apply(Site.Bias, Flat);

    public override Tensor Forward(Tensor x)
    {
        Tensor rows = Site.Kind == SiteKind.Conv2d ? Site.Patches(x) : x, w = Site.Weight.Value;
        rows = inputs ? new Mul().Apply(rows, LayerScale) : rows;
        Tensor y = new Linear().Apply(rows, Site.Kind == SiteKind.Conv2d ? w.Reshape([Site.Outputs, Site.Inputs]) : w, Site.Bias?.Value);
        y = inputs ? y : new Mul().Apply(y, LayerScale);
        return Site.Kind == SiteKind.Conv2d ? Site.FromPatches(y, x) : y;
    }
}
