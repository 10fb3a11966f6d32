namespace LowRank.Models.Blocks;

/// <summary>A norm with weight [d] and, for LayerNorm, bias [d]: x [..., d] → the same shape.</summary>
internal sealed class Norm
{
    private readonly Parameter weight;
    private readonly Parameter? bias;
    private readonly Normalization op;

    public Norm(PretrainedModel model, Place place, int d, Normalization op)
    {
        weight = model.Weight(place.At("weight"), [d], Init.Ones);
        bias = op is LayerNorm ? model.Weight(place.At("bias"), [d], Init.Zeros) : null;
        this.op = op;
    }

    public Tensor Forward(Tensor x) => op.Apply(x, weight, bias?.Value);
}
