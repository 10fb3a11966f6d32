namespace LowRank;

/// <summary>y = x·σ(x) (arXiv 1702.03118). Elementwise; x → y of the same shape and type.</summary>
public sealed record Silu : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.SiluForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.SiluBackward;
}
