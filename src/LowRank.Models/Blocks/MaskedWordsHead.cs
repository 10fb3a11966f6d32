using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>logits = norm(activation(h·Wᵀ + b))·Eᵀ + bias with the word embeddings E [words, d]: h [T, d] → [T, words].</summary>
internal sealed class MaskedWordsHead(PretrainedModel model, Place dense, Place norm, Place bias, Site words, LayerNorm op, Op activation)
{
    private readonly Site dense = model.Linear(dense, words.Weight.Value.Shape[1], words.Weight.Value.Shape[1], bias: true);
    private readonly Norm norm = new(model, norm, words.Weight.Value.Shape[1], op);
    private readonly Parameter bias = model.Weight(bias, [words.Weight.Value.Shape[0]], Init.Zeros);

    public Tensor Forward(Tensor hidden) => new Linear().Apply(norm.Forward(activation.Apply(dense.Forward(hidden))), words.Weight, bias);
}
