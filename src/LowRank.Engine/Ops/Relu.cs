namespace LowRank;

/// <summary>y = max(x, 0). Elementwise; x → y of the same shape and type.</summary>
public sealed record Relu : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.ReluForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.ReluBackward;
}
