namespace LowRank;

/// <summary>loss = mean over rows with label ≠ Ignore of -Σ q_j log softmax(logits)_j, q = (1-Smoothing)·onehot + Smoothing/cols; logits [..., cols],
/// labels I32 [rows] → loss [1] in parameter precision; saves the log-sum-exp [rows] and the number of rows counted [1].</summary>
public sealed record CrossEntropy(int Ignore = -100, double Smoothing = 0) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (logits, labels) = inputs;
        if (logits.Shape.Rank == 0 || logits.Shape.Cols == 0)
        {
            throw Bad("logits", logits.Shape, "[..., classes]");
        }
        if (labels.Shape.Count != logits.Shape.Rows)
        {
            throw Bad("labels", labels.Shape, $"{logits.Shape.Rows} labels, one a row of {logits.Shape}");
        }
        if (Smoothing is < 0 or >= 1)
        {
            throw Bad("Smoothing", Smoothing, "0 or more and less than 1");
        }
        RequireIds("labels", labels, logits.Shape.Cols, Ignore);
        return [[1], [logits.Shape.Rows], [1]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => inputs[0].DType.ForParameters();

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (logits, labels) = inputs;
        logits.Device.Launch(Kernels.CrossEntropyForward, new CrossEntropyArgs
        {
            Logits = logits.Data,
            Labels = labels.Data,
            Loss = outputs[0].Data,
            Lse = outputs[1].Data,
            Valid = outputs[2].Data,
            Rows = logits.Shape.Rows,
            Cols = logits.Shape.Cols,
            Ignore = Ignore,
            Smoothing = Smoothing,
            DType = logits.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (logits, labels) = inputs;
        Grads.Place dlogits = grads[0];
        logits.Device.Launch(Kernels.CrossEntropyBackward, new CrossEntropyGradArgs
        {
            Logits = logits.Data,
            Labels = labels.Data,
            Lse = outputs[1].Data,
            Valid = outputs[2].Data,
            Dloss = dy.Data,
            Dlogits = dlogits.Data,
            Rows = logits.Shape.Rows,
            Cols = logits.Shape.Cols,
            Ignore = Ignore,
            Smoothing = Smoothing,
            DType = logits.DType,
            Add = Grads.Place.Mask(dlogits),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(5 * inputs[0].Shape.Count, inputs[0].Shape.Count * inputs[0].DType.Size());
}
