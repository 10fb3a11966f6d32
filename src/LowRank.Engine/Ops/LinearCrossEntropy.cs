namespace LowRank;

/// <summary>The loss of <see cref="CrossEntropy"/> over logits = x·Wᵀ + bias, of which a slab of rows is in memory at a time; x [..., k], W [n,k] in any layout,
/// labels I32 [rows], bias [n] or absent → loss [1] in parameter precision; saves log-sum-exp, count and losses as it does. Where x alone wants a gradient it is
/// made beside the loss while a slab is there, so a step costs the products of the plain route: 2·rows·n·k FLOPs forward and as many back. Where W or bias
/// want theirs too, the way back makes the slabs once more.</summary>
public sealed record LinearCrossEntropy(int Ignore = -100, double Smoothing = 0, double SoftCap = 0) : Op
{
    private const int Share = 12;               // of the rows a slab has: with its gradient in place, less than an eighth of what two whole matrices take
    private const int Least = 64;               // rows below which the products lose more than memory gains
    private const long MostBytes = 64 << 20;

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, w, labels) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k || x.Shape.Rows == 0)
        {
            throw Bad("x", x.Shape, $"[..., {k}] with one row at least");
        }
        if (labels.Shape.Count != x.Shape.Rows)
        {
            throw Bad("labels", labels.Shape, $"{x.Shape.Rows} labels, one a row of {x.Shape}");
        }
        Require("bias", inputs.Optional(3), [n]);
        RequireParameter("bias", inputs.Optional(3), x.DType);
        RequireWeightType(x, w);
        RequireOptions(Smoothing, SoftCap);
        RequireIds("labels", labels, n, Ignore);
        Shape[] saved = [[1], [x.Shape.Rows], [1], [x.Shape.Rows]];
        return MakesGradient(inputs) ? [.. saved, x.Shape] : saved;
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => output == 4 ? inputs[0].DType : inputs[0].DType.ForParameters();

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, w, labels) = inputs;
        Tensor? dx = outputs.Optional(4);
        foreach ((int first, Tensor logits) in Slabs(x, w, inputs.Optional(3)))
        {
            x.Device.Launch(Kernels.CrossEntropyForward, new CrossEntropyArgs
            {
                Logits = logits.Data,
                Labels = labels.Data,
                Loss = outputs[0].Data,
                Lse = outputs[1].Data,
                Valid = outputs[2].Data,
                Losses = outputs[3].Data,
                Dlogits = dx is null ? 0 : logits.Data,
                Rows = logits.Shape[0],
                Cols = logits.Shape[1],
                First = first,
                Total = x.Shape.Rows,
                Ignore = Ignore,
                Smoothing = Smoothing,
                Cap = SoftCap,
                DType = x.DType,
            });
            if (dx is not null)
            {
                Back(x, w, logits, first, dx.Data, 0, 0, 0);
            }
        }
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, w, labels) = inputs;
        var (dx, dw, dbias) = (grads[0], grads[1], grads[3]);
        if (outputs.Optional(4) is { } made)
        {
            x.Device.Launch(Kernels.MulBackward, new BinaryGradArgs { Z = dy.Data, Dy = made.Data, Dx = dx.Data, Count = x.Shape.Count, Period = 1, DType = x.DType, ZType = dy.DType, Add = Grads.Place.Mask(dx) });
            return;
        }
        uint add = Grads.Place.Mask(dx, dw, dbias);
        foreach ((int first, Tensor logits) in Slabs(x, w, inputs.Optional(3)))
        {
            x.Device.Launch(Kernels.CrossEntropyBackward, new CrossEntropyGradArgs
            {
                Logits = logits.Data,
                Labels = labels.Data + (nint)((long)first * sizeof(int)),
                Lse = outputs[1].Data + (nint)((long)first * outputs[1].DType.Size()),
                Valid = outputs[2].Data,
                Dloss = dy.Data,
                Dlogits = logits.Data,
                Rows = logits.Shape[0],
                Cols = logits.Shape[1],
                Ignore = Ignore,
                Smoothing = Smoothing,
                Cap = SoftCap,
                DType = x.DType,
            });
            Back(x, w, logits, first, dx.Data, dw.Data, dbias.Data, add | (first > 0 ? 0b110u : 0));
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, w) = inputs;
        long rows = x.Shape.Rows, n = w.Shape[0], k = w.Shape[1];
        return new((MakesGradient(inputs) ? 4 : 2) * rows * n * k, (x.DType.Size() * rows * k) + (long)w.Bytes);
    }

    private static bool MakesGradient(Inputs inputs) =>
        inputs[0] is { NeedsGradient: true, Device.Current: Tape } && !inputs[1].NeedsGradient && inputs.Optional(3) is not { NeedsGradient: true };

    /// <summary>Logits of rows [first, first + logits.Shape[0]) after each other, in one piece of memory.</summary>
    private static IEnumerable<(int First, Tensor Logits)> Slabs(Tensor x, Tensor w, Tensor? bias)
    {
        int rows = x.Shape.Rows, n = w.Shape[0], most = (int)Math.Clamp(MostBytes / Math.Max(1, (long)n * x.DType.Size()), Least, int.MaxValue);
        int slab = Math.Clamp(((rows / Share) + 31) & ~31, Least, most);
        using Scope own = x.Device.NewStore();
        Tensor logits = own.New([Math.Min(slab, rows), n], x.DType);
        for (int first = 0; first < rows; first += slab)
        {
            int count = Math.Min(slab, rows - first);
            x.Device.Launch(Kernels.LinearForward, new LinearArgs
            {
                X = Row(x, first),
                W = w.Data,
                Bias = bias?.Data ?? 0,
                Y = logits.Data,
                Tokens = count,
                N = n,
                K = w.Shape[1],
                DType = x.DType,
                WType = w.DType,
                WLayout = w.Layout,
            });
            yield return (first, count < logits.Shape[0] ? logits.Slice(0, count) : logits);
        }
    }

    /// <summary>Gradients by those of a slab of logits; a place of 0 is not wanted.</summary>
    private static void Back(Tensor x, Tensor w, Tensor dlogits, int first, nint dx, nint dw, nint dbias, uint add) => x.Device.Launch(Kernels.LinearBackward, new LinearGradArgs
    {
        X = Row(x, first),
        W = w.Data,
        Dy = dlogits.Data,
        Dx = dx == 0 ? 0 : dx + Row(x, first) - x.Data,
        Dw = dw,
        Dbias = dbias,
        Tokens = dlogits.Shape[0],
        N = w.Shape[0],
        K = w.Shape[1],
        DType = x.DType,
        WType = w.DType,
        WLayout = w.Layout,
        Add = add,
    });

    private static nint Row(Tensor x, int row) => x.Data + (nint)((long)row * x.Shape.Cols * x.DType.Size());
}
