namespace LowRank.Adapters;

/// <summary>Exact order statistics of |v| by a radix select on the bits of the floats, which order as their magnitudes do: four passes of 16 bits, no sort,
/// and the vectors need not be in memory together.</summary>
internal static class Magnitudes
{
    private const int Digit = 16;

    /// <summary>The magnitude of rank <paramref name="rank"/>, counted from 0 in ascending order, over all vectors.</summary>
    /// <param name="vectors">Called once a pass; finite values.</param>
    /// <param name="rank">Below the number of values.</param>
    public static double OfRank(Func<IEnumerable<double[]>> vectors, long rank)
    {
        ulong prefix = 0;
        var counts = new long[1 << Digit];
        for (int shift = 64 - Digit; shift >= 0; shift -= Digit)
        {
            Array.Clear(counts);
            foreach (double[] vector in vectors())
            {
                foreach (double value in vector)
                {
                    ulong bits = BitsOf(value);
                    if (shift == 64 - Digit || bits >> (shift + Digit) == prefix)
                    {
                        counts[(bits >> shift) & ((1 << Digit) - 1)]++;
                    }
                }
            }
            int digit = 0;
            while (rank >= counts[digit])
            {
                rank -= counts[digit++];
            }
            prefix = (prefix << Digit) | (uint)digit;
        }
        return BitConverter.UInt64BitsToDouble(prefix);
    }

    /// <summary>Sets all but the <paramref name="count"/> largest magnitudes to 0; of equal ones the first stay.</summary>
    public static void KeepLargest(double[] values, int count)
    {
        if (count >= values.Length)
        {
            return;
        }
        if (count <= 0)
        {
            Array.Clear(values);
            return;
        }
        double least = OfRank(() => [values], values.Length - count);
        int equal = count - values.Count(v => Math.Abs(v) > least);
        for (int i = 0; i < values.Length; i++)
        {
            double magnitude = Math.Abs(values[i]);
            if (magnitude < least || (magnitude == least && equal-- <= 0))
            {
                values[i] = 0;
            }
        }
    }

    /// <summary>Sets all to 0 but ranks [from, to) of the magnitudes in ascending order; of equal ones the first have the lower rank.</summary>
    public static void KeepRanks(double[] values, int from, int to)
    {
        if (from >= to)
        {
            Array.Clear(values);
            return;
        }
        double low = OfRank(() => [values], from), high = OfRank(() => [values], to - 1);
        int skip = from - values.Count(v => Math.Abs(v) < low), most = to - values.Count(v => Math.Abs(v) < high), lows = 0, highs = 0;
        for (int i = 0; i < values.Length; i++)
        {
            double magnitude = Math.Abs(values[i]);
            bool keep = magnitude >= low && magnitude <= high && (magnitude != low || lows++ >= skip) & (magnitude != high || highs++ < most);
            if (!keep)
            {
                values[i] = 0;
            }
        }
    }

    private static ulong BitsOf(double value) => BitConverter.DoubleToUInt64Bits(value) & (ulong.MaxValue >> 1);
}
