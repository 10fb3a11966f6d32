using System.Globalization;

namespace LowRank;

/// <summary>A wavelet: the four filters of one level, in the order of a convolution, as PyWavelets stores them. Analysis is
/// a_i = Σ_j DecLow[j]·x[2i+1-j] (details with DecHigh), synthesis y_m = Σ_i RecLow[m+L-2-2i]·a_i + RecHigh[m+L-2-2i]·d_i, L taps each.
/// For orthonormal wavelets DecLow is RecLow from behind; for every wavelet RecHigh[k] = (-1)^k·DecLow[k] and DecHigh[k] = -(-1)^k·RecLow[k].</summary>
/// <remarks>Families: haar (db1), db2 to db20 and sym2 to sym20 (Daubechies, Ten Lectures on Wavelets, chapters 6 and 8), coif1 to coif5, dmey (a Meyer
/// wavelet cut off, orthonormal to 2e-3), bior and rbio (Cohen, Daubechies, Feauveau 1992). Their low-pass taps are the published ones.</remarks>
public sealed class Wavelet
{
    private static readonly Lazy<Dictionary<string, Wavelet>> Known = new(Read);
    private readonly double[] decLow, decHigh, recLow, recHigh;

    private Wavelet(string name, double[] recLow, double[] decLow)
    {
        (Name, this.recLow, this.decLow) = (name, recLow, decLow);
        IsOrthonormal = name != "dmey" && recLow.Reverse().SequenceEqual(decLow);
        recHigh = [.. decLow.Select((v, k) => k % 2 == 0 ? v : -v)];
        decHigh = [.. recLow.Select((v, k) => k % 2 == 0 ? -v : v)];
    }

    /// <summary>Names that <see cref="Of"/> takes.</summary>
    public static IReadOnlyCollection<string> Names => Known.Value.Keys;

    /// <summary>As PyWavelets spells it.</summary>
    public string Name { get; }

    /// <summary>L: taps of each filter, an even number.</summary>
    public int Length => recLow.Length;

    /// <summary>True where analysis is the transpose of synthesis, to the last digits of the taps.</summary>
    public bool IsOrthonormal { get; }

    /// <summary>Low-pass filter of the analysis.</summary>
    public ReadOnlySpan<double> DecLow => decLow;

    /// <summary>High-pass filter of the analysis.</summary>
    public ReadOnlySpan<double> DecHigh => decHigh;

    /// <summary>Low-pass filter of the synthesis.</summary>
    public ReadOnlySpan<double> RecLow => recLow;

    /// <summary>High-pass filter of the synthesis.</summary>
    public ReadOnlySpan<double> RecHigh => recHigh;

    /// <summary>The wavelet of a name; db1 is haar.</summary>
    /// <exception cref="ShapeException">There is none: lists those there are.</exception>
    public static Wavelet Of(string name) => Known.Value.TryGetValue(name == "db1" ? "haar" : name, out Wavelet? found) ? found
        : throw new ShapeException($"Wavelet: name is {name}, want one of {string.Join(", ", Names)}");

    /// <inheritdoc/>
    public override string ToString() => Name;

    // A line a wavelet: name, taps of RecLow, and where it is not orthonormal those of DecLow.
    private static Dictionary<string, Wavelet> Read()
    {
        using Stream stream = typeof(Wavelet).Assembly.GetManifestResourceStream("wavelets.tsv")!;
        using var reader = new StreamReader(stream);
        Dictionary<string, Wavelet> all = [];
        foreach (string[] cells in reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split('\t')))
        {
            double[] rec = Taps(cells[1]), dec = cells.Length > 2 ? Taps(cells[2]) : [.. rec.Reverse()];
            all.Add(cells[0], new Wavelet(cells[0], rec, dec));
            if (cells.Length > 2)
            {
                string reverse = cells[0].Replace("bior", "rbio", StringComparison.Ordinal);
                all.Add(reverse, new Wavelet(reverse, [.. dec.Reverse()], [.. rec.Reverse()]));
            }
        }
        return all;
    }

    private static double[] Taps(string cell) => [.. cell.Split(' ').Select(tap => double.Parse(tap, CultureInfo.InvariantCulture))];
}
