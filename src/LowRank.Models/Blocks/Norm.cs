namespace LowRank.Models.Blocks;

/// <summary>LayerNorm with weight [d] and bias [d]: x [..., d] → the same shape.</summary>
internal sealed class Norm
{
    private readonly Parameter weight, bias;
    private readonly LayerNorm op;

    public Norm(PretrainedModel model, Place place, int d, double epsilon)
    {
        weight = model.Weight(place.At("weight"), [d], Init.Ones);
        bias = model.Weight(place.At("bias"), [d], Init.Zeros);
        op = new LayerNorm(epsilon);
    }

    public Tensor Forward(Tensor x) => op.Apply(x, weight, bias);
}
