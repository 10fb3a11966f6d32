namespace LowRank;

/// <summary>c = m / ‖W + Scale·B·A‖ by row, DoRA's column scale (arXiv 2402.09353). m [n] trained, W [n,k] frozen, A [r,k] and B [n,r] treated as
/// constants (the official code detaches the norm), w2 [n] = ‖W_i‖² kept by the caller → c [n]; saves 1/norms [n]. B·A is never formed.</summary>
public sealed record DoraScale(double Scale) : Op
{
    /// <summary>Row norms of a frozen matrix: w2 [n] = ‖W_i‖², norm [n] = ‖W_i + Scale·(B·A)_i‖ (A, B may be absent). Not differentiable.</summary>
    public static void Norms(Tensor w, Tensor? a, Tensor? b, double scale, Tensor w2, Tensor norm) =>
        Launch(w, a, b, scale, w2, norm.Data, inverse: 0, fill: 1);

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (m, w, a, b) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        (int r, _) = RequireMatrix("A", a);
        Require("m", m, [n]);
        Require("A", a, [r, k]);
        Require("B", b, [n, r]);
        Require("w2", inputs[4], [n]);
        return [[n], [n]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (m, w, a, b) = inputs;
        Launch(w, a, b, Scale, inputs[4], norm: 0, outputs[1].Data, fill: 0);
        m.Device.Launch(Kernels.MulForward, new BinaryArgs { X = m.Data, Z = outputs[1].Data, Y = outputs[0].Data, Count = m.Shape.Count, Period = m.Shape.Count, DType = m.DType, ZType = m.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dm = grads[0];
        Tensor m = inputs[0];
        if (dm.Wanted)
        {
            m.Device.Launch(Kernels.MulBackward, new BinaryGradArgs { X = m.Data, Z = outputs[1].Data, Dy = dy.Data, Dx = dm.Data, Count = m.Shape.Count, Period = m.Shape.Count, DType = m.DType, ZType = m.DType, Add = Grads.Place.Mask(dm) });
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (_, w, a, _) = inputs;
        long n = w.Shape[0], k = w.Shape[1], r = a.Shape[0];
        return new(2 * n * k * r, w.DType.Size() * n * k);
    }

    private static void Launch(Tensor w, Tensor? a, Tensor? b, double scale, Tensor w2, nint norm, nint inverse, int fill) => w.Device.Launch(Kernels.RowNorm, new RowNormArgs
    {
        W = w.Data,
        A = a?.Data ?? 0,
        B = b?.Data ?? 0,
        W2 = w2.Data,
        Norm = norm,
        Inverse = inverse,
        N = w.Shape[0],
        K = w.Shape[1],
        R = a?.Shape[0] ?? 0,
        WantW2 = fill,
        Scale = scale,
        DType = w2.DType,
        WType = w.DType,
        WLayout = w.Layout,
    });
}
