namespace LowRank;

/// <summary>How unsure predictions are: loss = mean over rows of -Σ p·log(p + Epsilon), p = softmax(logits); logits [rows, classes] → loss [1] in parameter
/// precision; saves the entropy of each row [rows], and its log-sum-exp and mean slope [rows, 2]. dlogits = -dloss/rows·p·(f - Σ p·f) with
/// f = log(p + Epsilon) + p/(p + Epsilon), which sums to 0 over the classes. What AdaMerging (arXiv 2310.02575) and Concrete (2312.06173) learn by.</summary>
public sealed record MeanEntropy(double Epsilon = 0) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor logits = inputs[0];
        if (logits.Shape.Rank != 2 || logits.Shape.Count == 0)
        {
            throw Bad("logits", logits.Shape, "[rows, classes], at least one of each");
        }
        if (!(Epsilon >= 0 && double.IsFinite(Epsilon)))
        {
            throw Bad("Epsilon", Epsilon, "0 or more and finite");
        }
        return [[1], [logits.Shape[0]], [logits.Shape[0], 2]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => inputs[0].DType.ForParameters();

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor logits = inputs[0];
        logits.Device.Launch(Kernels.MeanEntropyForward, new MeanEntropyArgs
        {
            Logits = logits.Data,
            Loss = outputs[0].Data,
            Losses = outputs[1].Data,
            Stats = outputs[2].Data,
            Rows = logits.Shape[0],
            Cols = logits.Shape[1],
            Epsilon = Epsilon,
            DType = logits.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor logits = inputs[0];
        Grads.Place dlogits = grads[0];
        logits.Device.Launch(Kernels.MeanEntropyBackward, new MeanEntropyGradArgs
        {
            Logits = logits.Data,
            Stats = outputs[2].Data,
            Dloss = dy.Data,
            Dlogits = dlogits.Data,
            Rows = logits.Shape[0],
            Cols = logits.Shape[1],
            Epsilon = Epsilon,
            DType = logits.DType,
            Add = Grads.Place.Mask(dlogits),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(8 * inputs[0].Shape.Count, inputs[0].Shape.Count * inputs[0].DType.Size());
}
