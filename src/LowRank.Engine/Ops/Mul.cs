namespace LowRank;

/// <summary>y = x ⊙ z; z repeats over the leading dimensions of x.</summary>
public sealed record Mul : Binary
{
    private protected override Kernel<BinaryArgs> Forward => Kernels.MulForward;

    private protected override Kernel<BinaryGradArgs> Gradient => Kernels.MulBackward;
}
