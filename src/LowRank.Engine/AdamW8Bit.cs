namespace LowRank;

/// <summary>AdamW with moments in 8 bits (arXiv 2110.02861), in bitsandbytes' blockwise arithmetic: p -= lr·√(1-β₂ᵗ)/(1-β₁ᵗ)·m/(√v + √(1-β₂ᵗ)·ε), then
/// p -= lr·wd·p. m and v are codes of two dynamic maps and a largest magnitude for every 256 elements, 2.03 bytes an element in place of 8; smaller
/// parameters keep floats. An element whose gradient is not finite loses its moments and stays as it is. One launch over the pack.</summary>
public sealed class AdamW8Bit : Optimizer
{
    private readonly CodedMoments moments;
    private readonly StepTable<Segment> segments;
    private readonly StepTable<long> blocks;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    public AdamW8Bit(IReadOnlyList<Parameter> parameters)
        : base(parameters)
    {
        WeightDecay = 0.01;
        moments = new CodedMoments(Pack);
        segments = new StepTable<Segment>(Pack.Store, parameters.Count);
        blocks = new StepTable<long>(Pack.Store, parameters.Count);
    }

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v̂.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Elements from which on a parameter's moments are codes.</summary>
    public long LeastSize { get; init; } = 4096;

    /// <inheritdoc/>
    public override Shape? StateShape(string state, Parameter parameter) => CodedMoments.ShapeOf(state, parameter.Value.Shape, LeastSize);

    /// <inheritdoc/>
    public override DType? StateType(string state) => CodedMoments.TypeOf(state);

    /// <inheritdoc/>
    private protected override bool CountsPauses => true;

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        RequireAdam(Beta1, Beta2, Epsilon);
        List<(Segment, long)> rows = [];
        for (int i = 0; i < Pack.Parameters.Count; i++)
        {
            Parameter p = Pack.Parameters[i];
            if (Pack.IsTrained(p))
            {
                (long state, long first) = moments.PlaceOf(i);
                rows.Add((new Segment { Start = Pack.Start(i), Count = p.Value.Shape.Count, State = state, Paused = PausedOf(i), LrScale = p.LearningRateScale, WeightDecay = p.WeightDecay ?? WeightDecay }, first));
            }
        }
        moments.Launch(
            new Adam8BitArgs { P = Pack.Values.Data, G = Pack.GradientData, Norm2 = step.Norm2.Data, Progress = step.Progress, Lr = LearningRate, Beta1 = Beta1, Beta2 = Beta2, Eps = Epsilon, MaxNorm = MaxGradientNorm, Step = Steps },
            segments,
            blocks,
            rows);
    }
}
