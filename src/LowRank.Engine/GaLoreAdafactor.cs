namespace LowRank;

/// <summary>GaLore as the official Adafactor: second moments are the row and column means of the projected gradient's squares, g the gradient over their
/// root, u = g / max(1, rms(g)/Threshold), d = -lrₜ·u, and W -= lrₜ·wd·W goes before the step. lrₜ is the learning rate, or min(10⁻², 1/√t) where it is
/// relative, times max(LeastSize, rms(W)) of the whole matrix where it follows the size. Everything else is trained by the same rule unprojected.</summary>
public sealed class GaLoreAdafactor : GaLoreOptimizer
{
    private const string Average = "exp_avg";
    private readonly StepTable<Factored> plainTable, lowTable;
    private readonly StepTable<Segment> wholes;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="projected">Matrices whose gradients are projected; null: every matrix.</param>
    /// <exception cref="ShapeException">One of them is no matrix: names it.</exception>
    public GaLoreAdafactor(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter>? projected = null)
        : base(parameters, projected)
    {
        int most = parameters.Sum(p => Adafactor.Matrices(p.Value.Shape));
        (plainTable, lowTable) = (new(Pack.Store, most), new(Pack.Store, most));
        wholes = new StepTable<Segment>(Pack.Store, parameters.Count);
    }

    /// <summary>Decay of the average of steps, which is taken in place of the step; null: no average.</summary>
    public double? Beta1 { get; init; }

    /// <summary>The moments' share of a new gradient at step t is t to the power of minus this.</summary>
    public double MomentDecay { get; init; } = 0.8;

    /// <summary>Least mean of the second moments and least root of one. The official code adds it to every square, which the float64 of its goldens cannot tell.</summary>
    public double Epsilon { get; init; } = 1e-30;

    /// <summary>Least size of a parameter, to which its step is relative.</summary>
    public double LeastSize { get; init; } = 1e-3;

    /// <summary>The update is scaled down to this root mean square.</summary>
    public double Threshold { get; init; } = 1;

    /// <summary>The learning rate follows from the number of the step, not from <see cref="Optimizer.LearningRate"/>.</summary>
    public bool Relative { get; init; }

    /// <summary>Where the learning rate is relative: at most 10⁻⁶·t instead of 10⁻².</summary>
    public bool Warmup { get; init; }

    /// <summary>The learning rate is relative to the root mean square of the parameter.</summary>
    public bool FollowsSize { get; init; }

    private protected override bool Decays => true;

    private protected override void Validate()
    {
        Require(!(LearningRate >= 0), $"LearningRate is {LearningRate}, want 0 or more");
        Require(!(Beta1 is null or (>= 0 and < 1)), $"Beta1 is {Beta1}, want none, or 0 or more and less than 1");
        Require(!(MomentDecay > 0 && Threshold > 0 && Epsilon >= 0), $"MomentDecay is {MomentDecay}, Threshold {Threshold} and Epsilon {Epsilon}, want more than 0, and Epsilon at least 0");
    }

    private protected override Shape? MomentShape(string state, Shape shape) => state == Average ? Beta1 is null ? null : shape : Adafactor.MomentShape(state, shape);

    private protected override void Move(StepData step, Tensor values, nint gradients, IReadOnlyList<Piece> pieces, bool low)
    {
        foreach (IGrouping<long, Piece> alike in pieces.GroupBy(piece => StepOf(piece.Index)))
        {
            Move(step, alike.Key, values, gradients, [.. alike], low);
        }
    }

    /// <summary>The pieces whose step has the number <paramref name="t"/>.</summary>
    private void Move(StepData step, long t, Tensor values, nint gradients, IReadOnlyList<Piece> pieces, bool low)
    {
        using Scope scope = values.Device.BeginScope();
        long from = pieces[0].Start, to = pieces[^1].Start + pieces[^1].Shape.Count;
        Tensor moves = scope.NewZeros([checked((int)(to - from))], values.DType);
        double[] rates = Rates(pieces, t, scope);
        // The kernel's own rate is min(lr, 1/√t) times the size of what it moves; for zeros and a least size of 1 that is 1/√t.
        Factored[] tensors = [.. pieces.SelectMany((piece, i) => Adafactor.Tensors(Pack, piece.Index, piece.Shape, piece.Start, rates[i] * Math.Sqrt(t), 0))];
        values.Device.Launch(Kernels.Adafactor, new AdafactorArgs
        {
            P = moves.Data - (nint)(from * values.DType.Size()),
            G = gradients,
            Row = Pack.State(Adafactor.Row).Data,
            Col = Pack.State(Adafactor.Col).Data,
            Tensors = (low ? lowTable : plainTable).Of(tensors),
            Norm2 = step.Norm2.Data,
            Lr = 1,
            Decay = MomentDecay,
            Eps1 = Epsilon,
            Eps2 = 1,
            Threshold = Threshold,
            MaxNorm = MaxGradientNorm,
            Step = t,
            TotalRows = tensors.Sum(t => t.Rows),
            TensorCount = tensors.Length,
            DType = values.DType,
        });
        for (int i = 0; i < pieces.Count; i++)
        {
            Parameter p = Pack.Parameters[pieces[i].Index];
            Tensor move = Part(moves, pieces[i] with { Start = pieces[i].Start - from });
            if (DecayOf(p) * rates[i] is > 0 and var decay)
            {
                Add(p.Value, -decay, p.Value);
            }
            if (Beta1 is { } kept)
            {
                Tensor average = Pack.StateOf(Average, p);
                Add(average, kept - 1, average);
                Add(average, kept - 1, move);       // the average is of what is subtracted
                Add(Part(values, pieces[i]), -1, average);
            }
            else
            {
                Add(Part(values, pieces[i]), 1, move);
            }
        }
    }

    private double[] Rates(IReadOnlyList<Piece> pieces, long t, Scope scope)
    {
        double rate = Relative ? Math.Min(Warmup ? 1e-6 * t : 1e-2, 1 / Math.Sqrt(t)) : LearningRate;
        double[] sizes = [.. pieces.Select(_ => 1.0)];
        if (FollowsSize)
        {
            Segment[] runs = [.. pieces.Select(piece => new Segment { Start = Pack.Start(piece.Index), Count = Pack.Parameters[piece.Index].Value.Shape.Count })];
            nint table = wholes.Of(runs);
            Tensor squares = scope.New([runs.Length], DType.F64);
            for (int i = 0; i < runs.Length; i++)
            {
                squares.Device.Launch(Kernels.SquareSum, new SquareSumArgs
                {
                    G = Pack.Values.Data,
                    Segments = table + (i * System.Runtime.CompilerServices.Unsafe.SizeOf<Segment>()),
                    Norm2 = squares.Data + (i * sizeof(double)),
                    SegmentCount = 1,
                    DType = Pack.Values.DType,
                });
            }
            sizes = [.. squares.ToDoubles().Select((sum, i) => Math.Max(LeastSize, Math.Sqrt(sum / runs[i].Count)))];
        }
        return [.. pieces.Select((piece, i) => rate * Pack.Parameters[piece.Index].LearningRateScale * sizes[i])];
    }
}
