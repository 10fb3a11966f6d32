using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>LoHa (arXiv 2108.06098, as LyCORIS 2309.14859 has it): dW = (w1_a·w1_b) ⊙ (w2_a·w2_b), of rank up to r².</summary>
public sealed record LohaConfig() : LycorisConfig("LOHA")
{
    /// <summary>w2_b starts at zero, where W_eff = W; false: all are random.</summary>
    [JsonPropertyName("init_weights")]
    public bool InitWeights { get; init; } = true;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Loha(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site)
    {
        long rank = RankOf(site), taps = Taps(site);
        return 2 * rank * (IsEffective(site) ? site.Outputs + (site.Inputs / taps) + (rank * taps) : site.Outputs + site.Inputs);
    }
}

/// <summary>w1_a, w2_a [out,r] and w1_b, w2_b [r, in·kh·kw]; in the effective form w1_a, w2_a [r,out], w1_b, w2_b [r,in] and t1, t2 [r,r,kh,kw]. dW is formed
/// once a call and the layer is one product with W_eff: cheaper than a second product with dW.</summary>
internal sealed class Loha : Lycoris
{
    private readonly Parameter a1, b1, a2, b2;
    private readonly Parameter? t1, t2;

    public Loha(LohaConfig config, Site site, Rng rng, Scope store)
        : base(config, site, rng, store, rescales: true)
    {
        int rank = config.RankOf(site);
        Shape w = site.Weight.Value.Shape, a = IsEffective ? [rank, site.Outputs] : [site.Outputs, rank], b = [rank, IsEffective ? w[1] : site.Inputs];
        a1 = Declare("hada_w1_a", a, zero: false, rng);
        b1 = Declare("hada_w1_b", b, zero: false, rng);
        a2 = Declare("hada_w2_a", a, zero: false, rng);
        b2 = Declare("hada_w2_b", b, zero: config.InitWeights, rng);
        if (IsEffective)
        {
            t1 = Declare("hada_t1", [rank, rank, w[2], w[3]], zero: false, rng);
            t2 = Declare("hada_t2", [rank, rank, w[2], w[3]], zero: false, rng);
        }
    }

    protected override Tensor Add(Tensor w, Tensor? kept)
    {
        Tensor delta = new Mul().Apply(Factor(a1, b1, t1), Factor(a2, b2, t2));
        return new Add(Scale).Apply(w, kept is null ? delta : new ScaleRows().Apply(delta, kept));
    }

    private static Tensor Factor(Parameter a, Parameter b, Parameter? t) => t is null ? new MatMul().Apply(a, b) : Effective(t, a, b);
}
