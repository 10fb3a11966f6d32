namespace LowRank;

/// <summary>How a matrix is made from coefficients of its cosine transform. All give the same but for rounding.</summary>
public enum DctRoute
{
    /// <summary>Whichever is cheaper.</summary>
    Fast,
    /// <summary>The coefficients are spelled out as a matrix, which is transformed along both sides.</summary>
    Dense,
    /// <summary>Sums of cosines along the columns, then a transform along the rows.</summary>
    Sparse,
}

/// <summary>y = W + Scale·C_mᵀ·S·C_n [Rows, Cols] from k coefficients of a 2-D cosine transform; a [k], u [2,k], W [Rows, Cols] → S[l_j] += a_j,
/// l = round(min(max(u, 0), 0.999)·(n−1)) with halves to even, row places in u[0], column places in u[1] (arXiv 2502.06820). W may be absent.
/// C is that of <see cref="Dct2"/>. The gradient of u is a central difference on the grid of places, with rounding taken as the identity:
/// (n−1)·clip(a_j/2·(K[l+1] − K[l−1]), ±1), K = Scale·C_m·dy·C_nᵀ, zero where u is outside of 0 .. 0.999.</summary>
/// <param name="Rows">m.</param>
/// <param name="Cols">n.</param>
/// <param name="Scale">Factor on what the coefficients make.</param>
/// <param name="Route">How it is computed.</param>
public sealed record SparseDct(int Rows, int Cols, double Scale, DctRoute Route = DctRoute.Fast) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Check(inputs.Optional(2), inputs[0], inputs[1], inputs[0].DType);
        return [[Rows, Cols]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Launch(inputs.Optional(2), inputs[0], inputs[1], outputs[0]);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        if (grads[2] is { Wanted: true } dw)
        {
            dw.Accumulate(dy);
        }
        Gradients(dy, null, inputs[0], inputs[1], grads[0], grads[1]);
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        long count = inputs[0].Shape.Count;
        Cost rows = Dct2.Transform(1, Cols, inputs[0].DType.Size());
        return new((Rows * rows.Flops) + (4 * count * Rows), 2L * Rows * Cols * inputs[0].DType.Size());
    }

    /// <summary>Throws unless the operands fit this op.</summary>
    internal void Check(Tensor? w, Tensor a, Tensor u, DType activations)
    {
        if (Rows < 1 || Cols < 1)
        {
            throw new ShapeException($"SparseDct: Rows and Cols are {Rows} and {Cols}, want at least 1");
        }
        if (a.Shape.Rank != 1)
        {
            throw Bad("a", a.Shape, "one dimension");
        }
        Require("W", w, [Rows, Cols]);
        Require("u", u, [2, a.Shape[0]]);
        RequireParameter("W", w, activations);
        RequireParameter("a", a, activations);
        RequireParameter("u", u, activations);
        if (w is not null)
        {
            RequireRowMajor("W", w);
        }
    }

    internal void Launch(Tensor? w, Tensor a, Tensor u, Tensor y) => a.Device.Launch(Kernels.SparseDct, new SparseDctArgs
    {
        W = w?.Data ?? 0,
        A = a.Data,
        U = u.Data,
        Y = y.Data,
        Rows = Rows,
        Cols = Cols,
        Count = a.Shape[0],
        Route = Route,
        Scale = Scale,
        DType = a.DType,
    });

    /// <summary>Gradients of a and u from dyᵀ·x, which is never formed; dy null: from x itself.</summary>
    internal void Gradients(Tensor x, Tensor? dy, Tensor a, Tensor u, Grads.Place da, Grads.Place du)
    {
        if (!da.Wanted && !du.Wanted)
        {
            return;
        }
        x.Device.Launch(Kernels.SparseDctBackward, new SparseDctGradArgs
        {
            X = x.Data,
            Dy = dy?.Data ?? 0,
            A = a.Data,
            U = u.Data,
            Da = da.Data,
            Du = du.Data,
            Tokens = x.Shape.Rows,
            Rows = Rows,
            Cols = Cols,
            Count = a.Shape[0],
            Scale = Scale,
            DType = x.DType,
            Add = Grads.Place.Mask(da, du),
        });
    }
}
