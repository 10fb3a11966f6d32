namespace LowRank;

/// <summary>y = e^x. Elementwise; x → y of the same shape and type.</summary>
public sealed record Exp : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.ExpForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.ExpBackward;
}
