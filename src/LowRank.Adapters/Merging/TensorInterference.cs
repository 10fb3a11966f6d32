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
    /// <summary>Measures the inputs; what the merge makes of them comes later.</summary>
    internal static TensorInterference Of(string tensor, double[]? origin, double[][] inputs)
    {
        int n = inputs.Length, count = inputs[0].Length;
        var products = new double[n * n];
        var differences = new double[n];
        long conflicts = 0;
        for (int i = 0; i < count; i++)
        {
            double from = 0;
            if (origin is null)
            {
                foreach (double[] input in inputs)
                {
                    from += input[i] / n;
                }
            }
            else
            {
                from = origin[i];
            }
            bool above = false, below = false;
            for (int a = 0; a < n; a++)
            {
                differences[a] = inputs[a][i] - from;
                above |= differences[a] > 0;
                below |= differences[a] < 0;
                for (int b = 0; b <= a; b++)
                {
                    products[(a * n) + b] += differences[a] * differences[b];
                }
            }
            conflicts += above && below ? 1 : 0;
        }
        double[] norms = [.. Enumerable.Range(0, n).Select(a => Math.Sqrt(products[(a * n) + a]))];
        double[] cosines = [.. Enumerable.Range(0, n).SelectMany(a => Enumerable.Range(0, a).Select(b => products[(a * n) + b] / (norms[a] * norms[b])))];
        return new(tensor, n, (double)conflicts / Math.Max(1, count), cosines.DefaultIfEmpty(double.NaN).Average(), cosines.DefaultIfEmpty(double.NaN).Min(), norms.Average(), 0, 0);
    }

    /// <summary>The same with what came out of it.</summary>
    internal TensorInterference With(double[]? origin, double[] merged, double[] rounded)
    {
        double moved = 0, most = 0, squares = 0;
        for (int i = 0; i < merged.Length; i++)
        {
            double change = merged[i] - (origin is null ? 0 : origin[i]), off = Math.Abs(rounded[i] - merged[i]);
            moved += change * change;
            most = Math.Max(most, off);
            squares += off * off;
        }
        return this with { Kept = origin is null ? double.NaN : Math.Sqrt(moved) / Kept, MaxRounding = most, RmsRounding = Math.Sqrt(squares / Math.Max(1, merged.Length)) };
    }
}
