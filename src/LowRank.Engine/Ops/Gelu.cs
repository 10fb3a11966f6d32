namespace LowRank;

/// <summary>y = x/2·(1 + erf(x/√2)), the exact GELU (arXiv 1606.08415). Elementwise; x → y of the same shape and type.</summary>
public sealed record Gelu : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.GeluForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.GeluBackward;
}
