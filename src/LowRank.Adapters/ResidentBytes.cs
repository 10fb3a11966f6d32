namespace LowRank.Adapters;

/// <summary>What a model's weights take in memory, in bytes, padding of panels included. Forward and backward passes read the same copy: a packed matrix
/// has no rows beside it.</summary>
/// <param name="Rows">Row-major weights: trained ones, biases, norms, and every matrix of a model that is not packed.</param>
/// <param name="Panels">Frozen matrices packed for the matrix kernels.</param>
public readonly record struct ResidentBytes(long Rows, long Panels)
{
    /// <summary>Both.</summary>
    public long Total => Rows + Panels;
}
