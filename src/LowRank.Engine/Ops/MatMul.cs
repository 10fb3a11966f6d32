namespace LowRank;

/// <summary>c = Scale·op(a)·op(b) where op transposes if its flag is set; op(a) [m,k], op(b) [k,n] → c [m,n].</summary>
public sealed record MatMul(bool TransposeA = false, bool TransposeB = false, double Scale = 1) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (a, b) = inputs;
        RequireMatrix("a", a);
        RequireMatrix("b", b);
        RequireRowMajor("a", a);
        RequireRowMajor("b", b);
        (int m, int k) = TransposeA ? (a.Shape[1], a.Shape[0]) : (a.Shape[0], a.Shape[1]);
        (int kb, int n) = TransposeB ? (b.Shape[1], b.Shape[0]) : (b.Shape[0], b.Shape[1]);
        if (k != kb || a.DType != b.DType)
        {
            throw Bad("b", b, $"{a.DType}{(Shape)(TransposeB ? [n, k] : [k, n])}");
        }
        return [[m, n]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (a, b) = inputs;
        Launch(a, TransposeA, b, TransposeB, outputs[0].Data, outputs[0].Shape, add: 0);
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (a, b) = inputs;
        var (da, db) = (grads[0], grads[1]);
        if (da.Wanted)
        {
            (Tensor left, bool tl, Tensor right, bool tr) = TransposeA ? (b, TransposeB, dy, true) : (dy, false, b, !TransposeB);
            Launch(left, tl, right, tr, da.Data, a.Shape, Grads.Place.Mask(da));
        }
        if (db.Wanted)
        {
            (Tensor left, bool tl, Tensor right, bool tr) = TransposeB ? (dy, true, a, TransposeA) : (a, !TransposeA, dy, false);
            Launch(left, tl, right, tr, db.Data, b.Shape, Grads.Place.Mask(db));
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (a, b) = inputs;
        long k = TransposeA ? a.Shape[0] : a.Shape[1], m = a.Shape.Count / k, n = b.Shape.Count / k;
        return new(2 * m * n * k, a.DType.Size() * ((m * k) + (k * n) + (m * n)));
    }

    private void Launch(Tensor a, bool ta, Tensor b, bool tb, nint c, Shape shape, uint add) => a.Device.Launch(Kernels.MatMul, new MatMulArgs
    {
        A = a.Data,
        B = b.Data,
        C = c,
        M = shape[0],
        N = shape[1],
        K = ta ? a.Shape[0] : a.Shape[1],
        TransposeA = ta ? 1 : 0,
        TransposeB = tb ? 1 : 0,
        Scale = Scale,
        DType = a.DType,
        Add = add,
    });
}
