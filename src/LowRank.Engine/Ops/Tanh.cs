namespace LowRank;

/// <summary>y = tanh(x). Elementwise; x → y of the same shape and type.</summary>
public sealed record Tanh : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.TanhForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.TanhBackward;
}
