namespace LowRank;

/// <summary>Base of the norms over the last dimension: y = (x - mean)·rstd ⊙ weight + bias, rstd = 1/√(mean square of what is left + Epsilon); x [..., d],
/// weight [d] and bias [d] or absent → y like x; saves (mean, rstd) [rows, 2].</summary>
public abstract record Normalization(double Epsilon) : Op
{
    private protected abstract bool Centred { get; }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor x = inputs[0];
        if (x.Shape.Rank == 0 || x.Shape.Cols == 0)
        {
            throw Bad("x", x.Shape, "[..., d] with d of at least 1");
        }
        foreach ((string name, int i) in (ReadOnlySpan<(string, int)>)[("weight", 1), ("bias", 2)])
        {
            Require(name, inputs.Optional(i), [x.Shape.Cols]);
            RequireParameter(name, inputs.Optional(i), x.DType);
        }
        return [x.Shape, [x.Shape.Rows, 2]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor x = inputs[0];
        x.Device.Launch(Kernels.LayerNormForward, new LayerNormArgs
        {
            X = x.Data,
            Weight = inputs.Optional(1)?.Data ?? 0,
            Bias = inputs.Optional(2)?.Data ?? 0,
            Y = outputs[0].Data,
            Stats = outputs[1].Data,
            Rows = x.Shape.Rows,
            Cols = x.Shape.Cols,
            Eps = Epsilon,
            DType = x.DType,
            Rms = Centred ? 0 : 1,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        var (dx, dweight, dbias) = (grads[0], grads[1], grads[2]);
        x.Device.Launch(Kernels.LayerNormBackward, new LayerNormGradArgs
        {
            X = x.Data,
            Weight = inputs.Optional(1)?.Data ?? 0,
            Stats = outputs[1].Data,
            Dy = dy.Data,
            Dx = dx.Data,
            Dweight = dweight.Data,
            Dbias = dbias.Data,
            Rows = x.Shape.Rows,
            Cols = x.Shape.Cols,
            DType = x.DType,
            Rms = Centred ? 0 : 1,
            Add = Grads.Place.Mask(dx, dweight, dbias),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(8 * inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());
}
