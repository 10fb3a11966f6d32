namespace LowRank.Adapters;

/// <summary>How the inputs of one merged tensor agree, and what merging and rounding did. Differences are taken to the base, or without one to the inputs' mean.</summary>
/// <param name="Tensor">Its name.</param>
/// <param name="Inputs">How many were merged.</param>
/// <param name="SignConflicts">Share of the entries where one difference is above 0 and another below.</param>
/// <param name="MeanCosine">Mean over pairs of the cosine of the angle between differences; NaN where a pair has none.</param>
/// <param name="LeastCosine">The smallest of them.</param>
/// <param name="Kept">‖merged - base‖ over the mean of the ‖differences‖: what is left of the change; NaN where nothing changed.</param>
/// <param name="MaxRounding">Largest |rounded - merged|.</param>
/// <param name="RmsRounding">Root mean square of it.</param>
public sealed record TensorInterference(string Tensor, int Inputs, double SignConflicts, double MeanCosine, double LeastCosine, double Kept, double MaxRounding, double RmsRounding)
{
    /// <summary>What a merge saw of a tensor of <paramref name="count"/> entries.</summary>
    internal static TensorInterference Of(string tensor, long count, bool based, MergeFigures figures)
    {
        int n = figures.Magnitudes.Length;
        double Product(int a, int b) => figures.Products[(a * (a + 1) / 2) + b];
        double[] norms = [.. Enumerable.Range(0, n).Select(a => Math.Sqrt(Product(a, a)))];
        double[] cosines = [.. Enumerable.Range(0, n).SelectMany(a => Enumerable.Range(0, a).Select(b => Product(a, b) / (norms[a] * norms[b])))];
        double entries = Math.Max(1, count);
        return new(tensor, n, figures.Conflicts / entries, cosines.DefaultIfEmpty(double.NaN).Average(), cosines.DefaultIfEmpty(double.NaN).Min(),
            based ? Math.Sqrt(figures.Moved) / norms.Average() : double.NaN, figures.MaxRounding, Math.Sqrt(figures.RoundingSquares / entries));
    }
}
