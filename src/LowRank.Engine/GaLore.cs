namespace LowRank;

/// <summary>The side of a gradient [m,n] that <see cref="GaLore"/> projects.</summary>
public enum GaLoreSide
{
    /// <summary>The smaller one: right where m ≥ n, else left.</summary>
    Standard,
    /// <summary>The larger one: left where m ≥ n, else right.</summary>
    Reverse,
    /// <summary>g = Pᵀ·G, P [m,r].</summary>
    Left,
    /// <summary>g = G·Pᵀ, P [r,n].</summary>
    Right,
    /// <summary>g = Aᵀ·G·Bᵀ, A [m,r], B [r,n].</summary>
    Both,
}

/// <summary>GaLore (arXiv 2403.03507) as the official AdamW: the moments of a matrix [m,n] live in a projection of rank r of its gradient, whose factors are the
/// leading singular vectors of the gradient at steps 1, T+1, 2T+1 ...; W += α·back(d), d the late form of AdamW on the projected gradient, then W -= lr·wd·W.
/// Moments are kept over a change of the factors. Everything else is trained by the late form itself. The largest entry of every vector is positive
/// (the official signs are the library's).</summary>
public sealed class GaLore : Optimizer
{
    private const string First = "exp_avg", Second = "exp_avg_sq", OnLeft = "projector_left", OnRight = "projector_right";
    private readonly HashSet<Parameter> projected;
    private readonly StepTable<Segment> plainTable, lowTable;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="projected">Matrices whose gradients are projected; null: every matrix.</param>
    /// <exception cref="ShapeException">One of them is no matrix: names it.</exception>
    public GaLore(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter>? projected = null)
        : base(parameters)
    {
        this.projected = [.. projected ?? parameters.Where(p => p.Value.Shape.Rank == 2)];
        if (this.projected.FirstOrDefault(p => p.Value.Shape.Rank != 2) is { } other)
        {
            Dispose();
            throw new ShapeException($"GaLore: {other.Name} is {other.Value.Shape}, want a matrix to project");
        }
        plainTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
        lowTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
    }

    /// <summary>Rank r of the projection; a matrix with a smaller side has that rank.</summary>
    public int Rank { get; init; } = 128;

    /// <summary>Steps T between two changes of the factors.</summary>
    public int Gap { get; init; } = 200;

    /// <summary>Factor α on what is projected back.</summary>
    public double Scale { get; init; } = 0.25;

    /// <summary>What is projected.</summary>
    public GaLoreSide Side { get; init; }

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v before its bias is corrected.</summary>
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>No bias correction.</summary>
    public bool Uncorrected { get; init; }

    /// <summary>Finds the leading singular vectors of a gradient [m,n] at a step, at least r or min(m, n) of them, F32 or F64; null: the exact decomposition.
    /// <see cref="Randomized"/> is faster.</summary>
    public Func<Parameter, Tensor, long, Scope, SvdFactors>? Factors { get; init; }

    /// <summary>Leading vectors by a randomised range finder: close to the exact ones where singular values fall off. Depends on seed, parameter and step only.</summary>
    public static Func<Parameter, Tensor, long, Scope, SvdFactors> Randomized(int rank, ulong seed) => (parameter, gradient, step, scope) =>
        Svd.Top(gradient, Math.Min(rank, Math.Min(gradient.Shape[0], gradient.Shape[1])), scope, new Rng(seed).Fork($"{parameter.Name} {step}"));

    /// <inheritdoc/>
    public override Shape? StateShape(string state, Parameter parameter)
    {
        Shape shape = parameter.Value.Shape;
        bool low = projected.Contains(parameter);
        (bool left, bool right, int rank) = low ? Sides(shape) : default;
        return state switch
        {
            First or Second => low ? [left ? rank : shape[0], right ? rank : shape[1]] : shape,
            OnLeft when left => [shape[0], rank],
            OnRight when right => [rank, shape[1]],
            _ => null,
        };
    }

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        if (Rank < 1 || Gap < 1)
        {
            throw new ShapeException($"GaLore: Rank is {Rank} and Gap {Gap}, want at least 1");
        }
        Device device = Pack.Values.Device;
        device.RequireNotRecording("a step of GaLore");
        bool fresh = (Steps - 1) % Gap == 0 || !Pack.StateNames.Contains(First);
        using Scope scope = device.BeginScope();
        List<Segment> plain = [], low = [];
        List<Parameter> matrices = [];
        long count = 0;
        for (int i = 0; i < Pack.Parameters.Count; i++)
        {
            Parameter p = Pack.Parameters[i];
            if (p.Frozen || p.Gradient is null)
            {
                continue;
            }
            var segment = new Segment { State = Pack.StateStart(First, i), LrScale = p.LearningRateScale };
            if (projected.Contains(p))
            {
                matrices.Add(p);
                low.Add(segment with { Start = count, Count = StateShape(First, p)!.Value.Count });
                count += (low[^1].Count + 15) / 16 * 16;
            }
            else
            {
                plain.Add(segment with { Start = Pack.Start(i), Count = p.Value.Shape.Count, WeightDecay = p.WeightDecay ?? WeightDecay });
            }
        }
        Tensor gradients = scope.New([checked((int)Math.Max(1, count))], Pack.Values.DType), moves = scope.NewZeros(gradients.Shape, gradients.DType);
        for (int i = 0; i < matrices.Count; i++)
        {
            if (fresh)
            {
                Refresh(matrices[i], scope);
            }
            Project(matrices[i], Part(gradients, low[i]), scope);
        }
        Move(step, Pack.Values, Pack.Gradients, plainTable, [.. plain]);
        Move(step, moves, gradients, lowTable, [.. low]);
        for (int i = 0; i < matrices.Count; i++)
        {
            Apply(matrices[i], Part(moves, low[i]), scope);
        }
    }

    private static Tensor Part(Tensor block, Segment part) => block.Slice((int)part.Start, (int)part.Count);

    /// <summary>c [m,n] = scale·op(a)·op(b), or added to what c holds.</summary>
    private static void Product(Tensor a, bool turnA, Tensor b, bool turnB, Tensor c, int m, int n, double scale = 1, bool add = false) => a.Device.Launch(Kernels.MatMul, new MatMulArgs
    {
        A = a.Data,
        B = b.Data,
        C = c.Data,
        M = m,
        N = n,
        K = turnA ? a.Shape[0] : a.Shape[1],
        TransposeA = turnA ? 1 : 0,
        TransposeB = turnB ? 1 : 0,
        Scale = scale,
        DType = a.DType,
        Add = add ? 1u : 0u,
    });

    private (bool Left, bool Right, int Rank) Sides(Shape shape)
    {
        bool tall = shape[0] >= shape[1], right = Side switch
        {
            GaLoreSide.Standard => tall,
            GaLoreSide.Reverse => !tall,
            GaLoreSide.Left => false,
            _ => true,
        };
        return (!right || Side == GaLoreSide.Both, right, Math.Min(Rank, Math.Min(shape[0], shape[1])));
    }

    private void Refresh(Parameter p, Scope scope)
    {
        (bool left, bool right, int rank) = Sides(p.Value.Shape);
        Tensor gradient = p.Gradient!;
        Tensor wide = gradient.DType is DType.F32 or DType.F64 ? gradient : gradient.ConvertTo(DType.F32, scope);
        SvdFactors factors;
        try
        {
            factors = Factors?.Invoke(p, wide, Steps, scope) ?? Svd.Of(wide, scope, rank);
        }
        catch (NumericException error)
        {
            throw new NumericException($"GaLore: the gradient of {p.Name} at step {Steps} cannot be factored: {error.Message}");
        }
        if (left)
        {
            int m = p.Value.Shape[0], columns = factors.U.Shape[1];
            double[] u = factors.U.ToDoubles(), vectors = [.. Enumerable.Range(0, rank * m).Select(i => u[(i % m * columns) + (i / m)])];
            Svd.TurnPositive(vectors, m);
            Pack.StateOf(OnLeft, p).Set([.. Enumerable.Range(0, m * rank).Select(i => vectors[(i % rank * m) + (i / rank)])]);
        }
        if (right)
        {
            int n = p.Value.Shape[1];
            double[] vectors = factors.Vt.ToDoubles()[..(rank * n)];
            Svd.TurnPositive(vectors, n);
            Pack.StateOf(OnRight, p).Set(vectors);
        }
    }

    /// <summary>g = G·Pᵀ, Pᵀ·G or Aᵀ·G·Bᵀ.</summary>
    private void Project(Parameter p, Tensor g, Scope scope)
    {
        (int m, int n) = (p.Value.Shape[0], p.Value.Shape[1]);
        (bool left, bool right, int rank) = Sides(p.Value.Shape);
        Tensor gradient = p.Gradient!;
        if (left && right)
        {
            Tensor half = scope.New([m, rank], gradient.DType);      // G·Bᵀ
            Product(gradient, false, Pack.StateOf(OnRight, p), true, half, m, rank);
            Product(Pack.StateOf(OnLeft, p), true, half, false, g, rank, rank);
        }
        else if (right)
        {
            Product(gradient, false, Pack.StateOf(OnRight, p), true, g, m, rank);
        }
        else
        {
            Product(Pack.StateOf(OnLeft, p), true, gradient, false, g, rank, n);
        }
    }

    /// <summary>W += α·back(d), then its decay.</summary>
    private void Apply(Parameter p, Tensor d, Scope scope)
    {
        (int m, int n) = (p.Value.Shape[0], p.Value.Shape[1]);
        (bool left, bool right, int rank) = Sides(p.Value.Shape);
        Tensor low = d.Reshape(StateShape(First, p)!.Value);
        if (left && right)
        {
            Tensor half = scope.New([m, rank], d.DType);             // A·d
            Product(Pack.StateOf(OnLeft, p), false, low, false, half, m, rank);
            low = half;
        }
        (Tensor first, Tensor second) = right ? (low, Pack.StateOf(OnRight, p)) : (Pack.StateOf(OnLeft, p), low);
        Product(first, false, second, false, p.Value, m, n, Scale, add: true);
        double decay = LearningRate * p.LearningRateScale * (p.WeightDecay ?? WeightDecay);
        if (decay > 0)
        {
            p.Value.Device.Launch(Kernels.AddForward, new BinaryArgs
            {
                X = p.Value.Data,
                Z = p.Value.Data,
                Y = p.Value.Data,
                Count = p.Value.Shape.Count,
                Period = p.Value.Shape.Count,
                Alpha = -decay,
                DType = p.Value.DType,
                ZType = p.Value.DType,
            });
        }
    }

    private void Move(StepData step, Tensor values, Tensor gradients, StepTable<Segment> table, Segment[] segments)
    {
        if (segments.Length == 0)
        {
            return;
        }
        values.Device.Launch(Kernels.AdamW, new AdamWArgs
        {
            P = values.Data,
            G = gradients.Data,
            M = Pack.State(First).Data,
            V = Pack.State(Second).Data,
            Segments = table.Of(segments),
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
