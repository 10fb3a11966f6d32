namespace LowRank.Models.Blocks;

/// <summary>Attention and a feed-forward with residuals. Norms before: h += attention(norm(h)); h += mlp(norm(h)). Norms after: h = norm(h + attention(h));
/// h = norm(h + mlp(h)).</summary>
internal sealed class TransformerLayer(SelfAttention attention, Norm first, FeedForward mlp, Norm second, bool normsAfter = false)
{
    /// <summary>With norms before: another one of what attention adds to h.</summary>
    public Norm? AfterAttention { get; init; }

    /// <summary>The same of what the feed-forward adds.</summary>
    public Norm? AfterMlp { get; init; }

    /// <summary>With norms before: both see the layer's input, h += attention(norm(h)) + mlp(norm(h)).</summary>
    public bool IsParallel { get; init; }

    public Tensor Forward(Tensor h, AttentionContext context)
    {
        if (normsAfter)
        {
            h = first.Forward(new Add().Apply(attention.Forward(h, context), h));
            return second.Forward(new Add().Apply(mlp.Forward(h), h));
        }
        Tensor seen = Normed(attention.Forward(first.Forward(h), context), AfterAttention), attended = new Add().Apply(seen, h);
        return new Add().Apply(Normed(mlp.Forward(second.Forward(IsParallel ? h : attended)), AfterMlp), attended);
    }

    private static Tensor Normed(Tensor x, Norm? norm) => norm is null ? x : norm.Forward(x);
}
