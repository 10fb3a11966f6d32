namespace LowRank;

/// <summary>y = x·σ(1.702 x), the GELU of CLIP (arXiv 1606.08415). Elementwise; x → y of the same shape and type.</summary>
public sealed record QuickGelu : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.QuickGeluForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.QuickGeluBackward;
}
