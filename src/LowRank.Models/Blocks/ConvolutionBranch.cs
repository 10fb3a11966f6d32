using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>y = norm(h + activation(mask ⊙ conv(x))): x and h [batch, tokens, d], the convolution along the tokens, edges zero.</summary>
internal sealed class ConvolutionBranch(PretrainedModel model, Place place, int d, int size, Op activation, LayerNorm op)
{
    private readonly Site convolution = model.Convolution1d(place.At("conv"), d, d, size, stride: 1);
    private readonly Norm norm = new(model, place.At("LayerNorm"), d, op);

    public Tensor Forward(Tensor x, Tensor h, AttentionContext context)
    {
        Tensor y = new Transpose().Apply(convolution.Forward(new Transpose().Apply(x)));
        return norm.Forward(new Add().Apply(activation.Apply(context.Relative!.Masked(y)), h));
    }
}
