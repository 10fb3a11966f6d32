namespace LowRank.Adapters;

/// <summary>How unsure a classifier is: the mean over rows of -Σ p log(p + ε), p = softmax(z) (AdaMerging, arXiv 2310.02575).</summary>
internal static class PredictionEntropy
{
    /// <summary>The entropy and its gradient dz = -p·(f'(p) - Σ p f'(p))/rows, f(p) = p log(p + ε).</summary>
    /// <exception cref="ShapeException">Logits are no matrix: the message has their shape.</exception>
    public static (double Value, double[] Gradient) Of(Tensor logits, double epsilon)
    {
        if (logits.Shape.Rank != 2 || logits.Shape.Count == 0)
        {
            throw new ShapeException($"ConcreteMerge: logits are {logits.Shape}, want [rows, classes], at least one of each");
        }
        (int rows, int cols) = (logits.Shape[0], logits.Shape[1]);
        double[] z = logits.ToDoubles(), share = new double[cols], slope = new double[cols];
        double total = 0;
        for (int i = 0; i < rows; i++)
        {
            Span<double> row = z.AsSpan(i * cols, cols);
            double top = double.NegativeInfinity, exps = 0, mean = 0;
            foreach (double value in row)
            {
                top = Math.Max(top, value);
            }
            foreach (double value in row)
            {
                exps += Math.Exp(value - top);
            }
            for (int j = 0; j < cols; j++)
            {
                double log = row[j] - top - Math.Log(exps);
                share[j] = Math.Exp(log);
                double part = epsilon > 0 ? Math.Log(share[j] + epsilon) : log;
                slope[j] = share[j] == 0 ? 0 : part + (share[j] / (share[j] + epsilon));
                total -= share[j] == 0 ? 0 : share[j] * part;
                mean += share[j] * slope[j];
            }
            for (int j = 0; j < cols; j++)
            {
                row[j] = -share[j] * (slope[j] - mean) / rows;
            }
        }
        return (total / rows, z);
    }
}
