namespace LowRank;

/// <summary>y = x·Wᵀ + bias; x [..., k], W [n,k], bias [n] or absent → y [..., n]. W may be frozen and packed or quantised,
/// or trained.</summary>
public sealed record Linear : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, w) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k)
        {
            throw Bad("x", x.Shape, $"[..., {k}]");
        }
        Require("bias", inputs.Optional(2), [n]);
        RequireParameter("bias", inputs.Optional(2), x.DType);
        RequireWeightType(x, w);
        return [x.Shape.WithCols(n)];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, w) = inputs;
        x.Device.Launch(Kernels.LinearForward, new LinearArgs
        {
            X = x.Data,
            W = w.Data,
            Bias = inputs.Optional(2)?.Data ?? 0,
            Y = outputs[0].Data,
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, w) = inputs;
        var (dx, dw, dbias) = (grads[0], grads[1], grads[2]);
        x.Device.Launch(Kernels.LinearBackward, new LinearGradArgs
        {
            X = x.Data,
            W = w.Data,
            Dy = dy.Data,
            Dx = dx.Data,
            Dw = dw.Data,
            Dbias = dbias.Data,
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
            Add = Grads.Place.Mask(dx, dw, dbias),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, w) = inputs;
        long tokens = x.Shape.Rows, n = w.Shape[0], k = w.Shape[1], size = x.DType.Size();
        return new(2 * tokens * n * k, (size * tokens * (n + k)) + (long)w.Bytes);
    }
}
