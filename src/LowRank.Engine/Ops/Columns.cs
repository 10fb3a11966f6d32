namespace LowRank;

/// <summary>y = x[..., Start : Start + Count], a stretch of the last dimension; x [..., cols] → y [..., Count].</summary>
public sealed record Columns(int Start, int Count) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor x = inputs[0];
        if (x.Shape.Rank == 0 || Start < 0 || Count < 1 || Start > x.Shape.Cols - Count)
        {
            throw Bad("x", x.Shape, $"[..., at least {(long)Start + Count}]");
        }
        Span<int> sizes = stackalloc int[x.Shape.Rank];
        x.Shape.CopyTo(sizes);
        sizes[^1] = Count;
        return [Shape.Of(sizes)];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Move(inputs[0], inputs[0].Data, outputs[0].Data, inverse: 0, add: 0);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        Move(inputs[0], dy.Data, dx.Data, inverse: 1, Grads.Place.Mask(dx));
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(0, 2L * inputs[0].Shape.Rows * Count * inputs[0].DType.Size());

    private void Move(Tensor x, nint from, nint to, int inverse, uint add) =>
        x.Device.Launch(Kernels.Columns, new ColumnsArgs { X = from, Y = to, Rows = x.Shape.Rows, Cols = x.Shape.Cols, Start = Start, Count = Count, Inverse = inverse, DType = x.DType, Add = add });
}
