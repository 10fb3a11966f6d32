namespace LowRank.Subspaces;

/// <summary>A completed matrix, M_ij ≈ bias_ij + U_i·V_j.</summary>
/// <param name="U">[rows, rank].</param>
/// <param name="V">[cols, rank].</param>
/// <param name="Rank">Columns of U and V; 0 where there are only biases.</param>
/// <param name="Biases">Mean and biases; null where the factors are all there is.</param>
/// <param name="Converged">The error over the observed entries stopped changing, or is zero; else the sweeps ran out.</param>
/// <param name="History">What each sweep of this run reached.</param>
/// <param name="EmptyRows">Rows without an observation: their row of U is 0.</param>
/// <param name="EmptyCols">Columns without one: their row of V is 0.</param>
/// <param name="Helped">Systems of the last sweep whose normal matrix was not positive definite and got a ridge.</param>
/// <param name="Warnings">What a user should know of the data and the run.</param>
/// <param name="State">To go on from here with <see cref="CompletionOptions.Resume"/>.</param>
public sealed record Completion(
    double[] U, double[] V, int Rank, BiasModel? Biases, bool Converged, IReadOnlyList<CompletionSweep> History, int EmptyRows, int EmptyCols, int Helped, IReadOnlyList<string> Warnings, CompletionState? State)
{
    /// <summary>The value at a place; a row or column of -1 is unknown and adds nothing.</summary>
    public double Predict(int row, int col)
    {
        double value = Biases?.Predict(row, col) ?? 0;
        for (int j = 0; j < Rank && row >= 0 && col >= 0; j++)
        {
            value += U[((long)row * Rank) + j] * V[((long)col * Rank) + j];
        }
        return value;
    }

    /// <summary>Root mean square error of predictions, between <paramref name="low"/> and <paramref name="high"/>, over some entries.</summary>
    public double Rmse(Observations data, double low = double.NegativeInfinity, double high = double.PositiveInfinity)
    {
        double squares = 0;
        for (int t = 0; t < data.Count; t++)
        {
            double error = Math.Clamp(Predict(data.RowOf[t], data.ColOf[t]), low, high) - data.Values[t];
            squares += error * error;
        }
        return Math.Sqrt(squares / data.Count);
    }
}
