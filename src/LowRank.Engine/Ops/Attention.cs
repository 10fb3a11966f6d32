namespace LowRank;

/// <summary>y[b,i,h,:] = Σ_j softmax_j(cap(s·q_i·k_j) + bias[h,i,j]) v_j with s = <see cref="Scale"/>; q [batch, queries, Heads·dim], k and v [batch, keys,
/// KvHeads·dim], mask U8 [batch, keys] (0 bars a key) or absent, bias [Heads, queries, keys] or absent → y like q; saves the log-sum-exp [batch, Heads, queries]. With Causal, key j is seen by query i if
/// j ≤ i + keys - queries; with Window w > 0 only if also j > i + keys - queries - w. A query with no key gives 0 and no gradient (arXiv 1706.03762;
/// tiled as 2205.14135).</summary>
public sealed record Attention(int Heads, bool Causal = false, int KvHeads = 0, int Window = 0) : Op
{
    /// <summary>Factor s of the scores; 0 stands for 1/√dim.</summary>
    public double Scale { get; init; }

    /// <summary>Soft cap c of the scores, cap(s) = c·tanh(s/c) (arXiv 2408.00118, section 2); 0: none.</summary>
    public double SoftCap { get; init; }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (q, k, v) = inputs;
        if (Heads <= 0 || KeyHeads <= 0 || Heads % KeyHeads != 0)
        {
            throw Bad("KvHeads", KeyHeads, $"a divisor of Heads {Heads}");
        }
        if (Window < 0)
        {
            throw Bad("Window", Window, "0 (no window) or the keys that a query sees at most");
        }
        if (q.Shape.Rank != 3 || q.Shape[2] % Heads != 0)
        {
            throw Bad("q", q.Shape, $"[batch, queries, {Heads}·dim]");
        }
        if (k.Shape.Rank != 3 || k.Shape[0] != q.Shape[0] || k.Shape[2] != q.Shape[2] / Heads * KeyHeads)
        {
            throw Bad("k", k.Shape, $"[{q.Shape[0]}, keys, {q.Shape[2] / Heads * KeyHeads}]");
        }
        Require("v", v, k.Shape);
        if (inputs.Optional(3) is { } mask && (mask.DType != DType.U8 || mask.Shape.Count != (long)k.Shape[0] * k.Shape[1]))
        {
            throw Bad("mask", mask, $"U8[{k.Shape[0]}, {k.Shape[1]}]");
        }
        if (SoftCap < 0)
        {
            throw Bad("SoftCap", SoftCap, "0 (no cap) or more");
        }
        Require("bias", inputs.Optional(4), [Heads, q.Shape[1], k.Shape[1]]);
        RequireParameter("bias", inputs.Optional(4), q.DType);
        return [q.Shape, [q.Shape[0], Heads, q.Shape[1]]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (q, k, v) = inputs;
        q.Device.Launch(Kernels.AttentionForward, new AttentionArgs
        {
            Q = q.Data,
            K = k.Data,
            V = v.Data,
            Mask = inputs.Optional(3)?.Data ?? 0,
            Bias = inputs.Optional(4)?.Data ?? 0,
            Y = outputs[0].Data,
            Lse = outputs[1].Data,
            Batch = q.Shape[0],
            Queries = q.Shape[1],
            Keys = k.Shape[1],
            Heads = Heads,
            KvHeads = KeyHeads,
            Dim = q.Shape[2] / Heads,
            Causal = Causal ? 1 : 0,
            Window = Window,
            Scale = Scale > 0 ? Scale : 1 / Math.Sqrt(q.Shape[2] / Heads),
            Cap = SoftCap,
            DType = q.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (q, k, v) = inputs;
        var (dq, dk, dv, dbias) = (grads[0], grads[1], grads[2], grads[4]);
        q.Device.Launch(Kernels.AttentionBackward, new AttentionGradArgs
        {
            Q = q.Data,
            K = k.Data,
            V = v.Data,
            Mask = inputs.Optional(3)?.Data ?? 0,
            Bias = inputs.Optional(4)?.Data ?? 0,
            Y = outputs[0].Data,
            Lse = outputs[1].Data,
            Dy = dy.Data,
            Dq = dq.Data,
            Dk = dk.Data,
            Dv = dv.Data,
            Dbias = dbias.Data,
            Batch = q.Shape[0],
            Queries = q.Shape[1],
            Keys = k.Shape[1],
            Heads = Heads,
            KvHeads = KeyHeads,
            Dim = q.Shape[2] / Heads,
            Causal = Causal ? 1 : 0,
            Window = Window,
            Scale = Scale > 0 ? Scale : 1 / Math.Sqrt(q.Shape[2] / Heads),
            Cap = SoftCap,
            DType = q.DType,
            Add = Grads.Place.Mask(dq, dk, dv, dbias),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (q, k) = inputs;
        long scores = q.Shape.Count * k.Shape[1];
        return new((Causal ? 2 : 4) * scores, 2 * q.DType.Size() * (q.Shape.Count + k.Shape.Count));
    }

    private int KeyHeads => KvHeads == 0 ? Heads : KvHeads;
}
