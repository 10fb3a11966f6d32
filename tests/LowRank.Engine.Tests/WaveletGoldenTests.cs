using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The transforms of golden/wara against PyWavelets: filters, one level along a row, one and several levels of a matrix, in every mode of the
/// case; float64 to the case's tolerance, float32 to the engine's.</summary>
public sealed class WaveletGoldenTests : IDisposable
{
    private const string Adapter = "adapter_", Filters = "filters";
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<string> Cases => Golden.Cases("wara", name => !name.StartsWith(Adapter, StringComparison.Ordinal));

    [Theory, MemberData(nameof(Cases))]
    public void Golden_wara(string name) => Golden.Run("wara", name, golden =>
    {
        if (name == Filters)
        {
            Array.ForEach(Strings(golden, "wavelets"), wavelet => CheckFilters(golden, wavelet));
            return;
        }
        Wavelet wavelet = Known(golden.Config.GetProperty("wavelet").GetString()!);
        foreach (string mode in Strings(golden, "modes"))
        {
            Assert.SkipUnless(Enum.TryParse(mode, ignoreCase: true, out WaveletMode extension), $"mode {mode} is none of PyWavelets' that are built");
            foreach (DType type in (ReadOnlySpan<DType>)[DType.F64, DType.F32])
            {
                CheckRow(golden, wavelet, extension, mode, type);
                CheckMatrix(golden, wavelet, extension, mode, type);
            }
        }
    });

    public void Dispose() => device.Dispose();

    private static Wavelet Known(string name)
    {
        Assert.SkipUnless(Wavelet.Names.Contains(name), $"wavelet {name} is not built");
        return Wavelet.Of(name);
    }

    private static string[] Strings(GoldenCase golden, string key) => [.. golden.Config.GetProperty(key).EnumerateArray().Select(e => e.GetString()!)];

    private static void CheckFilters(GoldenCase golden, string name)
    {
        Wavelet wavelet = Known(name);
        golden.Check($"out.{name}.dec_lo", wavelet.DecLow);
        golden.Check($"out.{name}.dec_hi", wavelet.DecHigh);
        golden.Check($"out.{name}.rec_lo", wavelet.RecLow);
        golden.Check($"out.{name}.rec_hi", wavelet.RecHigh);
    }

    private void CheckRow(GoldenCase golden, Wavelet wavelet, WaveletMode mode, string name, DType type)
    {
        using Scope scope = device.BeginScope();
        Tensor v = golden.Load("in.v", scope, type);
        int bands = WaveletAxis.BandsOf(wavelet, mode, (int)v.Shape.Count), samples = (int)golden.Shape($"out.{name}.idwt").Count;
        Tensor low = scope.New([bands], type), high = scope.New([bands], type), y = scope.New([samples], type);
        WaveletArgs args = new() { X = v.Data, Ll = low.Data, Lh = high.Data, XRows = 1, BandRows = 1, BandCols = bands, Ldb = bands, Scale = 1, DType = type };
        int count = (int)v.Shape.Count;
        device.Launch(Kernels.WaveletDown, args with { Cols = WaveletAxis.Analysis(wavelet, mode, count, adjoint: false).On(scope, type), XCols = count, Ldx = count });
        Check(golden, $"out.{name}.dwt.cA", low, type);
        Check(golden, $"out.{name}.dwt.cD", high, type);
        device.Launch(Kernels.WaveletUp, args with { Cols = WaveletAxis.Synthesis(wavelet, mode, samples, adjoint: false).On(scope, type), X = y.Data, XCols = samples, Ldx = samples });
        Check(golden, $"out.{name}.idwt", y, type);
    }

    private void CheckMatrix(GoldenCase golden, Wavelet wavelet, WaveletMode mode, string name, DType type)
    {
        using Scope scope = device.BeginScope();
        Tensor x = golden.Load("in.X", scope, type);
        WaveletLayout one = new(wavelet, mode, 1, x.Shape[0], x.Shape[1]);
        Tensor coefficients = new Wavelet2(wavelet, mode, 1).Apply(x);
        foreach ((string band, WaveletPlace place) in Bands(one, numbered: false))
        {
            Check(golden, $"out.{name}.dwt2.{band}", coefficients.Slice(place.Offset, place.Count), type);
        }
        Shape back = golden.Shape($"out.{name}.idwt2");
        Check(golden, $"out.{name}.idwt2", new InverseWavelet2(wavelet, mode, 1, back[0], back[1]).Apply(coefficients), type);

        int levels = int.Parse(golden.Names($"in.{name}.coef.cA").Single()[$"in.{name}.coef.cA".Length..], null);
        WaveletLayout all = new(wavelet, mode, levels, x.Shape[0], x.Shape[1]);
        coefficients = new Wavelet2(wavelet, mode, levels).Apply(x);
        Tensor given = scope.New([all.Count], type);
        foreach ((string band, WaveletPlace place) in Bands(all, numbered: true))
        {
            Check(golden, $"out.{name}.wavedec2.{band}", coefficients.Slice(place.Offset, place.Count), type);
            given.Slice(place.Offset, place.Count).Set(golden.Doubles($"in.{name}.coef.{band}"));
        }
        back = golden.Shape($"out.{name}.waverec2");
        Check(golden, $"out.{name}.waverec2", new InverseWavelet2(wavelet, mode, levels, back[0], back[1]).Apply(given), type);
    }

    private static IEnumerable<(string Name, WaveletPlace Place)> Bands(WaveletLayout layout, bool numbered)
    {
        yield return (numbered ? $"cA{layout.Levels}" : "cA", layout[layout.Levels, WaveletBand.Approximation]);
        for (int level = layout.Levels; level >= 1; level--)
        {
            foreach ((string name, WaveletBand band) in (IEnumerable<(string, WaveletBand)>)[("cH", WaveletBand.Horizontal), ("cV", WaveletBand.Vertical), ("cD", WaveletBand.Diagonal)])
            {
                yield return (numbered ? $"{name}{level}" : name, layout[level, band]);
            }
        }
    }

    private static void Check(GoldenCase golden, string name, Tensor got, DType type)
    {
        if (type == DType.F64)
        {
            golden.Check(name, got.ToDoubles());
            return;
        }
        Close.Check(got.ToDoubles(), golden.Doubles(name), Math.Max(golden.Tolerance.Rtol, Close.Bound(type)), $"{golden}: {name} in {type}");
    }
}
