namespace LowRank.Subspaces;

/// <summary>The known entries of a matrix [rows, cols], in any order.</summary>
/// <param name="Rows">Rows of the matrix.</param>
/// <param name="Cols">Columns of the matrix.</param>
/// <param name="RowOf">Row of every entry.</param>
/// <param name="ColOf">Column of every entry.</param>
/// <param name="Values">Value of every entry.</param>
public sealed record Observations(int Rows, int Cols, int[] RowOf, int[] ColOf, double[] Values)
{
    /// <summary>Number of entries.</summary>
    public int Count => Values.Length;

    /// <summary>Takes a share of the entries out at random: the rest, and those taken. The same seed takes the same.</summary>
    /// <exception cref="ShapeException">The share is not between 0 and 1, or leaves nothing on one side.</exception>
    public (Observations Kept, Observations Held) Split(double share, ulong seed)
    {
        int held = share is > 0 and < 1 ? (int)Math.Round(share * Count) : 0;
        if (held < 1 || held >= Count)
        {
            throw new ShapeException($"Observations: share is {share} of {Count} entries, want a share between 0 and 1 that leaves entries on both sides");
        }
        int[] order = new Rng(seed).Fork("held out").Permutation(Count);
        return (Part(order[held..]), Part(order[..held]));
    }

    /// <summary>The entries at these places.</summary>
    public Observations Part(IReadOnlyList<int> places) =>
        new(Rows, Cols, [.. places.Select(i => RowOf[i])], [.. places.Select(i => ColOf[i])], [.. places.Select(i => Values[i])]);
}
