namespace LowRank;

/// <summary>What a merge makes of entries u_t [n] of K models.</summary>
public enum MergeRule
{
    /// <summary>Σ u_t.</summary>
    Sum = 0,
    /// <summary>Σ of those u_t that have the elected sign, which is that of Σ u_t.</summary>
    Agreeing = 1,
    /// <summary>The same over the sum of their shares, where that is not 0.</summary>
    MeanOfAgreeing = 2,
    /// <summary>The largest magnitude of those that agree, with the elected sign.</summary>
    LargestOfAgreeing = 3,
}

/// <summary>Which entries draws leave: those whose uniform number u of 24 bits, Philox of a generator at the entry's index, lies in [From, To)·2⁻²⁴.</summary>
/// <param name="Seed">Of the generator.</param>
/// <param name="Stream">Of the generator.</param>
/// <param name="From">The least that stays.</param>
/// <param name="To">The first that goes.</param>
public readonly record struct MergeDraws(ulong Seed, ulong Stream, int From, int To)
{
    private const int Draws = 1 << 24;

    /// <summary>All stay.</summary>
    public static MergeDraws All { get; } = new(0, 0, 0, Draws);

    /// <summary>Those with u &gt; p stay: DARE as its authors draw.</summary>
    public static MergeDraws Above(Rng rng, double p) => new(rng.Key.Seed, rng.Key.Stream, Math.Clamp((int)Math.Floor(p * Draws) + 1, 0, Draws), Draws);

    /// <summary>Those with u &lt; p stay.</summary>
    public static MergeDraws Below(Rng rng, double p) => new(rng.Key.Seed, rng.Key.Stream, 0, Math.Clamp((int)Math.Ceiling(p * Draws), 0, Draws));
}

/// <summary>One model X of a merge and what of it takes part: v = Factor·(X - start), 0 where <see cref="Keep"/> or <see cref="Draws"/> drop it, and
/// u = Weight·v where |v| &gt; Least, or |v| = Least and the index lies before Cut, else 0.</summary>
/// <param name="Model">F32, BF16, F16 or F64.</param>
public sealed record MergeTerm(Tensor Model)
{
    /// <summary>Factor after the selection.</summary>
    public double Weight { get; init; } = 1;

    /// <summary>What it counts in the divisor of a mean.</summary>
    public double Share { get; init; } = 1;

    /// <summary>Factor before the selection.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>U8 of as many elements, 0 drops; null: all stay.</summary>
    public Tensor? Keep { get; init; }

    /// <summary>What is dropped at random.</summary>
    public MergeDraws Draws { get; init; } = MergeDraws.All;

    /// <summary>Threshold of the magnitudes; below 0: none.</summary>
    public double Least { get; init; } = -1;

    /// <summary>Index before which a magnitude equal to the threshold stays.</summary>
    public long Cut { get; init; } = long.MaxValue;
}

/// <summary>What a merge saw.</summary>
/// <param name="SignBalance">Elections that came out plus, less those that came out minus; not counted by <see cref="MergeRule.Sum"/>.</param>
/// <param name="Undecided">Elections of sum 0.</param>
/// <param name="Conflicts">Entries where one model lies above start and another below; without start above and below their mean. Where compared.</param>
/// <param name="Moved">Σ (y - start)², before y is rounded.</param>
/// <param name="MaxRounding">Largest distance of y from what it rounds.</param>
/// <param name="RoundingSquares">Sum of those distances, squared.</param>
/// <param name="Magnitudes">Σ |X - start| of each model; not finite where an entry is not.</param>
/// <param name="Kept">Σ |v| of what stays, of each model.</param>
/// <param name="Products">Σ (X_a - start)(X_b - start) for b ≤ a, a in order; without start from their mean. 0 where not compared.</param>
public sealed record MergeFigures(long SignBalance, long Undecided, long Conflicts, double Moved, double MaxRounding, double RoundingSquares, double[] Magnitudes, double[] Kept, double[] Products)
{
    /// <summary>False where a model or the start has NaN or infinity.</summary>
    public bool IsFinite => Magnitudes.All(double.IsFinite);
}
