namespace LowRank;

/// <summary>y = W + Scale·B·A; W [n,k], B [n,r], A [r,k] → y [n,k]. With <paramref name="Transpose"/>: y = W + Scale·(B·A)ᵀ, B [k,r], A [r,n]
/// (embeddings, fan-in-fan-out weights). The effective weight of a low-rank adapter, in the type of W. A stack W [count,n,k] takes stacks of B and A.</summary>
public sealed record AddMatMul(double Scale, bool Transpose = false) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (w, b, a) = inputs;
        if (w.Shape.Rank is not (2 or 3))
        {
            throw Bad("W", w.Shape, "a matrix or a stack of them");
        }
        if (a.Shape.Rank != w.Shape.Rank)
        {
            throw Bad("A", a.Shape, $"{w.Shape.Rank} dimensions");
        }
        (int n, int k, int r) = (w.Shape[-2], w.Shape[-1], a.Shape[-2]);
        Shape Like(int rows, int cols) => w.Shape.Rank == 2 ? [rows, cols] : [w.Shape[0], rows, cols];
        Require("B", b, Like(Transpose ? k : n, r));
        Require("A", a, Like(r, Transpose ? n : k));
        RequireParameter("B", b, w.DType);
        RequireParameter("A", a, w.DType);
        RequireRowMajor("W", w);
        return [w.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (w, b, a) = inputs;
        for (int i = 0; i < Count(w); i++)
        {
            w.Device.Launch(Kernels.AddMatMul, new AddMatMulArgs
            {
                W = w.Data + Offset(w, i),
                B = b.Data + Offset(b, i),
                A = a.Data + Offset(a, i),
                Y = outputs[0].Data + Offset(w, i),
                N = w.Shape[-2],
                K = w.Shape[-1],
                R = b.Shape[-1],
                Transpose = Transpose ? 1 : 0,
                Scale = Scale,
                DType = w.DType,
                WType = w.DType,
            });
        }
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
        int rows = b.Shape[-2], r = b.Shape[-1], cols = a.Shape[-1];
        if (dw.Wanted)
        {
            dw.Accumulate(dy);
        }
        // dB [rows,r] = s·G·Aᵀ and dA [r,cols] = s·Bᵀ·G, where G [rows,cols] is dy or its transpose.
        for (int i = 0; i < Count(w); i++)
        {
            nint g = dy.Data + Offset(w, i);
            if (db.Wanted)
            {
                w.Device.Launch(Kernels.MatMul, new MatMulArgs { A = g, B = a.Data + Offset(a, i), C = db.Data + Offset(b, i), M = rows, N = r, K = cols, TransposeA = Transpose ? 1 : 0, TransposeB = 1, Scale = Scale, DType = dy.DType, Add = Grads.Place.Mask(db) });
            }
            if (da.Wanted)
            {
                w.Device.Launch(Kernels.MatMul, new MatMulArgs { A = b.Data + Offset(b, i), B = g, C = da.Data + Offset(a, i), M = r, N = cols, K = rows, TransposeA = 1, TransposeB = Transpose ? 1 : 0, Scale = Scale, DType = dy.DType, Add = Grads.Place.Mask(da) });
            }
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (w, b, _) = inputs;
        long count = Count(w), n = w.Shape[-2], k = w.Shape[-1], r = b.Shape[-1];
        return new(2 * count * n * k * r, count * ((2 * w.DType.Size() * n * k) + (4 * r * (n + k))));
    }

    private static int Count(Tensor w) => w.Shape.Rank == 2 ? 1 : w.Shape[0];

    /// <summary>Bytes before matrix i of a stack.</summary>
    private static nint Offset(Tensor stack, int i) => (nint)((long)i * stack.Shape[-2] * stack.Shape[-1] * stack.DType.Size());
}
