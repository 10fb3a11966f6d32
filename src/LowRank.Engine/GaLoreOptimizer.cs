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

/// <summary>GaLore (arXiv 2403.03507): the moments of a matrix [m,n] live in a projection of rank r of its gradient, whose factors are the leading singular
/// vectors of the gradient at its steps 1, T+1, 2T+1 ...; W += α·back(d), d the step that the projected gradient leads to, then W -= lr·wd·W. Moments are kept over
/// a change of the factors. Everything else is trained by the same rule unprojected. The largest entry of every vector is positive (the official signs are
/// the library's).</summary>
public abstract class GaLoreOptimizer : Optimizer
{
    private const string OnLeft = "projector_left", OnRight = "projector_right";
    private readonly HashSet<Parameter> projected;
    private long opened;        // the last step that was begun
    private bool without;       // it began without any factors

    private protected GaLoreOptimizer(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter>? projected)
        : base(parameters)
    {
        this.projected = [.. projected ?? parameters.Where(p => p.Value.Shape.Rank == 2)];
        if (this.projected.FirstOrDefault(p => p.Value.Shape.Rank != 2) is { } other)
        {
            Dispose();
            throw new ShapeException($"{GetType().Name}: {other.Name} is {other.Value.Shape}, want a matrix to project");
        }
    }

    /// <summary>Rank r of the projection; a matrix with a smaller side has that rank.</summary>
    public int Rank { get; init; } = 128;

    /// <summary>Steps T between two changes of the factors.</summary>
    public int Gap { get; init; } = 200;

    /// <summary>Factor α on what is projected back.</summary>
    public double Scale { get; init; } = 0.25;

    /// <summary>What is projected.</summary>
    public GaLoreSide Side { get; init; }

    /// <summary>Finds the leading singular vectors of a gradient [m,n] at a step, at least r or min(m, n) of them, F32 or F64; null: the exact decomposition.
    /// <see cref="Randomized"/> is faster.</summary>
    public Func<Parameter, Tensor, long, Scope, SvdFactors>? Factors { get; init; }

    /// <summary>Leading vectors by a randomised range finder: close to the exact ones where singular values fall off. Depends on seed, parameter and step only.</summary>
    public static Func<Parameter, Tensor, long, Scope, SvdFactors> Randomized(int rank, ulong seed) => (parameter, gradient, step, scope) =>
        Svd.Top(gradient, Math.Min(rank, Math.Min(gradient.Shape[0], gradient.Shape[1])), scope, new Rng(seed).Fork($"{parameter.Name} {step}"));

    /// <inheritdoc/>
    public sealed override Shape? StateShape(string state, Parameter parameter)
    {
        Shape shape = parameter.Value.Shape;
        if (!projected.Contains(parameter))
        {
            return state is OnLeft or OnRight ? null : MomentShape(state, shape);
        }
        (bool left, bool right, int rank) = Sides(shape);
        return state switch
        {
            OnLeft => left ? [shape[0], rank] : null,
            OnRight => right ? [rank, shape[1]] : null,
            _ => MomentShape(state, LowShape(shape)),
        };
    }

    /// <summary>A parameter whose step is worked out.</summary>
    /// <param name="Index">In the pack.</param>
    /// <param name="Start">Of its part of the values and gradients that go with it.</param>
    /// <param name="Shape">Its own, or that of its projected gradient.</param>
    /// <param name="WeightDecay">Its decay; 0 where its gradient is projected.</param>
    private protected readonly record struct Piece(int Index, long Start, Shape Shape, double WeightDecay);

    /// <summary>True where <see cref="Move"/> shrinks the projected matrices too.</summary>
    private protected virtual bool Decays => false;

    /// <summary>Throws where a number of the rule is out of range; before anything is written.</summary>
    private protected abstract void Validate();

    /// <summary>Shape of a moment for a gradient of this shape; null where there is none of that name.</summary>
    private protected abstract Shape? MomentShape(string state, Shape shape);

    /// <summary>Moves the pieces of <paramref name="values"/> by their gradients. Those of projected matrices, <paramref name="low"/>, are zeros before.</summary>
    private protected abstract void Move(StepData step, Tensor values, nint gradients, IReadOnlyList<Piece> pieces, bool low);

    /// <inheritdoc/>
    private protected override bool CountsPauses => true;

    /// <summary>Steps of a parameter's own, this one counted.</summary>
    private protected long StepOf(int i) => Steps - PausedOf(i);

    /// <summary>Decay of a parameter.</summary>
    private protected double DecayOf(Parameter p) => p.WeightDecay ?? WeightDecay;

    /// <summary>x += factor·y, over the elements of y.</summary>
    private protected static void Add(Tensor x, double factor, Tensor y) => x.Device.Launch(Kernels.AddForward, new BinaryArgs
    {
        X = x.Data,
        Z = y.Data,
        Y = x.Data,
        Count = y.Shape.Count,
        Period = y.Shape.Count,
        Alpha = factor,
        DType = x.DType,
        ZType = y.DType,
    });

    private protected static Tensor Part(Tensor block, Piece piece) => block.Slice((int)piece.Start, (int)piece.Shape.Count);

    /// <inheritdoc/>
    protected sealed override void Update(StepData step)
    {
        Require(Rank < 1 || Gap < 1, $"Rank is {Rank} and Gap {Gap}, want at least 1");
        Require(!Enum.IsDefined(Side), $"Side is {Side}, want {string.Join(", ", Enum.GetNames<GaLoreSide>())}");
        Validate();
        Device device = Pack.Values.Device;
        device.RequireNotRecording($"a step of {GetType().Name}");
        if (opened != Steps)
        {
            (opened, without) = (Steps, !Pack.StateNames.Any(name => name is OnLeft or OnRight));
        }
        using Scope scope = device.BeginScope();
        List<Piece> plain = [], low = [];
        long count = 0;
        for (int i = 0; i < Pack.Parameters.Count; i++)
        {
            Parameter p = Pack.Parameters[i];
            if (!Moves(p))
            {
                continue;
            }
            if (projected.Contains(p))
            {
                low.Add(new Piece(i, count, LowShape(p.Value.Shape), 0));
                count += (low[^1].Shape.Count + 15) / 16 * 16;
            }
            else
            {
                plain.Add(new Piece(i, Pack.Start(i), p.Value.Shape, DecayOf(p)));
            }
        }
        Tensor gradients = scope.New([checked((int)Math.Max(1, count))], Pack.Values.DType), moves = scope.NewZeros(gradients.Shape, gradients.DType);
        foreach (Piece piece in low)
        {
            Parameter p = Pack.Parameters[piece.Index];
            if (without || (StepOf(piece.Index) - 1) % Gap == 0)
            {
                Refresh(p, StepOf(piece.Index), scope);
            }
            Project(p, Part(gradients, piece), scope);
        }
        Move(step, Pack.Values, Pack.GradientData, plain, low: false);
        Move(step, moves, gradients.Data, low, low: true);
        foreach (Piece piece in low)
        {
            Apply(Pack.Parameters[piece.Index], Part(moves, piece), scope);
        }
    }

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

    private Shape LowShape(Shape shape)
    {
        (bool left, bool right, int rank) = Sides(shape);
        return [left ? rank : shape[0], right ? rank : shape[1]];
    }

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

    private void Refresh(Parameter p, long step, Scope scope)
    {
        (bool left, bool right, int rank) = Sides(p.Value.Shape);
        Tensor gradient = p.Gradient!;
        Tensor wide = gradient.DType is DType.F32 or DType.F64 ? gradient : gradient.ConvertTo(DType.F32, scope);
        SvdFactors factors;
        try
        {
            factors = Factors?.Invoke(p, wide, step, scope) ?? Svd.Of(wide, scope, rank);
        }
        catch (NumericException error)
        {
            throw new NumericException($"{GetType().Name}: the gradient of {p.Name} at step {step} cannot be factored: {error.Message}");
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
        Tensor low = d.Reshape(LowShape(p.Value.Shape));
        if (left && right)
        {
            Tensor half = scope.New([m, rank], d.DType);             // A·d
            Product(Pack.StateOf(OnLeft, p), false, low, false, half, m, rank);
            low = half;
        }
        (Tensor first, Tensor second) = right ? (low, Pack.StateOf(OnRight, p)) : (Pack.StateOf(OnLeft, p), low);
        Product(first, false, second, false, p.Value, m, n, Scale, add: true);
        double decay = Decays ? 0 : LearningRate * p.LearningRateScale * DecayOf(p);
        if (decay > 0)
        {
            Add(p.Value, -decay, p.Value);
        }
    }
}
