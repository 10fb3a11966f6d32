using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What must hold of the wavelet transforms: tables, inverses, adjoints in every mode, and the calls on spans.</summary>
public sealed class WaveletTests : IDisposable
{
    private static readonly string[] Some = ["haar", "db2", "sym5", "coif1", "bior2.4", "rbio1.3"];
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<WaveletMode> Modes => [.. Enum.GetValues<WaveletMode>()];

    public static TheoryData<string> Names => [.. Wavelet.Names];

    public void Dispose() => device.Dispose();

    [Theory, MemberData(nameof(Names))]
    public void Taps_give_back_what_they_take_apart(string name)
    {
        Wavelet wavelet = Wavelet.Of(name);
        Assert.Equal(0, wavelet.Length % 2);
        // Σ_k RecLow[k]·DecLow[L-1-k+2s] is 1 at s = 0 and 0 at other shifts; dmey is cut off.
        double bound = name == "dmey" ? 5e-3 : Close.Golden64;
        for (int s = 1 - (wavelet.Length / 2); s < wavelet.Length / 2; s++)
        {
            double sum = 0;
            for (int k = Math.Max(0, 2 * s); k < wavelet.Length && k - (2 * s) < wavelet.Length; k++)
            {
                sum += wavelet.RecLow[k] * wavelet.DecLow[wavelet.Length - 1 - k + (2 * s)];
            }
            Assert.Equal(s == 0 ? 1 : 0, sum, bound);
        }
        Assert.Equal(Math.Sqrt(2), wavelet.RecLow.ToArray().Sum(), bound);
        Assert.Equal(0, wavelet.RecHigh.ToArray().Sum(), bound);
        Assert.Equal(wavelet.IsOrthonormal, name is "bior1.1" or "rbio1.1" || name[..2] is "ha" or "db" or "sy" or "co");
    }

    [Theory]
    [InlineData("haar", 2, 0)]
    [InlineData("haar", 4, 0)]
    [InlineData("haar", 8, 3)]
    [InlineData("haar", 96, 0)]
    [InlineData("haar", 768, 0)]
    [InlineData("db2", 4, 0)]
    [InlineData("db2", 8, 1)]
    [InlineData("db2", 96, 0)]
    [InlineData("db2", 768, 3)]
    public void Periodic_transforms_are_orthonormal(string name, int n, int shift)
    {
        foreach (DType type in (DType[])[DType.F64, DType.F32])
        {
            using Scope scope = device.BeginScope();
            var axis = WaveletAxis.Periodic(Wavelet.Of(name), shift, n, n / 2, adjoint: true);
            double[] unit = [.. Enumerable.Range(0, n * n).Select(i => i % (n + 1) == 0 ? 1.0 : 0)];
            Tensor h = Down(axis, scope.Of([n, n], unit, type));
            Close.CheckMax(Down(axis, new Transpose().Apply(h)).ToDoubles(), unit, type == DType.F64 ? Close.Factor(type) : Close.Identity, 0, $"H·Hᵀ of {n} in {type}");
        }
    }

    [Theory, MemberData(nameof(Modes))]
    public void An_inverse_gives_back_the_matrix(WaveletMode mode)
    {
        foreach (string name in Some)
        {
            using Scope scope = device.BeginScope();
            Wavelet wavelet = Wavelet.Of(name);
            foreach ((int rows, int cols) in (ReadOnlySpan<(int, int)>)[(19, 26), (2, 3), (1, 7), (12, 8)])
            {
                Tensor x = scope.Of([rows, cols], AdapterRow.Draw(new Rng(4), rows * cols));
                Tensor c = new Wavelet2(wavelet, mode, 2).Apply(x);
                Close.Check(new InverseWavelet2(wavelet, mode, 2, rows, cols).Apply(c).ToDoubles(), x.ToDoubles(), Close.Golden64, $"{name} {mode} [{rows}, {cols}]");
                if (wavelet.IsOrthonormal && mode == WaveletMode.Periodization && (rows, cols) == (12, 8))
                {
                    Assert.Equal(1, c.ToDoubles().Sum(v => v * v) / x.ToDoubles().Sum(v => v * v), Close.Golden64);
                }
            }
        }
    }

    [Theory, MemberData(nameof(Modes))]
    public void Gradients_are_the_adjoints(WaveletMode mode)
    {
        foreach (string name in Some)
        {
            foreach ((int rows, int cols, int levels) in (ReadOnlySpan<(int, int, int)>)[(19, 26, 2), (3, 2, 1), (70, 9, 3)])
            {
                Wavelet wavelet = Wavelet.Of(name);
                int count = new WaveletLayout(wavelet, mode, levels, rows, cols).Count;
                foreach (DType type in (ReadOnlySpan<DType>)[DType.F64, DType.F32])
                {
                    IsAdjoint(new Wavelet2(wavelet, mode, levels), [rows, cols], [count], type);
                    IsAdjoint(new InverseWavelet2(wavelet, mode, levels, rows, cols, 0.7), [count], [rows, cols], type);
                }
            }
        }
    }

    [Fact]
    public void Spans_need_no_model()
    {
        const int rows = 37, cols = 150;
        Wavelet wavelet = Wavelet.Of("db4");
        WaveletLayout layout = new(wavelet, WaveletMode.Symmetric, 2, rows, cols);
        float[] x = [.. AdapterRow.Draw(new Rng(6), rows * cols).Select(v => (float)v)], c = new float[layout.Count], y = new float[x.Length], w = [.. x.Select(v => 1 - v)];
        LowRankPrimitives.WaveletForward(layout, x.AsMatrix(rows, cols), c);
        LowRankPrimitives.WaveletInverse(layout, c, y.AsMatrix(rows, cols));
        Close.Check(Wide(y), Wide(x), Close.Layer, "there and back");
        LowRankPrimitives.WaveletMerge(layout, w.AsMatrix(rows, cols), c, 1, y.AsMatrix(rows, cols));
        Close.Check(Wide(y), [.. x.Select(_ => 1.0)], Close.Layer, "merged");
        using Scope scope = device.BeginScope();
        Close.Check(Wide(c), new Wavelet2(wavelet, WaveletMode.Symmetric, 2).Apply(scope.Of([rows, cols], x)).ToDoubles(), 0, "coefficients");
    }

    [Fact]
    public void What_is_wrong_is_named()
    {
        Wavelet haar = Wavelet.Of("haar");
        Assert.StartsWith("Wavelet: name is db99, want one of haar, db2,", Assert.Throws<ShapeException>(() => Wavelet.Of("db99")).Message, StringComparison.Ordinal);
        Assert.Equal("WaveletLayout: levels is 0, want 1 .. 30", Assert.Throws<ShapeException>(() => new WaveletLayout(haar, WaveletMode.Zero, 0, 4, 4)).Message);
        Assert.Equal("WaveletLayout: matrix is [0, 4], want at least one row and column", Assert.Throws<ShapeException>(() => new WaveletLayout(haar, WaveletMode.Zero, 1, 0, 4)).Message);
        Assert.Contains("want one of fewer than 2^31", Assert.Throws<ShapeException>(() => new WaveletLayout(haar, WaveletMode.Zero, 1, 1 << 16, 1 << 16)).Message, StringComparison.Ordinal);
        WaveletLayout layout = new(haar, WaveletMode.Zero, 2, 4, 6);
        Assert.Contains("Approximation of level 1 is no band", Assert.Throws<ShapeException>(() => layout[1, WaveletBand.Approximation]).Message, StringComparison.Ordinal);
        float[] x = new float[24];
        Assert.Equal("LowRankPrimitives: x is [6, 4], want [4, 6]", Assert.Throws<ShapeException>(() => LowRankPrimitives.WaveletForward(layout, x.AsMatrix(6, 4), new float[layout.Count])).Message);
        Assert.Equal($"LowRankPrimitives: coefficients has 5 elements, want {layout.Count}", Assert.Throws<ShapeException>(() => LowRankPrimitives.WaveletInverse(layout, new float[5], x.AsMatrix(4, 6))).Message);
        using Scope scope = device.BeginScope();
        Assert.Equal("InverseWavelet2: c is [5], want [24]", Assert.Throws<ShapeException>(() => new InverseWavelet2(haar, WaveletMode.Zero, 1, 4, 6).Apply(scope.NewZeros([5], DType.F32))).Message);
        Assert.Equal("Wavelet2: x is [2, 2, 2], want [rows, cols]", Assert.Throws<ShapeException>(() => new Wavelet2(haar, WaveletMode.Zero, 1).Apply(scope.NewZeros([2, 2, 2], DType.F32))).Message);
        Assert.Contains("wavelet is bior2.2, want an orthonormal one", Assert.Throws<ShapeException>(() => new WaveletLift(Wavelet.Of("bior2.2"), 0, 8, 0).Apply(scope.NewZeros([2, 4], DType.F32))).Message, StringComparison.Ordinal);
        Assert.Equal("WaveletLift: x1 is [2, 5], want [r, 4]", Assert.Throws<ShapeException>(() => new WaveletLift(haar, 0, 8, 0).Apply(scope.NewZeros([2, 4], DType.F32), scope.NewZeros([2, 5], DType.F32))).Message);
    }

    /// <summary>⟨op(x), y⟩ = ⟨x, opᵀ(y)⟩ with opᵀ by the tape.</summary>
    private void IsAdjoint(Op op, Shape from, Shape to, DType type)
    {
        using Tape tape = device.BeginTape();
        Tensor x = tape.Of(from, AdapterRow.Draw(new Rng(1), from.Count), type), dy = tape.Of(to, AdapterRow.Draw(new Rng(2), to.Count), type);
        x.NeedsGradient = true;
        Tensor y = op.Apply(x);
        tape.Backward(y, dy);
        double left = y.ToDoubles().Zip(dy.ToDoubles(), (a, b) => a * b).Sum(), right = x.ToDoubles().Zip(x.Gradient!.ToDoubles(), (a, b) => a * b).Sum();
        double scale = Math.Sqrt(y.ToDoubles().Sum(v => v * v) * dy.ToDoubles().Sum(v => v * v));
        Assert.True(Math.Abs(left - right) <= Close.Bound(type) * scale, $"{op} in {type}: {left:R} against {right:R}");
    }

    /// <summary>H·x, the low rows and then the high ones; x [n, n].</summary>
    private Tensor Down(WaveletAxis axis, Tensor x)
    {
        Scope scope = device.Current!;
        (int n, int m) = (x.Shape[0], x.Shape[0] / 2);
        Tensor h = scope.New(x.Shape, x.DType);
        device.Launch(Kernels.WaveletDown, new WaveletArgs { Rows = axis.On(scope, x.DType), X = x.Data, Ll = h.Data, Hl = h.Slice(m, m).Data, XRows = n, XCols = n, BandRows = m, BandCols = n, Ldx = n, Ldb = n, Scale = 1, DType = x.DType });
        return h;
    }

    private static double[] Wide(float[] values) => [.. values.Select(v => (double)v)];
}
