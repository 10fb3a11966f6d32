namespace LowRank;

/// <summary>y = 1/(1 + e^-x). Elementwise; x → y of the same shape and type.</summary>
public sealed record Sigmoid : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.SigmoidForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.SigmoidBackward;
}
