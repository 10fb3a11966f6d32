namespace LowRank.Adapters;

/// <summary>A mask drawn from the binary Concrete distribution with logits x, m = clamp(σ((logit(u) + x)/τ), tiny, 1-eps) as torch's RelaxedBernoulli computes it,
/// and s = m/mean(m), which has mean 1 (arXiv 2312.06173). u and σ(x) are clamped to [eps, 1-eps] of the type first; no gradient passes a clamp.</summary>
internal sealed class BinaryConcrete
{
    private readonly double[] logits;
    private readonly double temperature, mean, unit, tiny, edge;

    /// <summary>Draws.</summary>
    /// <param name="logits">x [n].</param>
    /// <param name="uniform">u [n].</param>
    /// <param name="temperature">τ, above 0.</param>
    /// <param name="type">F32 or F64: whose eps and tiny.</param>
    public BinaryConcrete(double[] logits, double[] uniform, double temperature, DType type)
    {
        (this.logits, this.temperature) = (logits, temperature);
        (unit, tiny) = type == DType.F64 ? (Math.BitIncrement(1.0) - 1, 2.2250738585072014e-308) : (MathF.BitIncrement(1f) - 1, 1.1754943508222875e-38);
        edge = Math.Log((1 - unit) / unit);
        Mask = new double[logits.Length];
        for (int i = 0; i < logits.Length; i++)
        {
            double draw = Math.Clamp(uniform[i], unit, 1 - unit), z = (Math.Log(draw) - double.LogP1(-draw) + Math.Clamp(logits[i], -edge, edge)) / temperature;
            Mask[i] = Math.Clamp(1 / (1 + Math.Exp(-z)), tiny, 1 - unit);
        }
        mean = Mask.Length == 0 ? 1 : Mask.Average();
        Scaled = [.. Mask.Select(m => m / mean)];
    }

    /// <summary>m.</summary>
    public double[] Mask { get; }

    /// <summary>s.</summary>
    public double[] Scaled { get; }

    /// <summary>dL/dx = m·(1-m)/τ·(dL/ds - mean(dL/ds ⊙ s))/mean(m): the second term is the gradient through the mean.</summary>
    public double[] Gradient(double[] upstream)
    {
        double level = MergeRules.Dot(upstream, Scaled) / Math.Max(1, upstream.Length);
        var gradient = new double[upstream.Length];
        for (int i = 0; i < gradient.Length; i++)
        {
            double m = Mask[i];
            bool clamped = Math.Abs(logits[i]) > edge || m <= tiny || m >= 1 - unit;
            gradient[i] = clamped ? 0 : (upstream[i] - level) / mean * m * (1 - m) / temperature;
        }
        return gradient;
    }
}
