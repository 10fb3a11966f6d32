using LowRank.Testing;
using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>What must hold of the method: the laws of its sheet, in float64.</summary>
public class CompletionLawTests
{
    private const double Recovered = 1e-9;
    private static readonly CompletionOptions Double = new() { Type = DType.F64, Tolerance = 0, Rank = 5 };

    [Fact]
    public void The_objective_never_rises_with_exact_half_sweeps()
    {
        var planted = new Planted(60, 50, 3, 0.4);
        List<double> objectives = [];
        Observations data = planted.Data;
        Run.Fit(data, Double with
        {
            Rank = 3,
            Sweeps = 15,
            Solver = CompletionSolver.Direct,
            AfterHalf = (_, u, v) =>
            {
                double[] x = Planted.Product(u, v, 3);
                objectives.Add(Enumerable.Range(0, data.Count).Sum(t => Math.Pow(x[(data.RowOf[t] * data.Cols) + data.ColOf[t]] - data.Values[t], 2)));
                return null;
            },
        });
        double slack = Close.Bound(DType.F64) * objectives[0];
        Assert.All(objectives.Skip(1).Zip(objectives), pair => Assert.True(pair.First <= pair.Second + slack, $"{pair.First} after {pair.Second}"));
        Assert.True(objectives[^1] < objectives[0]);
    }

    // condition, inner steps (0: direct), sweeps: the sheet's figures, which are of one draw. In a simulation of four others two steps at condition 10 took 19,
    // 19, 20 and 36 sweeps; and where singular values fall by equal factors instead of equal steps, exact half sweeps too missed one draw of four at 100 and 1000.
    [Theory]
    [InlineData(1, 0, 25)]
    [InlineData(1, 1, 35)]
    [InlineData(1, 2, 25)]
    [InlineData(1, 3, 25)]
    [InlineData(1, 5, 25)]
    [InlineData(10, 0, 25)]
    [InlineData(10, 2, 25)]
    [InlineData(10, 3, 25)]
    [InlineData(10, 5, 25)]
    [InlineData(100, 0, 60)]
    [InlineData(100, 5, 60)]
    [InlineData(1000, 0, 60)]
    [InlineData(1000, 5, 60)]
    public void A_matrix_is_recovered(double kappa, int steps, int sweeps)
    {
        var planted = new Planted(500, 400, 5, 0.15, kappa);
        Completion found = Run.Fit(planted.Data, Double with { Sweeps = sweeps, Solver = steps == 0 ? CompletionSolver.Direct : CompletionSolver.Gradients, InnerSteps = Math.Max(1, steps) });
        Assert.InRange(planted.Error(found), 0, Recovered);
    }

    // The sheet goes on that 1e-9 is reached before sweep 300. That is not so for every draw: the simulated ones were there after 24, 39 and 52 sweeps or not
    // in 60, and this one is at 4e-2 after 300.
    [Fact]
    public void Too_few_inner_steps_starve_small_directions()
    {
        var planted = new Planted(500, 400, 5, 0.15, 1000);
        Completion found = Run.Fit(planted.Data, Double with { Sweeps = 60, Solver = CompletionSolver.Gradients, InnerSteps = 3 });
        Assert.InRange(planted.Error(found), 1e3 * Recovered, 1);
    }

    [Theory]
    [InlineData(0.10, 35)]
    [InlineData(0.08, 55)]
    [InlineData(0.06, 90)]
    public void Fewer_observations_take_more_sweeps(double share, int sweeps)
    {
        var planted = new Planted(500, 400, 5, share);
        Completion found = Run.Fit(planted.Data, Double with { Sweeps = sweeps, Solver = CompletionSolver.Direct });
        Assert.InRange(planted.Error(found), 0, Recovered);
    }

    [Fact]
    public void A_run_that_does_not_converge_says_so()
    {
        var planted = new Planted(300, 300, 3, 0.05);
        Completion found = Run.Fit(planted.Data, Double with { Rank = 3, Sweeps = 20, Tolerance = null, Solver = CompletionSolver.Direct });
        Assert.False(found.Converged);
        Assert.Contains(found.Warnings, w => w.Contains("not converged after 20 sweeps", StringComparison.Ordinal) || w.Contains("no longer finite", StringComparison.Ordinal));
    }

    [Fact]
    public void Exact_data_converge_and_stop()
    {
        var planted = new Planted(80, 60, 2, 0.4);
        Completion found = Run.Fit(planted.Data, Double with { Rank = 2, Tolerance = null });
        Assert.True(found.Converged);
        Assert.Empty(found.Warnings);
        Assert.InRange(found.History.Count, 2, 60);
        Assert.InRange(planted.Error(found), 0, Recovered);
    }

    [Fact]
    public void All_entries_known_take_one_sweep()
    {
        var planted = new Planted(50, 40, 4, 1.1);
        foreach (CompletionSolver solver in new[] { CompletionSolver.Direct, CompletionSolver.Gradients, CompletionSolver.Auto })
        {
            Completion found = Run.Fit(planted.Data, Double with { Rank = 4, Sweeps = 1, Solver = solver });
            Assert.InRange(planted.Error(found), 0, Close.Bound(DType.F64));
        }
    }

    [Fact]
    public void Sketched_and_automatic_solvers_recover_too()
    {
        var planted = new Planted(220, 200, 16, 0.8);
        foreach (CompletionSolver solver in new[] { CompletionSolver.Sketched, CompletionSolver.Auto })
        {
            Completion found = Run.Fit(planted.Data, Double with { Rank = 16, Sweeps = 20, Solver = solver });
            Assert.InRange(planted.Error(found), 0, Recovered);
        }
    }

    [Fact]
    public void A_permuted_matrix_gives_the_permuted_product()
    {
        var planted = new Planted(60, 45, 3, 0.5);
        Observations data = planted.Data;
        int[] rows = new Rng(2).Permutation(60), cols = new Rng(3).Permutation(45);
        CompletionOptions options = Double with { Rank = 3, Sweeps = 30, Solver = CompletionSolver.Direct };
        Completion plain = Run.Fit(data, options);
        Completion moved = Run.Fit(data with { RowOf = [.. data.RowOf.Select(i => rows[i])], ColOf = [.. data.ColOf.Select(j => cols[j])] }, options);
        double[] Predicted(Func<int, int, double> predict) => [.. Enumerable.Range(0, 60 * 45).Select(e => predict(e / 45, e % 45))];
        Close.Check(Predicted((i, j) => moved.Predict(rows[i], cols[j])), Predicted(plain.Predict), Close.Golden64, "permuted product");
    }

    [Theory]
    [InlineData(CompletionSolver.Direct)]
    [InlineData(CompletionSolver.Gradients)]
    public void Noise_is_averaged_out(CompletionSolver solver)
    {
        const double sigma = 0.1;
        var planted = new Planted(500, 400, 5, 0.15, noise: sigma);
        Completion found = Run.Fit(planted.Data, Double with { Sweeps = 15, Solver = solver });
        double rmse = planted.Error(found) * Math.Sqrt(planted.M.Average(v => v * v));
        Assert.InRange(rmse, 0, 2 * sigma * Math.Sqrt(5.0 * 900 / planted.Data.Count));
    }

    [Theory]
    [InlineData(1e-3, 3e-3)]
    [InlineData(1e-6, 3e-6)]
    public void Errors_of_half_sweeps_do_not_add_up(double relative, double floor)
    {
        var planted = new Planted(500, 400, 5, 0.15);
        var rng = new Rng(4);
        Completion found = Run.Fit(planted.Data, Double with
        {
            Sweeps = 30,
            Solver = CompletionSolver.Direct,
            AfterHalf = (half, u, v) =>
            {
                double[] x = half % 2 == 0 ? v : u, e = new double[x.Length];
                rng.FillNormal(e, 0, 1);
                double scale = relative * Math.Sqrt(x.Sum(a => a * a) / e.Sum(a => a * a));
                return [.. x.Zip(e, (a, b) => a + (scale * b))];
            },
        });
        Assert.InRange(planted.Error(found), relative / 10, floor);
    }

    [Theory]
    [InlineData(DType.F64)]
    [InlineData(DType.F32)]
    public void An_orthonormal_factor_leaves_the_product(DType type)
    {
        var planted = new Planted(60, 45, 3, 0.5);
        var entries = Entries.Of(planted.Data, average: false);
        using Device device = Devices.Open("cpu");
        using var factors = new Alternation(entries, entries.Values, new CompletionOptions { Rank = 3, Type = type }, device);
        factors.Start();
        factors.Half(overV: true, 0, tight: false);
        double[] before = Planted.Product(factors.U.ToDoubles(), factors.V.ToDoubles(), 3);
        factors.Orthonormalize(factors.V, factors.U);
        double[] q = factors.V.ToDoubles();
        Close.Check(Planted.Product(factors.U.ToDoubles(), q, 3), before, type == DType.F64 ? Close.Bound(type) : Close.Layer, "product");
        for (int a = 0; a < 3; a++)
        {
            for (int b = 0; b < 3; b++)
            {
                double dot = Enumerable.Range(0, 45).Sum(i => q[(3 * i) + a] * q[(3 * i) + b]);
                Assert.InRange(Math.Abs(dot - (a == b ? 1 : 0)), 0, type == DType.F64 ? Close.Bound(type) : Close.Layer);
            }
        }
    }

    [Fact]
    public void A_resumed_run_has_the_bits_of_one_that_was_never_stopped()
    {
        var planted = new Planted(90, 70, 17, 0.7, noise: 0.1);
        foreach (DType type in new[] { DType.F32, DType.F64 })
        {
            CompletionOptions options = new() { Rank = 17, Sweeps = 6, Type = type, Tolerance = 0, Seed = 7 };
            Completion whole = Run.Fit(planted.Data, options), half = Run.Fit(planted.Data, options with { Sweeps = 3 });
            Completion rest = Run.Fit(planted.Data, options with { Resume = half.State });
            Assert.Equal(whole.U, rest.U);
            Assert.Equal(whole.V, rest.V);
            Assert.Equal(whole.History.Skip(3), rest.History);
        }
    }

    [Fact]
    public void A_stopped_run_has_told_its_state()
    {
        var planted = new Planted(40, 30, 2, 0.5);
        using var stop = new CancellationTokenSource();
        CompletionState? last = null;
        var options = new CompletionOptions { Rank = 2, Tolerance = 0, Checkpoint = new Reporter<CompletionState>(state => last = state) };
        Assert.Throws<OperationCanceledException>(() => MatrixCompletion.Fit(planted.Data, options, new Reporter<CompletionSweep>(s => { if (s.Sweep == 2) { stop.Cancel(); } }), stop.Token));
        Assert.Equal(2, last!.Sweep);
    }

    private sealed class Reporter<T>(Action<T> action) : IProgress<T>
    {
        public void Report(T value) => action(value);
    }
}
