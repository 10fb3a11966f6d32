using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>The feed-forward of a layer: x [..., d] → the same shape.</summary>
internal interface ILayerMlp
{
    Tensor Forward(Tensor x, AttentionContext context);
}

/// <summary>Two linear layers with an activation between: x [..., d] → [..., d] through [..., inner]; with a gate, activation(gate x) ⊙ (up x) between. A fused
/// up projection holds gate and up in this order.</summary>
internal sealed class FeedForward : ILayerMlp
{
    private readonly Site up, down;
    private readonly Site? gate;
    private readonly Op activation;
    private readonly int? split;

    public FeedForward(PretrainedModel model, Place up, Place down, int width, int inner, Op activation, bool bias = true, bool transposed = false, Place? gate = null, bool fused = false)
    {
        split = fused ? inner : null;
        this.gate = gate is { } place ? model.Linear(place, inner, width, bias) : null;
        this.up = model.Linear(up, fused ? 2 * inner : inner, width, bias, transposed: transposed);
        this.down = model.Linear(down, width, inner, bias, transposed: transposed);
        this.activation = activation;
    }

    public Tensor Forward(Tensor x, AttentionContext context) => down.Forward(Inner(x));

    private Tensor Inner(Tensor x)
    {
        if (gate is not null)
        {
            return Site.Gated(gate, up, (Gated)activation, x);
        }
        Tensor both = up.Forward(x);
        return split is { } inner ? activation.Apply(new Columns(0, inner).Apply(both), new Columns(inner, inner).Apply(both)) : activation.Apply(both);
    }
}
