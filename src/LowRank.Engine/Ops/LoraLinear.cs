namespace LowRank;

/// <summary>y = c ⊙ (x·Wᵀ + t·Bᵀ) + bias with t = Scale·xa·Aᵀ. Operands: x [..., k], W [n,k] frozen (as it is, packed, or quantised as QLoRA has it,
/// arXiv 2305.14314), A [r,k], B [n,r], bias [n] or absent, c [n] or absent (DoRA's column scale), xa [..., k] or absent (the adapter's own, dropped-out input; absent: x). Saves t [..., r], and y0 = y before
/// scale and bias where c is trained. One pass over x serves W and A, the rank is extra K steps, y is written once (arXiv 2106.09685; 2402.09353).</summary>
public sealed record LoraLinear(double Scale) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, w, a, b) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        (int r, _) = RequireMatrix("A", a);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k)
        {
            throw Bad("x", x.Shape, $"[..., {k}]");
        }
        if (a.Shape[1] != k || r == 0)
        {
            throw Bad("A", a.Shape, $"[r, {k}] with r of at least 1");
        }
        Require("B", b, [n, r]);
        Require("bias", inputs.Optional(4), [n]);
        Require("c", inputs.Optional(5), [n]);
        Require("xa", inputs.Optional(6), x.Shape);
        foreach ((string name, int i) in (ReadOnlySpan<(string, int)>)[("A", 2), ("B", 3), ("bias", 4), ("c", 5)])
        {
            RequireParameter(name, inputs.Optional(i), x.DType);
        }
        RequireWeightType(x, w);
        Shape y = x.Shape.WithCols(n);
        return inputs.Optional(5) is { NeedsGradient: true } ? [y, x.Shape.WithCols(r), y] : [y, x.Shape.WithCols(r)];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => output == 1 ? inputs[0].DType.ForParameters() : inputs[0].DType;

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, w, a, b) = inputs;
        x.Device.Launch(Kernels.LoraForward, new LoraArgs
        {
            X = x.Data,
            Xa = inputs.Optional(6)?.Data ?? 0,
            W = w.Data,
            A = a.Data,
            B = b.Data,
            Bias = inputs.Optional(4)?.Data ?? 0,
            C = inputs.Optional(5)?.Data ?? 0,
            Y = outputs[0].Data,
            Y0 = outputs.Optional(2)?.Data ?? 0,
            T = outputs[1].Data,
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            R = a.Shape[0],
            Scale = Scale,
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, w, a, b) = inputs;
        if (w.NeedsGradient)
        {
            throw new InvalidOperationException($"{this}: W is trainable, want it frozen; train W through Linear");
        }
        var (dx, dxa, da, db, dbias, dc) = (grads[0], grads[6], grads[2], grads[3], grads[4], grads[5]);
        x.Device.Launch(Kernels.LoraBackward, new LoraGradArgs
        {
            X = x.Data,
            Xa = inputs.Optional(6)?.Data ?? 0,
            W = w.Data,
            A = a.Data,
            B = b.Data,
            C = inputs.Optional(5)?.Data ?? 0,
            T = outputs[1].Data,
            Y0 = outputs.Optional(2)?.Data ?? 0,
            Dy = dy.Data,
            Dx = dx.Data,
            Dxa = dxa.Data,
            Da = da.Data,
            Db = db.Data,
            Dbias = dbias.Data,
            Dc = dc.Data,
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            R = a.Shape[0],
            Scale = Scale,
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
            Add = Grads.Place.Mask(dx, dxa, da, db, dbias, dc),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, w, a, _) = inputs;
        long tokens = x.Shape.Rows, n = w.Shape[0], k = w.Shape[1], r = a.Shape[0], size = x.DType.Size();
        return new(2 * tokens * ((n * k) + (r * k) + (n * r)), (size * tokens * (n + k)) + (long)w.Bytes + (4 * r * (n + k)));
    }
}
