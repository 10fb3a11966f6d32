namespace LowRank.Adapters;

/// <summary>Principal components of rows that come in batches. With n rows seen, mean μ and values Σ, components V of them, a batch X of m rows with mean ν
/// goes on from the decomposition of [Σ·V; X - ν; √(n·m/(n + m))·(μ - ν)] (Ross et al. 2008, "Incremental learning for robust visual tracking", section 3.2).</summary>
/// <param name="device">Where decompositions are worked out.</param>
/// <param name="count">Components kept.</param>
/// <param name="width">Columns of every batch.</param>
internal sealed class IncrementalPca(Device device, int count, int width)
{
    /// <summary>V [count, width], each row's entry of largest magnitude positive; empty before the first batch.</summary>
    public double[] Components { get; private set; } = [];

    /// <summary>Σ [count], falling.</summary>
    public double[] SingularValues { get; private set; } = [];

    /// <summary>Share of the whole variance along each component.</summary>
    public double[] ExplainedVarianceRatio { get; private set; } = [];

    /// <summary>Variance along each component, by n - 1.</summary>
    public double[] ExplainedVariance { get; private set; } = [];

    /// <summary>Mean of every column.</summary>
    public double[] Mean { get; private set; } = new double[width];

    /// <summary>Variance of every column, by n.</summary>
    public double[] Variance { get; private set; } = new double[width];

    /// <summary>Rows seen.</summary>
    public long Rows { get; private set; }

    /// <summary>Columns of every batch.</summary>
    public int Width => width;

    /// <summary>Takes a batch of at least <c>count</c> rows.</summary>
    public void Add(double[] batch)
    {
        int rows = batch.Length / width;
        double[] mean = [.. Enumerable.Range(0, width).Select(j => Column(batch, j).Sum() / rows)];
        double[] squares = [.. Enumerable.Range(0, width).Select(j => Column(batch, j).Sum(x => (x - mean[j]) * (x - mean[j])))];
        long all = Rows + rows;
        double shift = Math.Sqrt((double)Rows * rows / all);
        double[] stacked =
        [
            .. Components.Select((v, i) => v * SingularValues[i / width]),
            .. batch.Select((x, i) => x - mean[i % width]),
            .. Rows == 0 ? [] : Mean.Select((m, j) => shift * (m - mean[j])),
        ];
        Variance = [.. Variance.Select((v, j) => ((v * Rows) + squares[j] + (shift * shift * (Mean[j] - mean[j]) * (Mean[j] - mean[j]))) / all)];
        Mean = [.. Mean.Select((m, j) => ((m * Rows) + (mean[j] * rows)) / all)];
        Rows = all;
        using Scope scope = device.BeginScope();
        SvdFactors factors = Svd.Of(scope.Of([stacked.Length / width, width], stacked), scope, count);
        SingularValues = factors.S.ToDoubles();
        Components = factors.Vt.ToDoubles();
        Svd.TurnPositive(Components, width);
        double whole = Variance.Sum() * all;
        ExplainedVarianceRatio = [.. SingularValues.Select(s => s * s / whole)];
        ExplainedVariance = [.. SingularValues.Select(s => s * s / (all - 1))];
    }

    private IEnumerable<double> Column(double[] batch, int column)
    {
        for (int i = column; i < batch.Length; i += width)
        {
            yield return batch[i];
        }
    }
}
