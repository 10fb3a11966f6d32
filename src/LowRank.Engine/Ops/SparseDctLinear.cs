namespace LowRank;

/// <summary>y = x·W_effᵀ + bias, W_eff = <see cref="SparseDct"/> of a, u and W; x [..., Cols], a [k], u [2,k], W [Rows, Cols] or absent, bias [Rows] or absent →
/// y [..., Rows], saved W_eff. The gradients of a and u are products of the spectra of the rows of x and of dy at the k places (and next to them for u):
/// da_j = Scale·Σ_t DCT(x_t)[l2_j]·DCT(dy_t)[l1_j], so dyᵀ·x [Rows, Cols] is never formed.</summary>
public sealed record SparseDctLinear(int Rows, int Cols, double Scale, DctRoute Route = DctRoute.Fast) : Op
{
    private SparseDct Weight => new(Rows, Cols, Scale, Route);

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor x = inputs[0];
        if (x.Shape.Rank == 0 || x.Shape.Cols != Cols)
        {
            throw Bad("x", x.Shape, $"[..., {Cols}]");
        }
        Weight.Check(inputs.Optional(3), inputs[1], inputs[2], x.DType);
        Require("bias", inputs.Optional(4), [Rows]);
        RequireParameter("bias", inputs.Optional(4), x.DType);
        return [x.Shape.WithCols(Rows), [Rows, Cols]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Weight.Launch(inputs.Optional(3), inputs[1], inputs[2], outputs[1]);
        new Linear().Run((Tensor?[])[inputs[0], outputs[1], inputs.Optional(4)], (Tensor?[])[outputs[0]]);
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0], w = outputs[1];
        var (dx, dw, dbias) = (grads[0], grads[3], grads[4]);
        if (dx.Wanted || dw.Wanted || dbias.Wanted)
        {
            x.Device.Launch(Kernels.LinearBackward, new LinearGradArgs
            {
                X = x.Data,
                W = w.Data,
                Dy = dy.Data,
                Dx = dx.Data,
                Dw = dw.Data,
                Dbias = dbias.Data,
                Tokens = x.Shape.Rows,
                N = Rows,
                K = Cols,
                DType = x.DType,
                WType = w.DType,
                Add = Grads.Place.Mask(dx, dw, dbias),
            });
        }
        Weight.Gradients(x, dy, inputs[1], inputs[2], grads[1], grads[2]);
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        long tokens = inputs[0].Shape.Rows;
        Cost weight = Weight.Cost((Tensor?[])[inputs[1], inputs[2]]);
        return new(weight.Flops + (2 * tokens * Rows * Cols), weight.Bytes + (inputs[0].DType.Size() * tokens * ((long)Rows + Cols)));
    }
}
