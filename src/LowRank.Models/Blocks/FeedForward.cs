using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>Two linear layers with an activation between: x [..., d] → [..., d] through [..., inner].</summary>
internal sealed class FeedForward
{
    private readonly Site up, down;
    private readonly Op activation;

    public FeedForward(PretrainedModel model, Place up, Place down, int width, int inner, Op activation)
    {
        this.up = model.Linear(up, inner, width, bias: true);
        this.down = model.Linear(down, width, inner, bias: true);
        this.activation = activation;
    }

    public Tensor Forward(Tensor x) => down.Forward(activation.Apply(up.Forward(x)));
}
