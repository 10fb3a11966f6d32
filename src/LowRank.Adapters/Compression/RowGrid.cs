namespace LowRank.Adapters;

/// <summary>Rounding of a weight to the nearest of 2^Bits evenly spaced values a row, or a group of columns of a row (methods/eora: reference quantiser).
/// lo = min(0, min w), hi = max(0, max w), scale = (hi - lo)/(2^Bits - 1), zero = round(-lo/scale); q = clamp(round(w/scale) + zero, 0, 2^Bits - 1), half to
/// even; ŵ = scale·(q - zero), so that 0 stays 0. Symmetric: hi = max |w|, lo = -hi where there is a negative value, zero = 2^(Bits - 1).</summary>
/// <param name="Bits">Of a value, 2 to 8.</param>
/// <param name="Symmetric">The same distance to both sides.</param>
/// <param name="Group">Columns that share a scale; 0: the whole row.</param>
public sealed record RowGrid(int Bits, bool Symmetric = false, int Group = 0)
{
    private const int Fewest = 2, Most = 8;

    /// <summary>Throws where a number is out of range.</summary>
    /// <exception cref="AdapterConfigException">Bits or Group is; names it.</exception>
    public void Validate()
    {
        if (Bits is < Fewest or > Most || Group < 0)
        {
            throw new AdapterConfigException($"RowGrid: Bits is {Bits} and Group {Group}, want {Fewest} to {Most} bits, and groups of 1 column or more (0: a row)");
        }
    }

    /// <summary>Rounds w [rows, cols]; the last group of a row may be shorter.</summary>
    /// <exception cref="AdapterConfigException">As for <see cref="Validate"/>.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite.</exception>
    public RoundedRows Round(ReadOnlySpan<double> w, int cols)
    {
        Validate();
        int group = Group == 0 ? cols : Math.Min(Group, cols), groups = (cols + group - 1) / group, rows = w.Length / cols, top = (1 << Bits) - 1;
        var (values, codes) = (new double[w.Length], new byte[w.Length]);
        var (scales, zeros) = (new double[rows * groups], new double[rows * groups]);
        for (int at = 0; at < scales.Length; at++)
        {
            int first = (at / groups * cols) + (at % groups * group), count = Math.Min(group, cols - (at % groups * group));
            double low = 0, high = 0;
            foreach (double value in w.Slice(first, count))
            {
                (low, high) = double.IsFinite(value) ? (Math.Min(low, value), Math.Max(high, value)) : throw new NumericException($"RowGrid: a value is {value}, want finite values");
            }
            if (Symmetric)
            {
                high = Math.Max(-low, high);
                low = low < 0 ? -high : low;
            }
            if (low == 0 && high == 0)
            {
                (low, high) = (-1, 1);
            }
            double scale = scales[at] = (high - low) / top, zero = zeros[at] = Symmetric ? (top + 1) / 2 : Math.Round(-low / scale);
            for (int i = first; i < first + count; i++)
            {
                double q = Math.Clamp(Math.Round(w[i] / scale) + zero, 0, top);
                codes[i] = (byte)q;
                values[i] = scale * (q - zero);
            }
        }
        return new RoundedRows(values, codes, scales, zeros);
    }
}

/// <summary>A rounded weight [rows, cols].</summary>
/// <param name="Values">ŵ by row.</param>
/// <param name="Codes">q by row.</param>
/// <param name="Scales">By row and group.</param>
/// <param name="Zeros">The code of 0, by row and group.</param>
public sealed record RoundedRows(double[] Values, byte[] Codes, double[] Scales, double[] Zeros);
