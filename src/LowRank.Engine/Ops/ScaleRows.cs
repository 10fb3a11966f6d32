namespace LowRank;

/// <summary>y[i,:] = c[i]·x[i,:]; x [rows, ...], c [rows] in parameter precision → y like x.</summary>
public sealed record ScaleRows : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, c) = inputs;
        if (x.Shape.Rank == 0)
        {
            throw Bad("x", x.Shape, "[rows, ...]");
        }
        Require("c", c, [x.Shape[0]]);
        RequireParameter("c", c, x.DType);
        RequireRowMajor("x", x);
        return [x.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, c) = inputs;
        x.Device.Launch(Kernels.ScaleRowsForward, new ScaleRowsArgs { X = x.Data, C = c.Data, Y = outputs[0].Data, Rows = x.Shape[0], Cols = RowSize(x), DType = x.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, c) = inputs;
        var (dx, dc) = (grads[0], grads[1]);
        x.Device.Launch(Kernels.ScaleRowsBackward, new ScaleRowsGradArgs { X = x.Data, C = c.Data, Dy = dy.Data, Dx = dx.Data, Dc = dc.Data, Rows = x.Shape[0], Cols = RowSize(x), DType = x.DType, Add = Grads.Place.Mask(dx, dc) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());

    private static int RowSize(Tensor x) => x.Shape[0] == 0 ? 0 : checked((int)(x.Shape.Count / x.Shape[0]));
}
