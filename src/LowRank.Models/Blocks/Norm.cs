using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>A norm with weight [d] and, for LayerNorm, bias [d]: x [..., d] → the same shape.</summary>
internal sealed class Norm(PretrainedModel model, Place place, int d, Normalization op)
{
    private readonly Site site = model.NormLayer(place, d, op);

    public Tensor Forward(Tensor x) => site.Forward(x);
}
