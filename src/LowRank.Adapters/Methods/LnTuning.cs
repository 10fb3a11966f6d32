namespace LowRank.Adapters;

/// <summary>Tuning of norms (arXiv 2312.11420): weight and bias of the targeted norms are trained as copies, and saved in the adapter's file.</summary>
public sealed record LnTuningConfig() : AdapterConfig("LN_TUNING")
{
    /// <inheritdoc/>
    internal override IReadOnlyList<string> OwnKeys => ["layers_pattern", "layers_to_transform"];

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Norm;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new LnTuning(site, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => site.Bias is null ? site.Outputs : 2 * site.Outputs;
}

/// <summary>W_eff [d] and the effective bias [d] are the trained copies.</summary>
internal sealed class LnTuning : Adapter
{
    private readonly Parameter weight;
    private readonly Parameter? bias;

    public LnTuning(Site site, Scope store)
        : base(site, store)
    {
        weight = Declare("ln_tuning_layers.weight", AdaptedModel.Trainable(site.Weight.Value, store));
        bias = site.Bias is { } own ? Declare("ln_tuning_layers.bias", AdaptedModel.Trainable(own.Value, store)) : null;
    }

    public override Tensor EffectiveWeight() => weight;

    public override Tensor? EffectiveBias() => bias?.Value;

    public override Tensor Forward(Tensor x) => Site.Normalization!.Apply(x, weight, bias?.Value);
}
