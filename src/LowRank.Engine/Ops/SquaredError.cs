namespace LowRank;

/// <summary>loss = Scale·mean((y - target)²); y and target of one shape → loss [1] in parameter precision.</summary>
public sealed record SquaredError(double Scale = 1) : MeanError(Scale)
{
    private protected override Kernel<SquaredErrorArgs> Forward => Kernels.SquaredErrorForward;

    private protected override Kernel<SquaredErrorGradArgs> Gradient => Kernels.SquaredErrorBackward;
}

/// <summary>loss = Scale·mean(log(1 + e^y) - target·y), the cross entropy of independent yes-no labels with logits y; y and target (0 .. 1) of one shape
/// → loss [1] in parameter precision.</summary>
public sealed record BinaryCrossEntropy(double Scale = 1) : MeanError(Scale)
{
    private protected override Kernel<SquaredErrorArgs> Forward => Kernels.BinaryCrossEntropyForward;

    private protected override Kernel<SquaredErrorGradArgs> Gradient => Kernels.BinaryCrossEntropyBackward;
}
