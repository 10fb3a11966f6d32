namespace LowRank.Models.Blocks;

/// <summary>Attention and a feed-forward with residuals. Norms before: h += attention(norm(h)); h += mlp(norm(h)). Norms after: h = norm(h + attention(h));
/// h = norm(h + mlp(h)).</summary>
internal sealed class TransformerLayer(SelfAttention attention, Norm first, FeedForward mlp, Norm second, bool normsAfter = false)
{
    public Tensor Forward(Tensor h, AttentionContext context)
    {
        if (normsAfter)
        {
            h = first.Forward(new Add().Apply(attention.Forward(h, context), h));
            return second.Forward(new Add().Apply(mlp.Forward(h), h));
        }
        h = new Add().Apply(attention.Forward(first.Forward(h), context), h);
        return new Add().Apply(mlp.Forward(second.Forward(h)), h);
    }
}
