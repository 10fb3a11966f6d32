namespace LowRank.Subspaces;

/// <summary>M_ij ≈ mean + row_i + col_j.</summary>
/// <param name="Mean">Mean of all entries.</param>
/// <param name="Rows">Deviation of every row.</param>
/// <param name="Cols">Deviation of every column.</param>
public sealed record BiasModel(double Mean, double[] Rows, double[] Cols)
{
    private const int Rounds = 20;

    /// <summary>Minimises Σ (value − mean − row_i − col_j)² + λ·(Σ row_i² + Σ col_j²) for the mean of the values, columns and rows in turn.</summary>
    /// <param name="data">The observations; several at one place are allowed.</param>
    /// <param name="lambda">In entries: 0 or more.</param>
    /// <exception cref="ShapeException">Data or λ is none.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite.</exception>
    public static BiasModel Fit(Observations data, double lambda = 5) => Fit(Entries.Of(data, average: true), lambda);

    /// <summary>The prediction for a place; a row or column of -1 is unknown and has no bias.</summary>
    public double Predict(int row, int col) => Mean + (row < 0 ? 0 : Rows[row]) + (col < 0 ? 0 : Cols[col]);

    internal static BiasModel Fit(Entries entries, double lambda)
    {
        if (!(lambda >= 0))
        {
            throw new ShapeException($"BiasModel: lambda is {lambda}, want 0 or more");
        }
        double mean = entries.Values.Average();
        double[] rows = new double[entries.Rows], cols = new double[entries.Cols], turned = entries.Turned(entries.Values);
        for (int round = 0; round < Rounds; round++)
        {
            Update(cols, entries.TurnedStarts, entries.TurnedRows, turned, mean, rows, lambda);
            Update(rows, entries.Starts, entries.Columns, entries.Values, mean, cols, lambda);
        }
        return new BiasModel(mean, rows, cols);
    }

    /// <summary>What is left of the entries' values, in the order of rows.</summary>
    internal double[] Rest(Entries entries)
    {
        var rest = new double[entries.Values.Length];
        for (int t = 0; t < rest.Length; t++)
        {
            rest[t] = entries.Values[t] - Predict(entries.RowOf[t], entries.Columns[t]);
        }
        return rest;
    }

    private static void Update(double[] mine, long[] starts, int[] others, double[] values, double mean, double[] theirs, double lambda)
    {
        for (int i = 0; i < mine.Length; i++)
        {
            double sum = 0;
            for (long t = starts[i]; t < starts[i + 1]; t++)
            {
                sum += values[t] - mean - theirs[others[t]];
            }
            mine[i] = sum == 0 ? 0 : sum / (starts[i + 1] - starts[i] + lambda);
        }
    }
}
