namespace LowRank;

/// <summary>Adafactor (arXiv 1804.04235) as torch computes it: the second moment of a matrix [n,k] is kept as row means [n] and column means [k], that of a
/// vector as it is; the step is relative to the size of the parameter, at most min(lr, 1/√t)·rms(p), and p -= lr·wd·p goes before it. More than two
/// dimensions are a stack of matrices over the last two. One call over the pack.</summary>
public sealed class Adafactor : Optimizer
{
    internal const string Row = "row_var", Col = "col_var";
    private readonly StepTable<Factored> table;

    /// <summary>Packs the parameters.</summary>
    public Adafactor(IReadOnlyList<Parameter> parameters)
        : base(parameters)
    {
        LearningRate = 0.01;
        table = new StepTable<Factored>(Pack.Store, Pack.Parameters.Sum(p => Matrices(p.Value.Shape)));
    }

    /// <summary>The moments' share of a new gradient at step t is t to the power of minus this.</summary>
    public double MomentDecay { get; init; } = 0.8;

    /// <summary>Least root of the second moment; null: the rounding unit of the parameters' type.</summary>
    public double? Epsilon { get; init; }

    /// <summary>Least size of a parameter, to which its step is relative.</summary>
    public double LeastSize { get; init; } = 1e-3;

    /// <summary>The update is scaled down to this root mean square.</summary>
    public double Threshold { get; init; } = 1;

    /// <inheritdoc/>
    public override Shape? StateShape(string state, Parameter parameter) => MomentShape(state, parameter.Value.Shape);

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        Tensor row = Pack.State(Row), col = Pack.State(Col);
        Factored[] tensors =
        [
            .. Enumerable.Range(0, Pack.Parameters.Count).Where(i => Pack.IsTrained(Pack.Parameters[i]))
                .SelectMany(i => Tensors(Pack, i, Pack.Parameters[i].Value.Shape, Pack.Start(i), Pack.Parameters[i].LearningRateScale, Pack.Parameters[i].WeightDecay ?? WeightDecay)),
        ];
        Pack.Values.Device.Launch(Kernels.Adafactor, new AdafactorArgs
        {
            P = Pack.Values.Data,
            G = Pack.GradientData,
            Row = row.Data,
            Col = col.Data,
            Tensors = table.Of(tensors),
            Norm2 = step.Norm2.Data,
            Progress = step.Progress,
            Lr = LearningRate,
            Decay = MomentDecay,
            Eps1 = Epsilon ?? Pack.Values.DType.Epsilon(),
            Eps2 = LeastSize,
            Threshold = Threshold,
            MaxNorm = MaxGradientNorm,
            Step = Steps,
            TotalRows = tensors.Sum(t => t.Rows),
            TensorCount = tensors.Length,
            DType = Pack.Values.DType,
        });
    }

    /// <summary>Shape of a second moment for a gradient of this shape.</summary>
    internal static Shape? MomentShape(string state, Shape shape) => state switch
    {
        Row when shape.Rank > 1 => [.. shape.Take(shape.Rank - 1)],
        Col => shape.Rank > 1 ? [.. shape.Take(shape.Rank - 2), shape.Cols] : shape,
        _ => null,
    };

    /// <summary>Matrices that a shape is a stack of.</summary>
    internal static int Matrices(Shape shape) => shape.Rank > 2 ? checked((int)(shape.Count / shape[-1] / shape[-2])) : 1;

    /// <summary>The matrices of the parameter of that number, whose gradient has this shape and start.</summary>
    internal static IEnumerable<Factored> Tensors(ParameterPack pack, int i, Shape shape, long start, double lrScale, double weightDecay)
    {
        (long rows, long cols) = shape.Rank > 1 ? (shape[-2], shape[-1]) : (1, shape.Count);
        for (int matrix = 0; matrix < Matrices(shape); matrix++)
        {
            yield return new Factored
            {
                Start = start + (matrix * rows * cols),
                Rows = rows,
                Cols = cols,
                RowState = shape.Rank > 1 ? pack.StateStart(Row, i) + (matrix * rows) : -1,
                ColState = pack.StateStart(Col, i) + (matrix * cols),
                LrScale = lrScale,
                WeightDecay = weightDecay,
            };
        }
    }
}
