namespace LowRank.Adapters;

/// <summary>What rounding W_eff to the weight's type cost on one layer. All zero where the weight has parameter precision.</summary>
/// <param name="Path">The layer.</param>
/// <param name="MaxRounding">Largest |rounded − W_eff|.</param>
/// <param name="RmsRounding">Root mean square of rounded − W_eff.</param>
/// <param name="Vanished">Share of the entries with W_eff ≠ W whose rounded value is W again.</param>
public sealed record MergeLoss(string Path, double MaxRounding, double RmsRounding, double Vanished);

/// <summary>What a merge did, layer by layer.</summary>
public sealed record MergeReport(IReadOnlyList<MergeLoss> Layers)
{
    /// <summary>The largest rounding of any layer.</summary>
    public double MaxRounding => Layers.Select(l => l.MaxRounding).DefaultIfEmpty().Max();

    /// <summary>The largest share of vanished entries of any layer.</summary>
    public double Vanished => Layers.Select(l => l.Vanished).DefaultIfEmpty().Max();
}
