namespace LowRank;

/// <summary>Swaps the last two dimensions: x [..., rows, cols] → y [..., cols, rows].</summary>
public sealed record Transpose : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Shape x = inputs[0].Shape;
        if (x.Rank < 2)
        {
            throw Bad("x", x, "[..., rows, cols]");
        }
        RequireRowMajor("x", inputs[0]);
        Span<int> sizes = stackalloc int[x.Rank];
        x.CopyTo(sizes);
        (sizes[^1], sizes[^2]) = (sizes[^2], sizes[^1]);
        return [Shape.Of(sizes)];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Launch(inputs[0], outputs[0].Data, 0);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        Launch(dy.Reshape(outputs[0].Shape), dx.Data, Grads.Place.Mask(dx));
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(0, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());

    private static void Launch(Tensor x, nint y, uint add)
    {
        int rows = x.Shape[-2], cols = x.Shape[-1];
        int batch = rows == 0 || cols == 0 ? 0 : checked((int)(x.Shape.Count / rows / cols));
        x.Device.Launch(Kernels.Transpose, new TransposeArgs { X = x.Data, Y = y, Batch = batch, Rows = rows, Cols = cols, DType = x.DType, Add = add });
    }
}
