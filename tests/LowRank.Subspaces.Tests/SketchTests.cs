using LowRank.Testing;
using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>The paper's building block: least squares preconditioned by a sketch.</summary>
public class SketchTests
{
    // sketch rows, condition of A, the most that cond(A·R⁻¹) may be
    [Theory]
    [InlineData(200, 1, 3.6)]
    [InlineData(400, 1, 2.4)]
    [InlineData(200, 1e8, 3.6)]
    [InlineData(400, 1e8, 2.4)]
    public void A_sketch_makes_the_condition_small(int sketchRows, double condition, double most)
    {
        (double[] a, double[] b) = System(4000, 50, condition, 1);
        var conditions = new double[60];
        Parallel.For(0, conditions.Length, seed => conditions[seed] = new SketchedLeastSquares(a, b, 50, SparseSketch.Draw(4000, sketchRows, 8, new Rng((ulong)seed))).Condition());
        Assert.All(conditions, found => Assert.InRange(found, 1, most));
    }

    [Fact]
    public void Gradients_halve_the_error_each_step()
    {
        (double[] a, double[] b) = System(2000, 40, 1e3, 2);
        var system = new SketchedLeastSquares(a, b, 40, SparseSketch.Draw(2000, 160, 8, new Rng(5)));
        double[] best = Planted.Product(a, system.Gradients(60), 40), start = Planted.Product(a, system.SketchedSolution(), 40), end = Planted.Product(a, system.Gradients(20), 40);
        Assert.InRange(Math.Pow(Distance(end, best) / Distance(start, best), 1 / 20.0), 0, 0.55);
    }

    [Theory]
    [InlineData(1e2)]
    [InlineData(1e4)]
    public void All_solvers_agree(double condition)
    {
        const int n = 300, k = 12;
        (double[] a, double[] b) = System(n, k, condition, 3);
        using Device device = Devices.Open("cpu");
        using Scope scope = device.NewStore();
        var row = new SparseRows(scope, n, [0, n], [.. Enumerable.Range(0, n)], b, DType.F64);
        Tensor y = scope.Of([n, k], a, DType.F64), direct = scope.NewZeros([1, k], DType.F64), gradients = scope.NewZeros([1, k], DType.F64);
        Assert.Equal(0, row.Solve(y, direct, new RowSolve()));
        row.Solve(y, gradients, new RowSolve(DirectBelow: 0, Steps: 50));
        double[] sketched = new SketchedLeastSquares(a, b, k, SparseSketch.Draw(n, 8 * k, 8, new Rng(1))).Gradients(50);
        const double near = 1e-8;
        Close.Check(gradients.ToDoubles(), direct.ToDoubles(), near, "gradients");
        Close.Check(sketched, direct.ToDoubles(), near, "sketched");
    }

    [Fact]
    public void A_ridge_counts_in_a_sketch_as_in_the_normal_equations()
    {
        const int n = 200, k = 6;
        (double[] a, double[] b) = System(n, k, 10, 4);
        using Device device = Devices.Open("cpu");
        using Scope scope = device.NewStore();
        var row = new SparseRows(scope, n, [0, n], [.. Enumerable.Range(0, n)], b, DType.F64);
        Tensor direct = scope.NewZeros([1, k], DType.F64);
        row.Solve(scope.Of([n, k], a, DType.F64), direct, new RowSolve(Ridge: 3));
        Close.Check(new SketchedLeastSquares(a, b, k, SparseSketch.Draw(n, 8 * k, 8, new Rng(1)), ridge: 3).Gradients(50), direct.ToDoubles(), Close.Golden64, "ridge");
    }

    [Fact]
    public void Sizes_that_do_not_fit_are_refused()
    {
        Assert.Contains("want A [b's length, k]", Assert.Throws<ShapeException>(() => new SketchedLeastSquares(new double[9], new double[5], 2, SparseSketch.Draw(5, 8, 2, new Rng(1)))).Message, StringComparison.Ordinal);
        Assert.Contains("no more non-zeros than sketch rows", Assert.Throws<ShapeException>(() => SparseSketch.Draw(5, 2, 3, new Rng(1))).Message, StringComparison.Ordinal);
    }

    /// <summary>Normal A with columns of falling lengths, turned so that no column stands alone, and b close to its range.</summary>
    private static (double[] A, double[] B) System(int n, int k, double condition, ulong seed)
    {
        double[] a = new double[n * k], turn = new double[k * k], x = new double[k], noise = new double[n];
        var rng = new Rng(seed);
        rng.FillNormal(a, 0, 1);
        rng.FillNormal(turn, 0, 1);
        rng.FillNormal(x, 0, 1);
        rng.FillNormal(noise, 0, 0.1);
        double[] q = new double[k * k], r = new double[k * k];
        Qr.Of(turn.AsMatrix(k, k), q.AsMatrix(k, k), r.AsMatrix(k, k));
        for (int i = 0; i < a.Length; i++)
        {
            a[i] *= Math.Pow(condition, -(double)(i % k) / (k - 1));
        }
        a = Planted.Product(a, q, k);
        return (a, [.. Planted.Product(a, x, k).Zip(noise, (v, e) => v + e)]);
    }

    private static double Distance(double[] x, double[] y) => Math.Sqrt(x.Zip(y, (a, b) => (a - b) * (a - b)).Sum());
}
