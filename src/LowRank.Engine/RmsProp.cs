namespace LowRank;

/// <summary>RMSprop as torch computes it: g += wd·p; v = α·v + (1-α)·g²; p -= lr·g/(√v + ε); centred: √(v - mean²), mean = α·mean + (1-α)·g;
/// with momentum p -= lr·buf, buf = momentum·buf + g/(√v + ε). One launch over the pack.</summary>
public sealed class RmsProp : Optimizer
{
    /// <summary>Packs the parameters.</summary>
    public RmsProp(IReadOnlyList<Parameter> parameters)
        : base(parameters)
    {
    }

    /// <summary>Decay α of the mean square.</summary>
    public double Alpha { get; init; } = 0.99;

    /// <summary>Added to the root.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Decay of the momentum buffer; 0 keeps none.</summary>
    public double Momentum { get; init; }

    /// <summary>Divides by the root of the variance in the place of the mean square.</summary>
    public bool Centered { get; init; }

    /// <inheritdoc/>
    protected override void Update(StepData step) => Pack.Values.Device.Launch(Kernels.RmsProp, new RmsPropArgs
    {
        P = Pack.Values.Data,
        G = Pack.GradientData,
        V = Pack.State("square_avg").Data,
        Mean = Centered ? Pack.State("grad_avg").Data : 0,
        Buf = Momentum > 0 ? Pack.State("momentum_buffer").Data : 0,
        Segments = step.Segments,
        Norm2 = step.Norm2.Data,
        Progress = step.Progress,
        Lr = LearningRate,
        Alpha = Alpha,
        Momentum = Momentum,
        Eps = Epsilon,
        MaxNorm = MaxGradientNorm,
        Step = Steps,
        SegmentCount = step.SegmentCount,
        DType = Pack.Values.DType,
    });
}
