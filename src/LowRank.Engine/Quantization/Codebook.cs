using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>The values that codes stand for, each in -1 .. 1, and the search for the code of a value.</summary>
internal sealed class Codebook
{
    private const double GridSteps = 65535;
    private readonly byte[] codes;       // in the order of their values; equal values in the order of their codes
    private readonly float[] middles;    // between neighbours in that order
    private readonly bool grid;

    private Codebook(float[] values, bool grid = false)
    {
        Values = values;
        this.grid = grid;
        codes = [.. Enumerable.Range(0, values.Length).OrderBy(i => values[i]).Select(i => (byte)i)];
        middles = [.. Enumerable.Range(0, values.Length - 1).Select(i => (values[codes[i]] + values[codes[i + 1]]) / 2)];
    }

    /// <summary>4-bit NormalFloat (arXiv 2305.14314): quantiles of a normal distribution, with a zero.</summary>
    public static Codebook NF4 { get; } = new(
    [
        -1, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0,
        0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1,
    ]);

    /// <summary>4-bit float of sign, two bits of exponent and one of mantissa, scaled so that the largest is 1.</summary>
    public static Codebook FP4 { get; } = new(
    [
        0, 0.0052083335f, 0.6666667f, 1, 0.33333334f, 0.5f, 0.16666667f, 0.25f,
        0, -0.0052083335f, -0.6666667f, -1, -0.33333334f, -0.5f, -0.16666667f, -0.25f,
    ]);

    /// <summary>The dynamic 8-bit map (arXiv 2110.02861): a decimal exponent, then a linear fraction with the bits that it leaves.
    /// bitsandbytes looks values up on a grid of 65,536 points, and so does this one, for the same codes.</summary>
    public static Codebook Dynamic8 { get; } = new(MakeDynamic(), grid: true);

    /// <summary>The same map searched exactly, as blockwise Adam does for its first moment.</summary>
    public static Codebook Signed8 { get; } = new(MakeDynamic());

    /// <summary>The dynamic map of values from 0 to 1, twice as many of them in each decade: for Adam's second moment.</summary>
    public static Codebook Unsigned8 { get; } = new(MakeDynamic(signed: false));

    /// <summary>Value by code.</summary>
    public float[] Values { get; }

    /// <summary>The code whose value is nearest; halfway between two, the lower one.</summary>
    public byte Nearest(float value)
    {
        if (grid)
        {
            value = (float)((2 * Math.Round((value + 1.0) * GridSteps / 2) / GridSteps) - 1);
        }
        int low = 0, high = middles.Length;     // how many middles lie below
        while (low < high)
        {
            int middle = (low + high) / 2;
            (low, high) = middles[middle] < value ? (middle + 1, high) : (low, middle);
        }
        return codes[low];
    }

    /// <summary>The book of <c>Adam8BitArgs</c> (lowrank.h): values, middles, and the code from which a search goes up by at most one.</summary>
    public byte[] ToBook()
    {
        const int least = (127 - 23) << 7, places = (23 << 7) + 1;
        byte First(int place, float sign)
        {
            float low = place == 0 ? 0 : BitConverter.Int32BitsToSingle((least + place) << 16);
            return Nearest(sign * (sign > 0 ? low : Math.Min(1, BitConverter.Int32BitsToSingle(((least + place + 1) << 16) - 1))));
        }
        return
        [
            .. MemoryMarshal.AsBytes<float>([.. Values, .. middles, float.PositiveInfinity]),
            .. Enumerable.Range(0, places).Select(place => First(place, 1)),
            .. Enumerable.Range(0, places).Select(place => First(place, -1)),
            0, 0, 0,     // a vector reads four bytes at the last place too
        ];
    }

    private static float[] MakeDynamic(bool signed = true)
    {
        const int exponents = 7;
        List<float> values = [0, 1];
        for (int e = 0; e < exponents; e++)
        {
            int count = signed ? 1 << e : 2 << e;
            float power = (float)Math.Pow(10, e - exponents + 1);
            for (int i = 0; i < count; i++)
            {
                float value = power * ((Edge(i, count) + Edge(i + 1, count)) / 2);
                values.AddRange(signed ? [value, -value] : [value]);
            }
        }
        values.Sort();
        return [.. values];

        // Edge i of `count` equal parts of 0.1 .. 1, counted from the nearer end as torch.linspace does
        static float Edge(int i, int count)
        {
            float step = (1 - 0.1f) / count;
            return i < (count + 1) / 2 ? MathF.FusedMultiplyAdd(step, i, 0.1f) : MathF.FusedMultiplyAdd(-step, count - i, 1);
        }
    }
}
