using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>A norm with weight [d] and, for LayerNorm, bias [d]: x [..., d] → the same shape. Gemma's weights count from one: it multiplies by 1 + weight, and no
/// adapter takes its place.</summary>
internal sealed class Norm(PretrainedModel model, Place place, int d, Normalization op, bool fromOne = false)
{
    private readonly Site? site = fromOne ? null : model.NormLayer(place, d, op);
    private readonly Parameter? weight = fromOne ? model.Weight(place.At("weight"), [d], Init.Zeros) : null;
    private readonly Tensor? one = fromOne ? model.Constant(1) : null;

    public Tensor Forward(Tensor x) => site is not null ? site.Forward(x) : op.Apply(x, new Add().Apply(weight!, one));
}
