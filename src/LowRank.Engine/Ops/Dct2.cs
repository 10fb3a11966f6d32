namespace LowRank;

/// <summary>y = Scale·C_m·x·C_nᵀ, the orthonormal 2-D cosine transform (DCT-II) of x [m,n], of any sizes; <paramref name="Inverse"/>: y = Scale·C_mᵀ·x·C_n.
/// C_n[i,j] = √(2/n)·cos(πi(2j+1)/(2n)), row 0 over √2 (Makhoul 1980). Each is the adjoint of the other.</summary>
public sealed record Dct2(bool Inverse = false, double Scale = 1) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        RequireMatrix("x", inputs[0]);
        RequireRowMajor("x", inputs[0]);
        return [inputs[0].Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Launch(inputs[0], outputs[0].Data, Inverse, 0);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        Launch(dy, dx.Data, !Inverse, Grads.Place.Mask(dx));
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => Transform(inputs[0].Shape.Rows, inputs[0].Shape.Cols, inputs[0].DType.Size());

    /// <summary>What fast transforms along both sides cost: 2.5·n·log₂n operations a line; the matrix is read and written once a side.</summary>
    internal static Cost Transform(long rows, long cols, int size) =>
        new((long)(2.5 * rows * cols * (Math.Log2(Math.Max(2, rows)) + Math.Log2(Math.Max(2, cols)))), 4 * rows * cols * size);

    private void Launch(Tensor x, nint y, bool inverse, uint add) =>
        x.Device.Launch(Kernels.Dct2, new Dct2Args { X = x.Data, Y = y, Rows = x.Shape[0], Cols = x.Shape[1], Inverse = inverse ? 1 : 0, Scale = Scale, DType = x.DType, Add = add });
}
