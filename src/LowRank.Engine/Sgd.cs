namespace LowRank;

/// <summary>SGD as torch computes it: g += wd·p; buf = g at first, then momentum·buf + (1-dampening)·g; p -= lr·(Nesterov ? g + momentum·buf : buf).</summary>
public sealed class Sgd : Optimizer
{
    /// <summary>Packs the parameters.</summary>
    public Sgd(IReadOnlyList<Parameter> parameters)
        : base(parameters)
    {
    }

    /// <summary>Decay of the momentum buffer; 0 keeps none.</summary>
    public double Momentum { get; init; }

    /// <summary>Damping of the gradient that enters the buffer.</summary>
    public double Dampening { get; init; }

    /// <summary>Looks one step ahead. Needs momentum and no dampening.</summary>
    public bool Nesterov { get; init; }

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        if (Nesterov && (Momentum <= 0 || Dampening != 0))
        {
            throw new ShapeException($"Sgd: Nesterov with momentum {Momentum} and dampening {Dampening}, want momentum above 0 and no dampening");
        }
        Pack.Values.Device.Launch(Kernels.Sgd, new SgdArgs
        {
            P = Pack.Values.Data,
            G = Pack.GradientData,
            Buf = Momentum > 0 ? Pack.State("momentum_buffer").Data : 0,
            Segments = step.Segments,
            Norm2 = step.Norm2.Data,
            Progress = step.Progress,
            Lr = LearningRate,
            Momentum = Momentum,
            Dampening = Dampening,
            MaxNorm = MaxGradientNorm,
            Step = Steps,
            SegmentCount = step.SegmentCount,
            Nesterov = Nesterov ? 1 : 0,
            DType = Pack.Values.DType,
        });
    }
}
