using System.Globalization;

namespace LowRank.Adapters;

/// <summary>N of every M neighbouring inputs of a row are kept, those with the largest |w|·√c, c the mean of the input's squares over the samples, each
/// summed over its tokens (Wanda, arXiv 2306.11695); of equal ones the later.</summary>
/// <param name="Kept">N.</param>
/// <param name="Of">M.</param>
public sealed record SparsePattern(int Kept, int Of)
{
    /// <summary>The pattern of a word such as 2:4.</summary>
    /// <exception cref="AdapterConfigException">It is none.</exception>
    public static SparsePattern Parse(string text)
    {
        string[] parts = text.Split(':');
        if (parts.Length != 2 || !int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out int kept) || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int of))
        {
            throw new AdapterConfigException($"SparsePattern: the pattern is {text}, want two numbers such as 2:4");
        }
        return new SparsePattern(kept, of);
    }

    /// <summary>Throws where no such pattern fits a row.</summary>
    /// <exception cref="AdapterConfigException">N is not below M, or M does not divide the number of inputs.</exception>
    public void Validate(int inputs)
    {
        if (Kept < 1 || Kept >= Of || inputs % Of != 0)
        {
            throw new AdapterConfigException($"SparsePattern: the pattern is {this} for {inputs} inputs, want 1 or more kept of a larger number that divides the inputs");
        }
    }

    /// <summary>w [rows, inputs] with the others set to 0.</summary>
    /// <param name="w">By row.</param>
    /// <param name="squares">c [inputs].</param>
    /// <exception cref="AdapterConfigException">As for <see cref="Validate"/>.</exception>
    public double[] Prune(ReadOnlySpan<double> w, ReadOnlySpan<double> squares)
    {
        Validate(squares.Length);
        double[] kept = w.ToArray();
        var (scores, order) = (new double[Of], new int[Of]);
        for (int first = 0; first < kept.Length; first += Of)
        {
            for (int i = 0; i < Of; i++)
            {
                (scores[i], order[i]) = (Math.Abs(kept[first + i]) * Math.Sqrt(squares[(first + i) % squares.Length]), i);
            }
            foreach (int i in order.OrderBy(i => scores[i]).Take(Of - Kept).ToArray())     // a stable order
            {
                kept[first + i] = 0;
            }
        }
        return kept;
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Kept}:{Of}";
}
