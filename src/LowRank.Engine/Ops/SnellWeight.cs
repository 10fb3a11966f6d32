namespace LowRank;

/// <summary>W_eff = W + Sᵀ, S [k,n] as <see cref="SnellRule"/> makes it of the rows of two tables; W [n,k] in parameter precision, P [2,k,r], Q [2,n,r] →
/// [n,k]; saves τ [1].</summary>
public sealed record SnellWeight(SnellRule Rule) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (w, p, q) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        RequireRowMajor("W", w);
        RequireParameter("W", w, w.DType);
        RequireTables(Rule, p, q, n, k, w.DType);
        return [w.Shape, [1]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (w, p, q) = inputs;
        Rule.Select(p, q, outputs[1]);
        w.Device.Launch(Kernels.SnellForward, Args(Rule, null, w, p, q, outputs[1], null, outputs[0]));
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (w, p, q) = inputs;
        var (dw, dp, dq) = (grads[0], grads[1], grads[2]);
        if (dw.Wanted)
        {
            dw.Accumulate(dy);
        }
        if (dp.Wanted || dq.Wanted)
        {
            w.Device.Launch(Kernels.SnellBackward, GradArgs(Rule, null, w, p, q, outputs[1], dy) with { Dp = dp.Data, Dq = dq.Data, Add = Grads.Place.Mask(default, dp, dq) });
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (w, p, _) = inputs;
        return new(6 * w.Shape.Count * p.Shape[2], 2 * w.Shape.Count * w.DType.Size());
    }

    /// <summary>Throws unless the rule is in range and the tables are P [2,k,r] and Q [2,n,r], not empty, in parameter precision.</summary>
    internal static void RequireTables(SnellRule rule, Tensor p, Tensor q, int? n, int? k, DType activations)
    {
        if (rule.FindFault() is var (operand, got, want))
        {
            throw Wrong(operand, got, want);
        }
        if (p.Shape.Rank != 3 || p.Shape[0] != 2 || p.Shape.Count == 0 || (k is not null && p.Shape[1] != k))
        {
            throw Wrong("P", p.Shape, $"[2, {k?.ToString(null, null) ?? "inputs"}, half the rank], none of them 0");
        }
        if (q.Shape.Rank != 3 || q.Shape[0] != 2 || q.Shape[2] != p.Shape[2] || q.Shape[1] == 0 || (n is not null && q.Shape[1] != n))
        {
            throw Wrong("Q", q.Shape, $"[2, {n?.ToString(null, null) ?? "outputs"}, {p.Shape[2]}]");
        }
        foreach ((string name, Tensor table) in new[] { ("P", p), ("Q", q) })
        {
            if (table.DType != activations.ForParameters())
            {
                throw Wrong(name, table.DType, $"{activations.ForParameters()} beside {activations} activations");
            }
        }
    }

    internal static SnellArgs Args(SnellRule rule, Tensor? x, Tensor? w, Tensor p, Tensor q, Tensor tau, Tensor? bias, Tensor y) => new()
    {
        X = x?.Data ?? 0,
        W = w?.Data ?? 0,
        P = p.Data,
        Q = q.Data,
        Tau = tau.Data,
        Bias = bias?.Data ?? 0,
        Y = y.Data,
        Scale = rule.Scale,
        Norm = rule.Norm,
        Tokens = x?.Shape.Rows ?? 0,
        N = q.Shape[1],
        K = p.Shape[1],
        R = p.Shape[2],
        Mode = rule.Mode,
        DType = y.DType,
        WType = w?.DType ?? y.DType,
        WLayout = w?.Layout ?? Layout.Rows,
    };

    internal static SnellGradArgs GradArgs(SnellRule rule, Tensor? x, Tensor? w, Tensor p, Tensor q, Tensor tau, Tensor dy) => new()
    {
        X = x?.Data ?? 0,
        W = w?.Data ?? 0,
        P = p.Data,
        Q = q.Data,
        Tau = tau.Data,
        Dy = dy.Data,
        Scale = rule.Scale,
        Norm = rule.Norm,
        Tokens = x?.Shape.Rows ?? 0,
        N = q.Shape[1],
        K = p.Shape[1],
        R = p.Shape[2],
        Mode = rule.Mode,
        DType = dy.DType,
        WType = w?.DType ?? dy.DType,
        WLayout = w?.Layout ?? Layout.Rows,
    };

    private static ShapeException Wrong(string operand, object got, string want) => new($"Snell: {operand} is {got}, want {want}");
}
