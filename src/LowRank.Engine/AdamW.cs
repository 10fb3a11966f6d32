namespace LowRank;

/// <summary>AdamW (arXiv 1711.05101) as torch computes it: p -= lr·wd·p; m, v with bias correction; p -= lr·m̂/(√v̂ + ε). One launch over the pack.</summary>
public class AdamW : Optimizer
{
    /// <summary>Packs the parameters.</summary>
    public AdamW(IReadOnlyList<Parameter> parameters)
        : base(parameters) => WeightDecay = 0.01;

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v̂.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Adam with L2: wd·p joins the gradient instead of shrinking p.</summary>
    public bool Coupled { get; init; }

    /// <summary>As transformers' own AdamW had it, which LoRA-FA and GaLore keep: p -= lr·√(1-β₂ᵗ)/(1-β₁ᵗ)·m/(√v + ε), and p -= lr·wd·p after that.</summary>
    public bool Late { get; init; }

    /// <summary>No bias correction.</summary>
    public bool Uncorrected { get; init; }

    /// <inheritdoc/>
    private protected override bool CountsPauses => true;

    /// <inheritdoc/>
    protected override void Update(StepData step) => Pack.Values.Device.Launch(Kernels.AdamW, new AdamWArgs
    {
        P = Pack.Values.Data,
        G = Pack.GradientData,
        M = Pack.State("exp_avg").Data,
        V = Pack.State("exp_avg_sq").Data,
        Segments = step.Segments,
        Norm2 = step.Norm2.Data,
        Progress = step.Progress,
        Lr = LearningRate,
        Beta1 = Beta1,
        Beta2 = Beta2,
        Eps = Epsilon,
        MaxNorm = MaxGradientNorm,
        Step = Steps,
        SegmentCount = step.SegmentCount,
        Coupled = Coupled ? 1 : 0,
        Late = Late ? 1 : 0,
        Uncorrected = Uncorrected ? 1 : 0,
        DType = Pack.Values.DType,
    });
}
