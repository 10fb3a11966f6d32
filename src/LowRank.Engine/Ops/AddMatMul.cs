namespace LowRank;

/// <summary>y = W + Scale·B·A; W [n,k], B [n,r], A [r,k] → y [n,k]. With <paramref name="Transpose"/>: y = W + Scale·(B·A)ᵀ, B [k,r], A [r,n]
/// (embeddings, fan-in-fan-out weights). The effective weight of a low-rank adapter, in the type of W.</summary>
public sealed record AddMatMul(double Scale, bool Transpose = false) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (w, b, a) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        (int r, _) = RequireMatrix("A", a);
        Require("B", b, [Transpose ? k : n, r]);
        Require("A", a, [r, Transpose ? n : k]);
        RequireParameter("B", b, w.DType);
        RequireParameter("A", a, w.DType);
        RequireRowMajor("W", w);
        return [w.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (w, b, a) = inputs;
        w.Device.Launch(Kernels.AddMatMul, new AddMatMulArgs
        {
            W = w.Data,
            B = b.Data,
            A = a.Data,
            Y = outputs[0].Data,
            N = w.Shape[0],
            K = w.Shape[1],
            R = b.Shape[1],
            Transpose = Transpose ? 1 : 0,
            Scale = Scale,
            DType = w.DType,
            WType = w.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (w, b, a) = inputs;
        if (dy.DType != a.DType)
        {
            throw new InvalidOperationException($"{this}: W is {w.DType}, want {a.DType} to train through the effective weight");
        }
        var (dw, db, da) = (grads[0], grads[1], grads[2]);
        int rows = b.Shape[0], r = b.Shape[1], cols = a.Shape[1];
        if (dw.Wanted)
        {
            dw.Accumulate(dy);
        }
        // dB [rows,r] = s·G·Aᵀ and dA [r,cols] = s·Bᵀ·G, where G [rows,cols] is dy or its transpose.
        if (db.Wanted)
        {
            w.Device.Launch(Kernels.MatMul, new MatMulArgs { A = dy.Data, B = a.Data, C = db.Data, M = rows, N = r, K = cols, TransposeA = Transpose ? 1 : 0, TransposeB = 1, Scale = Scale, DType = dy.DType, Add = Grads.Place.Mask(db) });
        }
        if (da.Wanted)
        {
            w.Device.Launch(Kernels.MatMul, new MatMulArgs { A = b.Data, B = dy.Data, C = da.Data, M = r, N = cols, K = rows, TransposeA = 1, TransposeB = Transpose ? 1 : 0, Scale = Scale, DType = dy.DType, Add = Grads.Place.Mask(da) });
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (w, b, _) = inputs;
        long n = w.Shape[0], k = w.Shape[1], r = b.Shape[1];
        return new(2 * n * k * r, (2 * w.DType.Size() * n * k) + (4 * r * (n + k)));
    }
}
