namespace LowRank;

/// <summary>y = x·Wᵀ + bias with W = Scale·B·A + scatter(idx, v), all of it trained; x [..., k], A [r,k], B [n,r], v [nnz], idx [nnz] I32 of sorted, distinct row-major
/// places in [n,k], bias [n] or absent → y [..., n]. Saves t = Scale·x·Aᵀ [..., r] and the sparse part as a matrix S [n,k] in the activations' type, which stands in
/// the place of a frozen weight (SLTrain, arXiv 2406.02214). dv is sampled from dyᵀ·x at idx, which is not formed; the other gradients are those of
/// <see cref="LoraLinear"/>.</summary>
public sealed record SparseLoraLinear(double Scale = 1) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, a, b, v) = inputs;
        (int r, int k) = RequireMatrix("A", a);
        (int n, _) = RequireMatrix("B", b);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k)
        {
            throw Bad("x", x.Shape, $"[..., {k}]");
        }
        Require("B", b, [n, r]);
        if (v.Shape.Rank != 1 || v.Shape[0] == 0)
        {
            throw Bad("v", v.Shape, "[nnz] with nnz of at least 1");
        }
        RequirePlaces("idx", inputs[4], v.Shape[0], (long)n * k);
        Require("bias", inputs.Optional(5), [n]);
        foreach ((string name, int i) in (ReadOnlySpan<(string, int)>)[("A", 1), ("B", 2), ("v", 3), ("bias", 5)])
        {
            RequireParameter(name, inputs.Optional(i), x.DType);
        }
        return [x.Shape.WithCols(n), x.Shape.WithCols(r), [n, k]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => output == 1 ? inputs[0].DType.ForParameters() : inputs[0].DType;

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, a, b, v) = inputs;
        Tensor s = outputs[2];
        x.Device.Launch(Kernels.AddSparse, new AddSparseArgs { V = v.Data, Idx = inputs[4].Data, Y = s.Data, Count = s.Shape.Count, Nnz = v.Shape[0], DType = s.DType });
        x.Device.Launch(Kernels.LoraForward, new LoraArgs
        {
            X = x.Data,
            W = s.Data,
            A = a.Data,
            B = b.Data,
            Bias = inputs.Optional(5)?.Data ?? 0,
            Y = outputs[0].Data,
            T = outputs[1].Data,
            Tokens = x.Shape.Rows,
            N = s.Shape[0],
            K = s.Shape[1],
            R = a.Shape[0],
            Scale = Scale,
            DType = x.DType,
            WType = s.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, a, b, v) = inputs;
        Tensor s = outputs[2];
        var (dx, da, db, dv, dbias) = (grads[0], grads[1], grads[2], grads[3], grads[5]);
        x.Device.Launch(Kernels.LoraBackward, new LoraGradArgs
        {
            X = x.Data,
            W = s.Data,
            A = a.Data,
            B = b.Data,
            T = outputs[1].Data,
            Dy = dy.Data,
            Dx = dx.Data,
            Da = da.Data,
            Db = db.Data,
            Dbias = dbias.Data,
            Tokens = x.Shape.Rows,
            N = s.Shape[0],
            K = s.Shape[1],
            R = a.Shape[0],
            Scale = Scale,
            DType = x.DType,
            WType = s.DType,
            Add = Grads.Place.Mask(dx, default, da, db, dbias),
        });
        if (dv.Wanted)
        {
            x.Device.Launch(Kernels.SampleSparse, new SampleSparseArgs { A = dy.Data, B = x.Data, Idx = inputs[4].Data, V = dv.Data, Tokens = x.Shape.Rows, N = s.Shape[0], K = s.Shape[1], Nnz = v.Shape[0], DType = x.DType, Add = Grads.Place.Mask(dv) });
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, a, b, v) = inputs;
        long tokens = x.Shape.Rows, n = b.Shape[0], k = a.Shape[1], r = a.Shape[0], size = x.DType.Size();
        return new(2 * tokens * ((n * k) + (r * k) + (n * r)), (size * ((tokens * (n + k)) + (2 * n * k))) + (4 * r * (n + k)) + (8 * v.Shape.Count));
    }
}
