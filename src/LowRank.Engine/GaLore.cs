namespace LowRank;

/// <summary>GaLore as the official AdamW: d is the late form of AdamW on the projected gradient.</summary>
public sealed class GaLore : GaLoreOptimizer
{
    private const string First = "exp_avg", Second = "exp_avg_sq";
    private readonly StepTable<Segment> plainTable, lowTable;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="projected">Matrices whose gradients are projected; null: every matrix.</param>
    /// <exception cref="ShapeException">One of them is no matrix: names it.</exception>
    public GaLore(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter>? projected = null)
        : base(parameters, projected)
    {
        plainTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
        lowTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
    }

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v before its bias is corrected.</summary>
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>No bias correction.</summary>
    public bool Uncorrected { get; init; }

    private protected override void Validate() => RequireAdam(Beta1, Beta2, Epsilon);

    private protected override Shape? MomentShape(string state, Shape shape) => state is First or Second ? shape : null;

    private protected override void Move(StepData step, Tensor values, nint gradients, IReadOnlyList<Piece> pieces, bool low)
    {
        if (pieces.Count == 0)
        {
            return;
        }
        Segment[] segments = [.. pieces.Select(piece => new Segment
        {
            Start = piece.Start,
            Count = piece.Shape.Count,
            State = Pack.StateStart(First, piece.Index),
            Paused = PausedOf(piece.Index),
            LrScale = Pack.Parameters[piece.Index].LearningRateScale,
            WeightDecay = piece.WeightDecay,
        })];
        values.Device.Launch(Kernels.AdamW, new AdamWArgs
        {
            P = values.Data,
            G = gradients,
            M = Pack.State(First).Data,
            V = Pack.State(Second).Data,
            Segments = (low ? lowTable : plainTable).Of(segments),
            Norm2 = step.Norm2.Data,
            Lr = LearningRate,
            Beta1 = Beta1,
            Beta2 = Beta2,
            Eps = Epsilon,
            MaxNorm = MaxGradientNorm,
            Step = Steps,
            SegmentCount = segments.Length,
            Late = 1,
            Uncorrected = Uncorrected ? 1 : 0,
            DType = values.DType,
        });
    }
}
