namespace LowRank.Models.Blocks;

/// <summary>Attention and a feed-forward with residuals. Norms before: h += attention(norm(h)); h += mlp(norm(h)). Norms after: h = norm(h + attention(h));
/// h = norm(h + mlp(h)).</summary>
internal sealed class TransformerLayer(ILayerAttention attention, Norm first, ILayerMlp mlp, Norm second, bool normsAfter = false)
{
    /// <summary>With norms after: a convolution of the layer's input that joins its output.</summary>
    public ConvolutionBranch? Beside { get; init; }

    /// <summary>With norms before: another one of what attention adds to h.</summary>
    public Norm? AfterAttention { get; init; }

    /// <summary>The same of what the feed-forward adds.</summary>
    public Norm? AfterMlp { get; init; }

    /// <summary>With norms before: factor [d] of what attention adds to h.</summary>
    public Parameter? AttentionScale { get; init; }

    /// <summary>The same of what the feed-forward adds.</summary>
    public Parameter? MlpScale { get; init; }

    /// <summary>With norms before: attention to what an encoder made, between the two, h += across(norm(h)).</summary>
    public (SelfAttention Attention, Norm Norm)? Across { get; init; }

    /// <summary>With norms before: both see the layer's input, h += attention(norm(h)) + mlp(norm(h)).</summary>
    public bool IsParallel { get; init; }

    public Tensor Forward(Tensor h, AttentionContext context)
    {
        if (normsAfter)
        {
            Tensor x = h;
            h = first.Forward(new Add().Apply(attention.Forward(h, context), h));
            h = second.Forward(new Add().Apply(mlp.Forward(h, context), h));
            return Beside is null ? h : Beside.Forward(x, h, context);
        }
        Tensor seen = Scaled(Normed(attention.Forward(first.Forward(h), context), AfterAttention), AttentionScale), attended = new Add().Apply(seen, h);
        attended = Across is { } across ? new Add().Apply(across.Attention.Across(across.Norm.Forward(attended), context), attended) : attended;
        return new Add().Apply(Scaled(Normed(mlp.Forward(second.Forward(IsParallel ? h : attended), context), AfterMlp), MlpScale), attended);
    }

    private static Tensor Scaled(Tensor x, Parameter? by) => by is null ? x : new Mul().Apply(x, by);

    private static Tensor Normed(Tensor x, Norm? norm) => norm is null ? x : norm.Forward(x);
}
