namespace LowRank;

/// <summary>y = x + Alpha·z; z repeats over the leading dimensions of x (biases, positions, residuals).</summary>
public sealed record Add(double Alpha = 1) : Binary
{
    private protected override Kernel<BinaryArgs> Forward => Kernels.AddForward;

    private protected override Kernel<BinaryGradArgs> Gradient => Kernels.AddBackward;

    private protected override double Factor => Alpha;
}
