using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>How an architecture's attention differs in size and kind from the next.</summary>
internal readonly record struct AttentionShape(int Width, int Heads, bool Bias, bool Causal = false);

/// <summary>Names of the four projections: module path and path in the file, each beside the block's own.</summary>
internal sealed record AttentionNames(Place Query, Place Key, Place Value, Place Output);

/// <summary>Multi-head self-attention: x [batch, tokens, d] → the same shape, y = concat_h softmax(q_h·k_hᵀ/√dim) v_h · W_oᵀ + b_o.</summary>
internal sealed class SelfAttention
{
    private readonly Site query, key, value, output;
    private readonly Attention op;

    public SelfAttention(PretrainedModel model, AttentionNames names, AttentionShape shape)
    {
        query = model.Linear(names.Query, shape.Width, shape.Width, shape.Bias);
        key = model.Linear(names.Key, shape.Width, shape.Width, shape.Bias);
        value = model.Linear(names.Value, shape.Width, shape.Width, shape.Bias);
        output = model.Linear(names.Output, shape.Width, shape.Width, bias: true);
        op = new Attention(shape.Heads, shape.Causal);
    }

    /// <summary>Mask U8 [batch, tokens]: 0 bars a token; null lets all be seen.</summary>
    public Tensor Forward(Tensor x, Tensor? mask = null) => output.Forward(op.Apply(query.Forward(x), key.Forward(x), value.Forward(x), mask));
}
