using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Laws of the cosine transforms, of matrices made of a few coefficients, and of the places' gradients.</summary>
public class DctTests
{
    private static readonly (int Rows, int Cols)[] Sizes = [(96, 64), (97, 33), (5, 1), (70, 131)];

    public static TheoryData<string, DType> Elements => [.. from device in Devices.Present from type in (DType[])[DType.F32, DType.BF16] where device != "cpu" || type == DType.F32 select (device, type)];

    public static TheoryData<string> Present => [.. Devices.Present];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    [InlineData(64)]
    [InlineData(96)]
    [InlineData(768)]
    [InlineData(1009)]      // a prime
    [InlineData(2494)]      // 2·29·43
    public void The_transform_is_orthonormal(int n)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor x = Draw(scope, "x", [3, n], DType.F32), y = new Dct2().Apply(x);
        Close.Check(new Dct2(Inverse: true).Apply(y).ToDoubles(), x.ToDoubles(), Close.Bound(DType.F32), $"back from {n}");
        Assert.Equal(1, Norm(y) / Norm(x), Close.Bound(DType.F32));
        double[] one = new double[n], unit = [.. Enumerable.Range(0, n * n).Select(i => i % (n + 1) == 0 ? 1.0 : 0)];
        Close.CheckMax(new Dct2().Apply(scope.Of([n, n], unit, DType.F32)).ToDoubles(), unit, Close.Identity, 0, $"C·I·Cᵀ of {n}");
        one[n - 1] = 1;
        double[] wave = [.. Enumerable.Range(0, n).Select(k => Wave(n, k)[n - 1])];
        Close.Check(new Dct2().Apply(scope.Of([n, 1], one, DType.F32)).ToDoubles(), wave, Close.Bound(DType.F32), $"last column of C_{n}");
    }

    // Above 2^20 elements a result is written past the caches, two panels of columns at a time, the last of an odd number alone
    [Theory]
    [InlineData(1024, 1040)]
    [InlineData(1031, 1024)]
    public void A_large_matrix_is_the_sum_of_its_waves(int rows, int cols)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        (int Row, int Col, double Value)[] places = [(0, 0, 1), (3, cols - 7, -2), (rows - 5, 2, 0.5)];
        double[] s = new double[rows * cols], want = new double[rows * cols];
        foreach ((int row, int col, double value) in places)
        {
            s[(row * cols) + col] = value;
            double[] down = Wave(rows, row), across = Wave(cols, col);
            for (int i = 0; i < want.Length; i++)
            {
                want[i] += value * down[i / cols] * across[i % cols];
            }
        }
        Tensor y = new Dct2(Inverse: true).Apply(scope.Of([rows, cols], s, DType.F32));
        Close.Check(y.ToDoubles(), want, Close.Bound(DType.F32), "inverse");
        Close.Check(new Dct2().Apply(y).ToDoubles(), s, Close.Bound(DType.F32), "back");
        Tensor a = scope.Of([3], places.Select(p => p.Value).ToArray(), DType.F32);
        Tensor u = scope.Of([2, 3], places.Select(p => p.Row / (rows - 1.0)).Concat(places.Select(p => p.Col / (cols - 1.0))).ToArray(), DType.F32);
        foreach (DctRoute route in Enum.GetValues<DctRoute>())
        {
            Close.Check(new SparseDct(rows, cols, 1, route).Apply(a, u, y).ToDoubles(), [.. want.Select(v => 2 * v)], Close.Bound(DType.F32), $"{route}");
        }
    }

    [Fact]
    public void Every_route_gives_the_transform_of_the_coefficients_and_equal_places_add()
    {
        using Device device = Devices.Open("cpu");
        foreach ((int rows, int cols) in Sizes)
        {
            using Scope scope = device.BeginScope();
            const int count = 50;
            Tensor a = Draw(scope, "a", [count], DType.F32), u = Draw(scope, "u", [2, count], DType.F32);      // half of them at place 0
            var s = new double[rows * cols];
            int On(int i, int n) => (int)Math.Round(Math.Clamp(u.ToArray()[i], 0, 0.999) * (n - 1), MidpointRounding.ToEven);
            for (int j = 0; j < count; j++)
            {
                s[(On(j, rows) * cols) + On(count + j, cols)] += a.ToArray()[j];
            }
            double[] want = new Dct2(Inverse: true, Scale: 2).Apply(scope.Of([rows, cols], s)).ToDoubles();
            foreach (DctRoute route in Enum.GetValues<DctRoute>())
            {
                Tensor y = new SparseDct(rows, cols, 2, route).Apply(a, u);
                Close.Check(y.ToDoubles(), want, Close.Bound(DType.F32), $"{route} of [{rows}, {cols}]");
                Assert.Equal(1, Norm(y) / (2 * Math.Sqrt(s.Sum(v => v * v))), Close.Bound(DType.F32));
            }
        }
    }

    [Fact]
    public void The_first_coefficient_is_a_constant_and_a_place_that_is_not_a_number_spoils_the_result()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([1], [3f]), y = new SparseDct(20, 15, 1).Apply(a, scope.NewZeros([2, 1], DType.F32));
        Close.Check(y.ToDoubles(), [.. Enumerable.Repeat(3 / Math.Sqrt(300), 300)], Close.Bound(DType.F32), "constant");
        foreach (DctRoute route in Enum.GetValues<DctRoute>())
        {
            Assert.All(new SparseDct(20, 15, 1, route).Apply(a, scope.Of([2, 1], [0.5f, float.NaN])).ToArray(), v => Assert.True(float.IsNaN(v)));
        }
    }

    // No central difference of a loss: places are rounded. The float64 reference follows the formula; golden/loca holds it to the official code.
    [Theory, MemberData(nameof(Elements))]
    public void Places_move_by_the_differences_next_to_them(string deviceName, DType type)
    {
        using Device device = Devices.Open(deviceName), reference = Devices.Open("cpu");
        foreach ((int rows, int cols, float size) in ((int, int, float)[])[(16, 12, 0.3f), (9, 7, 30), (1, 5, 1)])
        {
            double[] x = Values("x", 11 * cols, type), dy = Values("dy", 11 * rows, type), a = [.. Values("a", 20, DType.F32).Select(v => (double)(float)(size * v))], u = [.. Values("u", 40, DType.F32).Select(v => (double)(float)(0.5 + (0.6 * v)))];
            double[][] Run(Device on, DType in_)
            {
                using Scope store = on.NewStore();
                Tensor spectrum = store.Of([20], a, in_.ForParameters()), places = store.Of([2, 20], u, in_.ForParameters());
                spectrum.NeedsGradient = places.NeedsGradient = true;
                for (int times = 0; times < 2; times++)      // the second pass adds
                {
                    using Tape tape = on.BeginTape();
                    Tensor y = new SparseDctLinear(rows, cols, 0.5).Apply(tape.Of([11, cols], x, in_), spectrum, places);
                    tape.Backward(y, tape.Of(y.Shape, dy, in_));
                }
                return [spectrum.Gradient!.ToDoubles(), places.Gradient!.ToDoubles()];
            }
            double[][] got = Run(device, type), want = Run(reference, DType.F64);
            Close.Check(got[0], want[0], Close.Layer, $"da of [{rows}, {cols}]");
            Close.Check(got[1], want[1], Close.Layer, $"du of [{rows}, {cols}]");
            Assert.Contains(0.0, want[1]);
            Assert.True(size < 10 || want[1].Count(v => Math.Abs(v) == 2 * (rows - 1)) > 1, "some steps are clipped");
            Assert.Empty(device.Fallbacks);
        }
    }

    // Past what a block of a GPU holds in shared memory
    [Theory, MemberData(nameof(Present))]
    public void Long_lines_are_transformed(string deviceName)
    {
        const int n = 6400, count = 9;
        const DType type = DType.F32;
        using Device device = Devices.Open(deviceName);
        using Tape tape = device.BeginTape();
        Tensor x = Draw(tape, "x", [2, n], type), y = new Dct2().Apply(x);
        Close.Check(new Dct2(Inverse: true).Apply(y).ToDoubles(), x.ToDoubles(), Close.Bound(type), "back");
        Assert.Equal(1, Norm(y) / Norm(x), Close.Bound(type));
        Tensor dy = Draw(tape, "dy", [2, 3], type), u = Draw(tape, "u", [2, count], type), a = Draw(tape, "a", [count], type);
        a.NeedsGradient = true;
        Tensor spectrum = new Dct2().Apply(new MatMul(TransposeA: true).Apply(dy, x)), w = new SparseDct(3, n, 1).Apply(a, u);
        tape.Backward(new SparseDctLinear(3, n, 1).Apply(x, a, u), dy);
        double[] k = spectrum.ToDoubles(), places = u.ToDoubles();
        int On(int i, int size) => (int)Math.Round(Math.Clamp(places[i], 0, 0.999f) * (size - 1), MidpointRounding.ToEven);
        Close.Check(a.Gradient!.ToDoubles(), [.. Enumerable.Range(0, count).Select(j => k[(On(j, 3) * n) + On(count + j, n)])], Close.Layer, "da");
        double[] s = new double[3 * n];
        for (int j = 0; j < count; j++)
        {
            s[(On(j, 3) * n) + On(count + j, n)] += a.ToArray()[j];
        }
        Close.Check(new Dct2().Apply(w).ToDoubles(), s, Close.Bound(type), "coefficients of W");
        Assert.Empty(device.Fallbacks);
    }

    [Fact]
    public void Spans_are_transformed_merged_and_differentiated()
    {
        const int m = 37, n = 29, tokens = 6;
        var rng = new Rng(4);
        float[] w = new float[m * n], x = new float[tokens * n], dy = new float[tokens * m], values = [2, -1, 0.5f], spectrum = new float[m * n], back = new float[m * n], da = new float[3];
        rng.Fork("w").FillUniform(w, -1, 1);
        rng.Fork("x").FillUniform(x, -1, 1);
        rng.Fork("dy").FillUniform(dy, -1, 1);
        int[] rows = [0, 36, 36], cols = [28, 3, 3];
        LowRankPrimitives.Dct2(w.AsMatrix(m, n), spectrum.AsMatrix(m, n));
        float[] merged = [.. w];
        LowRankPrimitives.SparseDctMerge(merged.AsMatrix(m, n), values, rows, cols, 2);
        for (int j = 0; j < values.Length; j++)
        {
            spectrum[(rows[j] * n) + cols[j]] += 2 * values[j];
        }
        LowRankPrimitives.Dct2(spectrum.AsMatrix(m, n), back.AsMatrix(m, n), inverse: true);
        Close.Check(Wide(merged), Wide(back), Close.Bound(DType.F32), "merge");

        var g = new float[m * n];
        for (int i = 0; i < m; i++)
        {
            for (int j = 0; j < n; j++)
            {
                g[(i * n) + j] = Enumerable.Range(0, tokens).Sum(t => dy[(t * m) + i] * x[(t * n) + j]);
            }
        }
        LowRankPrimitives.Dct2(g.AsMatrix(m, n), g.AsMatrix(m, n));
        LowRankPrimitives.SparseDctGradient(x.AsMatrix(tokens, n), dy.AsMatrix(tokens, m), rows, cols, 2, da);
        Close.Check(Wide(da), [.. rows.Zip(cols, (r, c) => 2.0 * g[(r * n) + c])], Close.Layer, "gradient");

        Assert.Equal("LowRankPrimitives: place 1 is [37, 3], want one inside of [37, 29]", Assert.Throws<ShapeException>(() => LowRankPrimitives.SparseDctMerge(w.AsMatrix(m, n), values, [0, 37, 36], cols, 1)).Message);
        Assert.Equal("LowRankPrimitives: values has 3 elements, want 2", Assert.Throws<ShapeException>(() => LowRankPrimitives.SparseDctMerge(w.AsMatrix(m, n), values, [0, 1], [0, 1], 1)).Message);
        Assert.Equal("LowRankPrimitives: values[1] is NaN, want a finite number", Assert.Throws<NumericException>(() => LowRankPrimitives.SparseDctMerge(w.AsMatrix(m, n), [0, float.NaN, 1], rows, cols, 1)).Message);
        Assert.Contains("destination overlaps x", Assert.Throws<ShapeException>(() => LowRankPrimitives.Dct2(w.AsSpan(0, 20).AsMatrix(4, 5), w.AsSpan(10, 20).AsMatrix(4, 5))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Operands_that_do_not_fit_are_named()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.NewZeros([3], DType.F32), u = scope.NewZeros([2, 3], DType.F32), x = scope.NewZeros([4, 5], DType.F32);
        Assert.Equal("SparseDct: u is [2, 2], want [2, 3]", Assert.Throws<ShapeException>(() => new SparseDct(6, 5, 1).Apply(a, scope.NewZeros([2, 2], DType.F32))).Message);
        Assert.Equal("SparseDct: W is [5, 6], want [6, 5]", Assert.Throws<ShapeException>(() => new SparseDct(6, 5, 1).Apply(a, u, scope.NewZeros([5, 6], DType.F32))).Message);
        Assert.Equal("SparseDct: a is [2, 3], want one dimension", Assert.Throws<ShapeException>(() => new SparseDct(6, 5, 1).Apply(u, u)).Message);
        Assert.Equal("SparseDct: Rows and Cols are 0 and 5, want at least 1", Assert.Throws<ShapeException>(() => new SparseDct(0, 5, 1).Apply(a, u)).Message);
        Assert.Equal("SparseDctLinear: x is [4, 5], want [..., 7]", Assert.Throws<ShapeException>(() => new SparseDctLinear(6, 7, 1).Apply(x, a, u)).Message);
        Assert.Equal("Dct2: x is [3], want two dimensions", Assert.Throws<ShapeException>(() => new Dct2().Apply(a)).Message);
    }

    private static double[] Values(string name, int count, DType type)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        return Draw(scope, name, [count], type).ToDoubles();
    }

    /// <summary>Row <paramref name="k"/> of C_n.</summary>
    private static double[] Wave(int n, int k) => [.. Enumerable.Range(0, n).Select(i => Math.Sqrt((k == 0 ? 1.0 : 2) / n) * Math.Cos(Math.PI * (k * ((2L * i) + 1) % (4L * n)) / (2.0 * n)))];

    private static Tensor Draw(Scope scope, string name, Shape shape, DType type)
    {
        var values = new float[shape.Count];
        new Rng(3).Fork(name).FillUniform(values, -1, 1);
        return scope.Of(shape, values, type);
    }

    private static double[] Wide(float[] values) => [.. values.Select(v => (double)v)];

    private static double Norm(Tensor t) => Math.Sqrt(t.ToDoubles().Sum(v => v * v));
}
