using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Matrices of <see cref="LinalgRows"/> × factorisations × types: product, orthonormality, order, signs, values against float64.</summary>
public class LinalgTests
{
    private static readonly DType[] Types = [DType.F32, DType.F64];

    public static TheoryData<string, int, int, DType> Rows => [.. LinalgRows.All.SelectMany(r => Types.Select(type => (r.Kind, r.Rows, r.Cols, type)))];

    public static TheoryData<string, int, int, DType> Square => [.. Rows.Where(r => r.Data.Item2 == r.Data.Item3).Select(r => r.Data)];

    [Theory, MemberData(nameof(Rows))]
    public void Svd_is_thin_orthonormal_and_sorted(string kind, int m, int n, DType type)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([m, n], LinalgRows.Values(kind, m, n), type);
        (Tensor u, Tensor s, Tensor vt) = Svd.Of(a, scope);
        int k = Math.Min(m, n);
        Assert.Equal<Shape>([[m, k], [k], [k, n]], [u.Shape, s.Shape, vt.Shape]);
        double[] values = s.ToDoubles(), left = u.ToDoubles();
        Near(LinalgRows.Product(LinalgRows.ScaleColumns(left, values), vt.ToDoubles(), m, k, n), a.ToDoubles(), type, "U·S·Vt");
        Orthonormal(left, m, k, type, "U");
        Orthonormal(LinalgRows.Turn(vt.ToDoubles(), k, n), n, k, type, "V");
        Assert.Equal(values.OrderDescending(), values);
        Assert.All(values, v => Assert.True(v >= 0));
        LargestIsPositive(left, m, k);
        if (type == DType.F32 && k > 0)
        {
            double[] want = Svd.Of(scope.Of([m, n], a.ToDoubles()), scope).S.ToDoubles();
            Values(values, want, type);
        }
    }

    [Theory, InlineData(DType.F32), InlineData(DType.F64)]
    public void Svd_finds_the_values_a_matrix_was_made_of(DType type)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        const int m = 90, n = 60;
        double[] want = [.. Enumerable.Range(0, n).Select(i => i < 10 ? 3 : i < 50 ? Math.ScaleB(2, -i) : 0)];      // ten equal, forty graded, ten zero
        Tensor u = Qr.Of(scope.Of([m, n], LinalgRows.Draw(m * n, 1)), scope).Q, v = Qr.Of(scope.Of([n, n], LinalgRows.Draw(n * n, 2)), scope).Q;
        double[] a = LinalgRows.Product(LinalgRows.ScaleColumns(u.ToDoubles(), want), LinalgRows.Turn(v.ToDoubles(), n, n), m, n, n);
        Values(Svd.Of(scope.Of([m, n], a, type), scope).S.ToDoubles(), want, type);
    }

    [Theory, InlineData(DType.F32, 120, 80), InlineData(DType.F64, 120, 80), InlineData(DType.F32, 50, 130)]
    public void Svd_top_nears_the_largest_values_and_repeats_itself(DType type, int m, int n)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([m, n], LinalgRows.Values("graded", m, n), type);
        (Tensor u, Tensor s, Tensor vt) = Svd.Top(a, 6, scope, new Rng(7));
        Assert.Equal<Shape>([[m, 6], [6], [6, n]], [u.Shape, s.Shape, vt.Shape]);
        double[] exact = Svd.Of(a, scope).S.ToDoubles(), got = s.ToDoubles();
        for (int i = 0; i < got.Length; i++)
        {
            Assert.Equal(exact[i], got[i], Close.Randomized * exact[0]);
        }
        Orthonormal(u.ToDoubles(), m, 6, type, "U");
        Orthonormal(LinalgRows.Turn(vt.ToDoubles(), 6, n), n, 6, type, "V");
        LargestIsPositive(u.ToDoubles(), m, 6);
        Assert.Equal(u.ToBytes(), Svd.Top(a, 6, scope, new Rng(7)).U.ToBytes());
        Assert.Equal(Svd.Of(a, scope).U.Shape[1], Svd.Top(a, Math.Min(m, n), scope, new Rng(7)).S.Shape[0]);
    }

    [Theory, MemberData(nameof(Rows))]
    public void Qr_is_thin_orthonormal_and_triangular(string kind, int m, int n, DType type)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([m, n], LinalgRows.Values(kind, m, n), type);
        (Tensor q, Tensor r) = Qr.Of(a, scope);
        int k = Math.Min(m, n);
        Assert.Equal<Shape>([[m, k], [k, n]], [q.Shape, r.Shape]);
        Near(LinalgRows.Product(q.ToDoubles(), r.ToDoubles(), m, k, n), a.ToDoubles(), type, "Q·R");
        Orthonormal(q.ToDoubles(), m, k, type, "Q");
        Triangle(r.ToDoubles(), n, upper: true);
    }

    [Theory, MemberData(nameof(Rows))]
    public void Lu_swaps_rows_so_that_no_factor_exceeds_one(string kind, int m, int n, DType type)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([m, n], LinalgRows.Values(kind, m, n), type);
        LuFactors lu = Lu.Of(a, scope);
        int k = Math.Min(m, n);
        Assert.Equal<Shape>([[m, k], [k, n]], [lu.L.Shape, lu.U.Shape]);
        double[] product = LinalgRows.Product(lu.L.ToDoubles(), lu.U.ToDoubles(), m, k, n);
        Near(LinalgRows.Product(lu.Permutation(scope).ToDoubles(), product, m, m, n), a.ToDoubles(), type, "P·L·U");
        Assert.Equal(Enumerable.Range(0, m), lu.Rows.Order());
        Assert.All(lu.L.ToDoubles(), v => Assert.InRange(v, -1, 1));
        Assert.All(Enumerable.Range(0, k), i => Assert.Equal(1, lu.L.ToDoubles()[(i * k) + i]));
        Triangle(lu.L.ToDoubles(), k, upper: false);
        Triangle(lu.U.ToDoubles(), n, upper: true);
    }

    [Theory, MemberData(nameof(Square))]
    public void Eigh_is_orthonormal_and_sorted_and_reads_the_lower_triangle(string kind, int n, int _, DType type)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        double[] drawn = LinalgRows.Values(kind, n, n);
        Tensor a = scope.Of([n, n], drawn, type);
        double[] lower = a.ToDoubles();
        double[] symmetric = [.. lower.Select((x, i) => i / n >= i % n ? x : lower[(i % n * n) + (i / n)])];
        (Tensor values, Tensor v) = Eigh.Of(a, scope);
        Near(LinalgRows.Product(LinalgRows.ScaleColumns(v.ToDoubles(), values.ToDoubles()), LinalgRows.Turn(v.ToDoubles(), n, n), n, n, n), symmetric, type, "V·Λ·Vᵀ");
        Orthonormal(v.ToDoubles(), n, n, type, "V");
        Assert.Equal(values.ToDoubles().Order(), values.ToDoubles());
        LargestIsPositive(v.ToDoubles(), n, n);
        if (type == DType.F32 && n > 0)
        {
            Values(values.ToDoubles(), Eigh.Of(scope.Of([n, n], symmetric), scope).Values.ToDoubles(), type);
        }
    }

    [Theory, InlineData(DType.F32, 1), InlineData(DType.F64, 1), InlineData(DType.F32, 150), InlineData(DType.F64, 150), InlineData(DType.F64, 0)]
    public void Cholesky_factors_and_solves(DType type, int n)
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        double[] x = LinalgRows.Draw(n * n, 3), gram = LinalgRows.Product(x, LinalgRows.Turn(x, n, n), n, n, n);
        Tensor a = scope.Of([n, n], [.. gram.Select((v, i) => v + (i / Math.Max(1, n) == i % Math.Max(1, n) ? n : 0))], type);
        Tensor l = Cholesky.Of(a, scope);
        Near(LinalgRows.Product(l.ToDoubles(), LinalgRows.Turn(l.ToDoubles(), n, n), n, n, n), a.ToDoubles(), type, "L·Lᵀ");
        Triangle(l.ToDoubles(), n, upper: false);
        Solves(a, b => Cholesky.Solve(l, b, scope), type, scope);
        Solves(a, b => Lu.Of(a, scope).Solve(b, scope), type, scope);
    }

    [Fact]
    public void Spans_and_tensors_agree_and_threads_change_nothing()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        const int n = 140;
        Tensor a = scope.Of([n, n], LinalgRows.Draw(n * n, 4), DType.F32);
        int threads = CpuDevice.Threads;
        byte[] want = Svd.Of(a, scope).U.ToBytes();
        try
        {
            CpuDevice.Threads = 1;
            Assert.Equal(want, Svd.Of(a, scope).U.ToBytes());
            CpuDevice.Threads = 3;
            Assert.Equal(want, Svd.Of(a, scope).U.ToBytes());
        }
        finally
        {
            CpuDevice.Threads = threads;
        }
        float[] x = a.ToArray(), u = new float[n * n], s = new float[n], vt = new float[n * n], q = new float[n * n], r = new float[n * n];
        Svd.Of(x.AsMatrix(n, n), u.AsMatrix(n, n), s, vt.AsMatrix(n, n));
        Assert.Equal(Svd.Of(a, scope).Vt.ToArray(), vt);
        Qr.Of(x.AsMatrix(n, n), q.AsMatrix(n, n), r.AsMatrix(n, n));
        Assert.Equal(Qr.Of(a, scope).R.ToArray(), r);
        Eigh.Of(x.AsMatrix(n, n), s, u.AsMatrix(n, n));
        Assert.Equal(Eigh.Of(a, scope).V.ToArray(), u);
    }

    [Fact]
    public void Bad_input_is_named()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor a = scope.Of([3, 3], [1, 2, 3, 4, double.NaN, 6, 7, 8, 9], DType.F32), infinite = scope.Of([2, 2], [0, 1, double.NegativeInfinity, 2]), wide = scope.NewZeros([2, 3], DType.F32);
        foreach (Action<Tensor> factor in (Action<Tensor>[])[x => Svd.Of(x, scope), x => Svd.Top(x, 1, scope, new Rng(1)), x => Qr.Of(x, scope), x => Lu.Of(x, scope), x => Eigh.Of(x, scope), x => Cholesky.Of(x, scope)])
        {
            Assert.EndsWith(": a holds NaN at [1, 1], want finite values", Assert.Throws<NumericException>(() => factor(a)).Message, StringComparison.Ordinal);
            Assert.EndsWith(": a holds infinity at [1, 0], want finite values", Assert.Throws<NumericException>(() => factor(infinite)).Message, StringComparison.Ordinal);
            Assert.Contains(": a is BF16[2, 3], want a row-major matrix of F32 or F64", Assert.Throws<ShapeException>(() => factor(wide.ConvertTo(DType.BF16, scope))).Message, StringComparison.Ordinal);
            Assert.Throws<ShapeException>(() => factor(wide.Reshape([6])));
            Assert.Throws<ShapeException>(() => factor(Packing.Pack(wide, scope)));
        }
        Assert.Equal("Eigh: a is F32[2, 3], want a square matrix", Assert.Throws<ShapeException>(() => Eigh.Of(wide, scope)).Message);
        Assert.Equal("Svd: rank is 3, want 1 .. 2 for F32[2, 3]", Assert.Throws<ShapeException>(() => Svd.Top(wide, 3, scope, new Rng(1))).Message);
        Assert.Throws<ShapeException>(() => Svd.Top(wide, 1, scope, new Rng(1), oversample: -1));
        Tensor indefinite = scope.Of([2, 2], [1.0, 2, 2, 1]);
        Assert.Equal("Cholesky: a has no positive pivot at row 1, want a positive definite matrix; add a multiple of the identity", Assert.Throws<NumericException>(() => Cholesky.Of(indefinite, scope)).Message);
        Assert.Null(Cholesky.TryOf(indefinite, scope, out int pivot));
        Assert.Equal(1, pivot);
        Assert.Equal("Lu: a is singular, U is 0 at [1, 1]; want a matrix of full rank", Assert.Throws<NumericException>(() => Lu.Of(scope.Of([2, 2], [1.0, 2, 2, 4]), scope).Solve(indefinite, scope)).Message);
        Assert.Equal("Lu: b is F32[2, 3], want F64[2, any]", Assert.Throws<ShapeException>(() => Lu.Of(indefinite, scope).Solve(wide, scope)).Message);
        Assert.Throws<ShapeException>(() => Lu.Of(wide, scope).Solve(wide, scope));
        Assert.Equal("Svd: u is [2, 3], want [2, 2]", Assert.Throws<ShapeException>(() => Svd.Of(new float[6].AsMatrix(2, 3), new float[6].AsMatrix(2, 3), new float[2], new float[6].AsMatrix(2, 3))).Message);
        Assert.Equal("Qr: elements are Half, want Single or Double", Assert.Throws<ShapeException>(() => Qr.Of(new Half[1].AsMatrix(1, 1), new Half[1].AsMatrix(1, 1), new Half[1].AsMatrix(1, 1))).Message);
    }

    private static void Solves(Tensor a, Func<Tensor, Tensor> solve, DType type, Scope scope)
    {
        int n = a.Shape[0];
        Tensor b = scope.Of([n, 5], LinalgRows.Draw(n * 5, 8), type);
        double[] x = solve(b).ToDoubles(), left = LinalgRows.Product(a.ToDoubles(), x, n, n, 5), right = b.ToDoubles();
        double residual = Norm([.. left.Zip(right, (p, q) => p - q)]);
        Assert.True(residual <= Close.Residual(type) * Norm(a.ToDoubles()) * Norm(x), $"residual {residual:E2}");
    }

    private static void Near(double[] got, double[] want, DType type, string what) => Close.Check(got, want, Close.Factor(type), what);

    private static void Values(double[] got, double[] want, DType type)
    {
        double largest = want.Max(Math.Abs);
        Assert.All(got.Zip(want), v => Assert.Equal(v.Second, v.First, Close.Factor(type) * largest));
    }

    private static void Orthonormal(double[] q, int rows, int cols, DType type, string what)
    {
        double[] gram = LinalgRows.Product(LinalgRows.Turn(q, rows, cols), q, cols, rows, cols);
        double worst = gram.Select((g, i) => Math.Abs(g - (i / cols == i % cols ? 1 : 0))).DefaultIfEmpty(0).Max();
        Assert.True(worst <= Close.Factor(type), $"{what}: {worst:E2} from orthonormal");
    }

    private static void LargestIsPositive(double[] u, int rows, int cols)
    {
        for (int j = 0; j < cols; j++)
        {
            double[] column = [.. Enumerable.Range(0, rows).Select(i => u[(i * cols) + j])];
            Assert.True(column.MaxBy(Math.Abs) >= 0, $"column {j}");
        }
    }

    private static void Triangle(double[] a, int cols, bool upper) =>
        Assert.All(a.Select((v, i) => (v, row: i / cols, col: i % cols)).Where(e => upper ? e.row > e.col : e.row < e.col), e => Assert.Equal(0, e.v));

    private static double Norm(double[] x) => Math.Sqrt(x.Sum(v => v * v));
}
