namespace LowRank;

/// <summary>y = √x, with gradient 0 where x is 0, as a norm has at the origin. Elementwise; x → y of the same shape and type.</summary>
public sealed record Sqrt : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.SqrtForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.SqrtBackward;
}
