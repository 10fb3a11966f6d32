using LowRank.Testing;
using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>The float32 kernels of alternating least squares, on every device, against their float64 references.</summary>
public class SparseRowsTests
{
    private const int FewestCols = 2500;
    private static readonly int[] Native = [1, 3, 8, 16, 17, 33, 64, 100], Emulated = [3, 17, 64];

    // Beside the matrix in shared memory: more unknowns than a block has threads, a matrix in the workspace (170), and rows that are split (more than 8192 entries)
    private static readonly (int Rank, int[] Counts)[] Large = [(130, [0, 1, 150, 30]), (170, [7, 0, 200]), (3, [5, 8193, 0, 8500, 40])];

    public static TheoryData<string, int, int[]> LargeOnes => [.. from device in Devices.Present where device != "cpu" from large in Large select (device, large.Rank, large.Counts)];

    public static TheoryData<string, int> Ranks => [.. from device in Devices.Present from rank in device == "cpu" ? Native : Emulated select (device, rank)];

    [Theory, MemberData(nameof(Ranks))]
    public void Rows_meet_the_float64_reference(string name, int rank)
    {
        int[] counts = [0, 1, rank, 40, 2 * rank, (name == "cpu" ? 8 : 3) * rank, 0, name == "cpu" ? 2200 : 70];
        foreach (RowSolve solve in new RowSolve[]
        {
            new(Ridge: 0.5), new(Ridge: 0.05, Weighted: true), new(Ridge: 0.5, DirectBelow: 0, Steps: 6), new(Ridge: 0.05, Weighted: true, DirectBelow: 2 * rank, Steps: 4),
        })
        {
            (double[] x64, double[] product64, double loss64) = Solve("cpu", counts, rank, DType.F64, solve);
            (double[] x32, double[] product32, double loss32) = Solve(name, counts, rank, DType.F32, solve);
            Close.Check(x32, x64, Close.Model, $"{rank} {solve}");
            Close.Check(product32, product64, Close.Layer, "product");
            Close.Check([loss32], [loss64], Close.Model, "loss");
            Assert.All(Enumerable.Range(0, counts.Length).Where(i => counts[i] == 0), i => Assert.All(x32[(i * rank)..((i + 1) * rank)], v => Assert.Equal(0, v)));
        }
    }

    [Theory, MemberData(nameof(LargeOnes))]
    public void Large_ranks_and_long_rows_meet_the_float64_reference(string name, int rank, int[] counts)
    {
        foreach (RowSolve solve in new RowSolve[] { new(Ridge: 0.5), new(Ridge: 0.5, DirectBelow: 8400, Steps: 3) })
        {
            Close.Check(Solve(name, counts, rank, DType.F32, solve).X, Solve("cpu", counts, rank, DType.F64, solve).X, Close.Model, $"{rank} {solve}");
        }
    }

    [Fact]
    public void A_singular_system_is_helped_and_counted()
    {
        foreach (DType type in new[] { DType.F32, DType.F64 })
        {
            using Device device = Devices.Open("cpu");
            using Scope scope = device.NewStore();
            var rows = new SparseRows(scope, 4, [0, 4], [0, 1, 2, 3], [1, 1, 1, 1], type);
            Tensor y = scope.Of([4, 2], new double[] { 1, 1, 1, 1, 1, 1, 1, 1 }, type), x = scope.NewZeros([1, 2], type);
            Assert.Equal(1, rows.Solve(y, x, new RowSolve()));
            Close.Check(x.ToDoubles(), [0.5, 0.5], Close.Model, "the shortest solution");
        }
    }

    [Fact]
    public void Parts_that_do_not_fit_are_refused()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.NewStore();
        Assert.Contains("a column is 4, want 0 to 3", Assert.Throws<ShapeException>(() => new SparseRows(scope, 4, [0, 1], [4], [1], DType.F32)).Message, StringComparison.Ordinal);
        Assert.Contains("want starts from 0", Assert.Throws<ShapeException>(() => new SparseRows(scope, 4, [0, 2], [1], [1], DType.F32)).Message, StringComparison.Ordinal);
        var rows = new SparseRows(scope, 4, [0, 1], [3], [1], DType.F32);
        Assert.Contains("want F32[4, rank]", Assert.Throws<ShapeException>(() => rows.Loss(scope.NewZeros([3, 2], DType.F32), scope.NewZeros([1, 2], DType.F32))).Message, StringComparison.Ordinal);
        Assert.Contains("want F32[1, 2]", Assert.Throws<ShapeException>(() => rows.Loss(scope.NewZeros([4, 2], DType.F32), scope.NewZeros([1, 3], DType.F32))).Message, StringComparison.Ordinal);
    }

    private static (double[] X, double[] Product, double Loss) Solve(string name, int[] counts, int rank, DType type, RowSolve solve)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.NewStore();
        var rng = new Rng((ulong)rank);
        int cols = Math.Max(FewestCols, counts.Max());
        double[] y = new double[cols * rank], start = new double[counts.Length * rank], values = new double[counts.Sum()];
        rng.FillNormal(y, 0, 1);
        rng.FillNormal(start, 0, 1);
        rng.FillNormal(values, 0, 1);
        var starts = new long[counts.Length + 1];
        List<int> columns = [];
        for (int i = 0; i < counts.Length; i++)
        {
            columns.AddRange(rng.Permutation(cols).Take(counts[i]));
            starts[i + 1] = columns.Count;
        }
        double[] Rounded(double[] v) => [.. v.Select(a => (double)(float)a)];
        var rows = new SparseRows(scope, cols, starts, [.. columns], Rounded(values), type);
        Tensor factor = scope.Of([cols, rank], Rounded(y), type), x = scope.Of([counts.Length, rank], Rounded(start), type), product = scope.New([counts.Length, rank], type);
        rows.Product(factor, product);
        double loss = rows.Loss(factor, x);
        rows.Solve(factor, x, solve);
        Assert.Empty(device.Fallbacks);
        return (x.ToDoubles(), product.ToDoubles(), loss);
    }
}
