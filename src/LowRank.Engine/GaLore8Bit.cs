namespace LowRank;

/// <summary>GaLore with the moments of the projected gradients in 8 bits: d is the step of <see cref="AdamW8Bit"/>, whose blocks run over the projected
/// gradient in row-major order. Other parameters are trained by <see cref="AdamW8Bit"/>'s rule.</summary>
public sealed class GaLore8Bit : GaLoreOptimizer
{
    private readonly CodedMoments moments;
    private readonly (StepTable<Segment> Segments, StepTable<long> Blocks) plainTables, lowTables;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="projected">Matrices whose gradients are projected; null: every matrix.</param>
    /// <exception cref="ShapeException">One of them is no matrix: names it.</exception>
    public GaLore8Bit(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter>? projected = null)
        : base(parameters, projected)
    {
        WeightDecay = 0.01;
        moments = new CodedMoments(Pack);
        (StepTable<Segment>, StepTable<long>) Tables() => (new(Pack.Store, Pack.Parameters.Count), new(Pack.Store, Pack.Parameters.Count));
        (plainTables, lowTables) = (Tables(), Tables());
    }

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v̂.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Elements of a projected gradient from which on its moments are codes.</summary>
    public long LeastSize { get; init; } = 4096;

    /// <inheritdoc/>
    public override DType? StateType(string state) => CodedMoments.TypeOf(state);

    private protected override void Validate() => RequireAdam(Beta1, Beta2, Epsilon);

    private protected override Shape? MomentShape(string state, Shape shape) => CodedMoments.ShapeOf(state, shape, LeastSize);

    private protected override void Move(StepData step, Tensor values, nint gradients, IReadOnlyList<Piece> pieces, bool low)
    {
        (StepTable<Segment> segments, StepTable<long> blocks) = low ? lowTables : plainTables;
        moments.Launch(
            new Adam8BitArgs { P = values.Data, G = gradients, Norm2 = step.Norm2.Data, Lr = LearningRate, Beta1 = Beta1, Beta2 = Beta2, Eps = Epsilon, MaxNorm = MaxGradientNorm, Step = Steps },
            segments,
            blocks,
            [.. pieces.Select(Row)]);
    }

    private (Segment, long) Row(Piece piece)
    {
        (long state, long first) = moments.PlaceOf(piece.Index);
        return (new Segment { Start = piece.Start, Count = piece.Shape.Count, State = state, Paused = PausedOf(piece.Index), LrScale = Pack.Parameters[piece.Index].LearningRateScale, WeightDecay = piece.WeightDecay }, first);
    }
}
