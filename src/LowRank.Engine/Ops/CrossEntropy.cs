namespace LowRank;

/// <summary>loss = mean over rows with label ≠ Ignore of -Σ q_j log softmax(z)_j, q = (1-Smoothing)·onehot + Smoothing/cols, z = SoftCap·tanh(logits/SoftCap),
/// or logits where it is 0; logits [..., cols], labels I32 [rows] → loss [1] in parameter precision; saves the log-sum-exp [rows], the number of rows counted
/// [1] and the loss of each [rows].</summary>
public sealed record CrossEntropy(int Ignore = -100, double Smoothing = 0, double SoftCap = 0) : Op
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
        RequireOptions(Smoothing, SoftCap);
        RequireIds("labels", labels, logits.Shape.Cols, Ignore);
        return [[1], [logits.Shape.Rows], [1], [logits.Shape.Rows]];
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
            Losses = outputs[3].Data,
            Rows = logits.Shape.Rows,
            Cols = logits.Shape.Cols,
            Total = logits.Shape.Rows,
            Ignore = Ignore,
            Smoothing = Smoothing,
            Cap = SoftCap,
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
            Cap = SoftCap,
            DType = logits.DType,
            Add = Grads.Place.Mask(dlogits),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(5 * inputs[0].Shape.Count, inputs[0].Shape.Count * inputs[0].DType.Size());
}
