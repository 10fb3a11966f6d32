namespace LowRank;

/// <summary>Adafactor (arXiv 1804.04235) as torch computes it: the second moment of a matrix [n,k] is kept as row means [n] and column means [k], that of a
/// vector as it is; the step is relative to the size of the parameter, at most min(lr, 1/√t)·rms(p), and p -= lr·wd·p goes before it. More than two
/// dimensions are a stack of matrices over the last two. One call over the pack.</summary>
public sealed class Adafactor : Optimizer
{
    private const string Row = "row_var", Col = "col_var";
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
    public override Shape? StateShape(string state, Parameter parameter)
    {
        Shape shape = parameter.Value.Shape;
        return state switch
        {
            Row when shape.Rank > 1 => [.. shape.Take(shape.Rank - 1)],
            Col => shape.Rank > 1 ? [.. shape.Take(shape.Rank - 2), shape.Cols] : shape,
            _ => null,
        };
    }

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        Tensor row = Pack.State(Row), col = Pack.State(Col);
        Factored[] tensors = [.. Tensors()];
        Pack.Values.Device.Launch(Kernels.Adafactor, new AdafactorArgs
        {
            P = Pack.Values.Data,
            G = Pack.Gradients.Data,
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

    private static int Matrices(Shape shape) => shape.Rank > 2 ? checked((int)(shape.Count / shape[-1] / shape[-2])) : 1;

    private IEnumerable<Factored> Tensors()
    {
        for (int i = 0; i < Pack.Parameters.Count; i++)
        {
            Parameter p = Pack.Parameters[i];
            if (p.Frozen || p.Gradient is null)
            {
                continue;
            }
            Shape shape = p.Value.Shape;
            (long rows, long cols) = shape.Rank > 1 ? (shape[-2], shape[-1]) : (1, shape.Count);
            for (int matrix = 0; matrix < Matrices(shape); matrix++)
            {
                yield return new Factored
                {
                    Start = Pack.Start(i) + (matrix * rows * cols),
                    Rows = rows,
                    Cols = cols,
                    RowState = shape.Rank > 1 ? Pack.StateStart(Row, i) + (matrix * rows) : -1,
                    ColState = Pack.StateStart(Col, i) + (matrix * cols),
                    LrScale = p.LearningRateScale,
                    WeightDecay = p.WeightDecay ?? WeightDecay,
                };
            }
        }
    }
}
