using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>One level of a wavelet along one axis as a sparse matrix. Down: n samples → two bands of m coefficients; up: two bands → n samples. Analysis
/// is a down matrix and synthesis an up matrix; the transpose of each is the other kind, so adjoints are exact in every mode. In the middle all rows
/// are one stretch of taps, shifted; rows at the borders are listed. lowrank.h says how the table lies in memory.</summary>
internal sealed class WaveletAxis
{
    private static readonly ConcurrentDictionary<(Wavelet, WaveletMode, int Shift, int Samples, int Bands, bool Up, bool Adjoint), WaveletAxis> Known = new();
    private readonly DeviceTable<byte> single, whole;

    private WaveletAxis(Rows rows, int samples, int bands, bool up)
    {
        (Samples, Bands) = (samples, bands);
        Pattern middle = Pattern.Of(rows, up);
        int[] edges = [.. Enumerable.Range(0, rows.Count).Where(row => row < middle.First * middle.Phases || row >= middle.Last * middle.Phases)];
        int width = edges.Select(e => rows[e].Count).DefaultIfEmpty().Max();
        int[] header = [samples, bands, middle.First, middle.Last, middle.Taps, middle.Start, edges.Length, width];
        IEnumerable<(int Index, double Low, double High)> entries = edges.SelectMany(e => rows[e].Concat(Enumerable.Repeat((0, 0.0, 0.0), width - rows[e].Count)));
        double[] reals = [.. middle.Weights, .. entries.Select(e => e.Low), .. entries.Select(e => e.High)];
        int[] indices = [.. entries.Select(e => e.Index)];
        whole = Table(header, MemoryMarshal.AsBytes<double>(reals), indices);
        single = Table(header, MemoryMarshal.AsBytes<float>(Array.ConvertAll(reals, v => (float)v)), indices);
    }

    /// <summary>n.</summary>
    public int Samples { get; }

    /// <summary>m.</summary>
    public int Bands { get; }

    /// <summary>Coefficients a band of a signal: ⌊(n+L-1)/2⌋, with periodization ⌈n/2⌉.</summary>
    public static int BandsOf(Wavelet wavelet, WaveletMode mode, int samples) => mode == WaveletMode.Periodization ? (samples + 1) / 2 : (samples + wavelet.Length - 1) / 2;

    /// <summary>Analysis, or with <paramref name="adjoint"/> its transpose, an up matrix.</summary>
    public static WaveletAxis Analysis(Wavelet wavelet, WaveletMode mode, int samples, bool adjoint) =>
        Of(wavelet, mode, (wavelet.Length / 2) - 1, samples, BandsOf(wavelet, mode, samples), up: false, adjoint);

    /// <summary>Synthesis of the first <paramref name="samples"/>, or with <paramref name="adjoint"/> its transpose, a down matrix.</summary>
    public static WaveletAxis Synthesis(Wavelet wavelet, WaveletMode mode, int samples, bool adjoint) =>
        Of(wavelet, mode, (wavelet.Length / 2) - 1, samples, BandsOf(wavelet, mode, samples), up: true, adjoint);

    /// <summary>Periodic synthesis y[(2i+k-shift) mod 2m] += RecLow[k]·a_i + RecHigh[k]·d_i of the first <paramref name="samples"/>, or its transpose.</summary>
    public static WaveletAxis Periodic(Wavelet wavelet, int shift, int samples, int bands, bool adjoint) =>
        Of(wavelet, WaveletMode.Periodization, shift, samples, bands, up: true, adjoint);

    /// <summary>Address of the table for arguments of a type; see <see cref="DeviceTable{T}.On"/>.</summary>
    public nint On(Scope scope, DType type) => (type == DType.F64 ? whole : single).On(scope);

    private static WaveletAxis Of(Wavelet wavelet, WaveletMode mode, int shift, int samples, int bands, bool up, bool adjoint) =>
        Known.GetOrAdd((wavelet, mode, shift, samples, bands, up, adjoint), static key =>
        {
            (Wavelet wavelet, WaveletMode mode, int shift, int samples, int bands, bool up, bool adjoint) = key;
            Rows rows = up ? SynthesisRows(wavelet, mode, shift, samples, bands) : AnalysisRows(wavelet, mode, shift, samples, bands);
            return new WaveletAxis(adjoint ? rows.Transposed(up ? bands : samples) : rows, samples, bands, up != adjoint);
        });

    private static Rows AnalysisRows(Wavelet wavelet, WaveletMode mode, int shift, int samples, int bands)
    {
        var rows = new Rows(bands);
        for (int i = 0; i < bands; i++)
        {
            for (int j = wavelet.Length - 1; j >= 0; j--)
            {
                if (mode == WaveletMode.Periodization)
                {
                    int at = WaveletExtension.Mod((2 * i) + wavelet.Length - 1 - j - shift, 2 * bands);
                    rows.Add(i, Math.Min(at, samples - 1), wavelet.DecLow[j], wavelet.DecHigh[j]);
                    continue;
                }
                foreach ((int at, double factor) in WaveletExtension.Of(mode, (2 * i) + 1 - j, samples))
                {
                    rows.Add(i, at, factor * wavelet.DecLow[j], factor * wavelet.DecHigh[j]);
                }
            }
        }
        return rows;
    }

    private static Rows SynthesisRows(Wavelet wavelet, WaveletMode mode, int shift, int samples, int bands)
    {
        var rows = new Rows(samples);
        for (int i = 0; i < bands; i++)
        {
            for (int k = 0; k < wavelet.Length; k++)
            {
                int at = mode == WaveletMode.Periodization ? WaveletExtension.Mod((2 * i) + k - shift, 2 * bands) : (2 * i) + k + 2 - wavelet.Length;
                if (at >= 0 && at < samples)
                {
                    rows.Add(at, i, wavelet.RecLow[k], wavelet.RecHigh[k]);
                }
            }
        }
        return rows;
    }

    private static DeviceTable<byte> Table(int[] header, ReadOnlySpan<byte> reals, int[] indices) =>
        new([.. MemoryMarshal.AsBytes<int>(header), .. reals, .. MemoryMarshal.AsBytes<int>(indices)]);

    /// <summary>Rows of entries (column, weight of the low band, weight of the high band), by column.</summary>
    private sealed class Rows(int count)
    {
        private readonly List<(int Index, double Low, double High)>[] rows = [.. Enumerable.Range(0, count).Select(_ => new List<(int, double, double)>())];

        public int Count => rows.Length;

        public List<(int Index, double Low, double High)> this[int row] => rows[row];

        public void Add(int row, int index, double low, double high)
        {
            List<(int Index, double Low, double High)> entries = rows[row];
            int at = entries.Count;
            while (at > 0 && entries[at - 1].Index >= index)
            {
                at--;
            }
            if (at < entries.Count && entries[at].Index == index)
            {
                entries[at] = (index, entries[at].Low + low, entries[at].High + high);
            }
            else
            {
                entries.Insert(at, (index, low, high));
            }
        }

        public Rows Transposed(int columns)
        {
            var turned = new Rows(columns);
            for (int row = 0; row < Count; row++)
            {
                foreach ((int index, double low, double high) in rows[row])
                {
                    turned.Add(index, row, low, high);
                }
            }
            return turned;
        }
    }

    /// <summary>What units [First, Last) have in common. A unit u is a row of a down matrix, with columns counted from 2u, or the rows 2u and 2u+1 of an up
    /// matrix, with columns counted from u: weights [phase][low, high][Taps] of the columns from Start on.</summary>
    private readonly record struct Pattern(int Phases, int First, int Last, int Taps, int Start, double[] Weights)
    {
        private const int MostTaps = 96;

        public static Pattern Of(Rows rows, bool up)
        {
            (int phases, int step) = up ? (2, 1) : (1, 2);
            int units = rows.Count / phases, middle = units / 2;
            var none = new Pattern(phases, 0, 0, 0, 0, []);
            List<(int Index, double Low, double High)>[] Unit(int u) => [.. Enumerable.Range(0, phases).Select(p => rows[(u * phases) + p])];
            if (units == 0 || Unit(middle).Any(row => row.Count == 0))
            {
                return none;
            }
            int start = Unit(middle).Min(row => row[0].Index) - (step * middle), taps = Unit(middle).Max(row => row[^1].Index) + 1 - start - (step * middle);
            if (taps > MostTaps || Weights(middle) is not { } weights)
            {
                return none;
            }
            int columns = Enumerable.Range(0, rows.Count).Max(row => rows[row].Count == 0 ? 0 : rows[row][^1].Index + 1), first = middle, last = middle + 1;
            while (first > 0 && Fits(first - 1))
            {
                first--;
            }
            while (last < units && Fits(last))
            {
                last++;
            }
            return new Pattern(phases, first, last, taps, start, weights);

            bool Fits(int u) => (step * u) + start >= 0 && (step * u) + start + taps <= columns && Weights(u)?.AsSpan().SequenceEqual(weights) == true;

            double[]? Weights(int u)
            {
                var dense = new double[phases * 2 * taps];
                for (int p = 0; p < phases; p++)
                {
                    foreach ((int index, double low, double high) in rows[(u * phases) + p])
                    {
                        int at = index - (step * u) - start;
                        if (at < 0 || at >= taps)
                        {
                            return null;
                        }
                        (dense[(2 * p * taps) + at], dense[(((2 * p) + 1) * taps) + at]) = (low, high);
                    }
                }
                return dense;
            }
        }
    }
}
