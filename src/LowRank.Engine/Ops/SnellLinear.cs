namespace LowRank;

/// <summary>y = x·(W + Sᵀ)ᵀ + bias, S [k,n] as <see cref="SnellRule"/> makes it of the rows of two tables; x [..., k], W [n,k] frozen in any form, P [2,k,r],
/// Q [2,n,r], bias [n] or absent → y [..., n]; saves τ [1]. Without W: y = x·S + bias. Neither W + Sᵀ nor the gradient of it is kept: both passes make
/// them in scratch that all layers share. On CUDA in 16 bits W + Sᵀ is rounded to the activations' type.</summary>
public sealed record SnellLinear(SnellRule Rule) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor x = inputs[0], p = inputs[2], q = inputs[3];
        Tensor? w = inputs.Optional(1);
        (int? n, int? k) = (null, null);
        if (w is not null)
        {
            (n, k) = RequireMatrix("W", w);
            RequireWeightType(x, w);
        }
        if (w is { NeedsGradient: true })
        {
            throw Bad("W", "trained", $"a frozen weight; {nameof(SnellWeight)} and {nameof(Linear)} take a trained one");
        }
        SnellWeight.RequireTables(Rule, p, q, n, k, x.DType);
        if (x.Shape.Rank == 0 || x.Shape.Cols != p.Shape[1])
        {
            throw Bad("x", x.Shape, $"[..., {p.Shape[1]}]");
        }
        Require("bias", inputs.Optional(4), [q.Shape[1]]);
        RequireParameter("bias", inputs.Optional(4), x.DType);
        return [x.Shape.WithCols(q.Shape[1]), [1]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor x = inputs[0], p = inputs[2], q = inputs[3];
        Rule.Select(p, q, outputs[1]);
        x.Device.Launch(Kernels.SnellForward, SnellWeight.Args(Rule, x, inputs.Optional(1), p, q, outputs[1], inputs.Optional(4), outputs[0]));
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        var (dx, dp, dq, dbias) = (grads[0], grads[2], grads[3], grads[4]);
        x.Device.Launch(Kernels.SnellBackward, SnellWeight.GradArgs(Rule, x, inputs.Optional(1), inputs[2], inputs[3], outputs[1], dy) with
        {
            Dx = dx.Data,
            Dp = dp.Data,
            Dq = dq.Data,
            Dbias = dbias.Data,
            Add = Grads.Place.Mask(dx, dp, dq, dbias),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        Tensor x = inputs[0], p = inputs[2], q = inputs[3];
        long tokens = x.Shape.Rows, k = p.Shape[1], n = q.Shape[1], r = p.Shape[2];
        return new((2 * tokens * n * k) + (6 * n * k * r), (x.DType.Size() * tokens * (n + k)) + ((long?)inputs.Optional(1)?.Bytes ?? 0));
    }
}
