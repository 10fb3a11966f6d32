using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>Two linear layers with an activation between: x [..., d] → [..., d] through [..., inner]; with a gate, activation(gate x) ⊙ (up x) between.</summary>
internal sealed class FeedForward
{
    private readonly Site up, down;
    private readonly Site? gate;
    private readonly Op activation;

    public FeedForward(PretrainedModel model, Place up, Place down, int width, int inner, Op activation, bool bias = true, bool transposed = false, Place? gate = null)
    {
        this.gate = gate is { } place ? model.Linear(place, inner, width, bias) : null;
        this.up = model.Linear(up, inner, width, bias, transposed: transposed);
        this.down = model.Linear(down, width, inner, bias, transposed: transposed);
        this.activation = activation;
    }

    public Tensor Forward(Tensor x) => down.Forward(gate is null ? activation.Apply(up.Forward(x)) : activation.Apply(gate.Forward(x), up.Forward(x)));
}
