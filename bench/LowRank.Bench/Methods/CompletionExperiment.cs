using System.Diagnostics;
using System.Globalization;
using System.Text;
using LowRank.Subspaces;

namespace LowRank.Bench.Methods;

/// <summary>Matrix completion's sheet, scaled down: time until held-out entries of an exact matrix of rank k are met, for sweeps by Cholesky factors, by 3 and
/// 5 steps of conjugate gradients on orthonormal factors, and by the paper's sketched preconditioner; the best of three turns. Each column has 8 k entries.</summary>
public static class CompletionExperiment
{
    private const int Rows = 1600, Cols = 1400, EntriesAnUnknown = 8, MostSweeps = 60, SketchUpTo = 32, Turns = 3;
    private const double Reached = 1e-4;     // of the entries' size: float32 ends near 1e-6
    private const double HeldOut = 0.02;

    /// <summary>Runs it: seconds and sweeps of each solver, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        (string Name, CompletionOptions Options)[] solvers =
        [
            ("Cholesky", new() { Solver = CompletionSolver.Direct }),
            ("3 steps", new() { Solver = CompletionSolver.Gradients, InnerSteps = 3 }),
            ("5 steps", new() { Solver = CompletionSolver.Gradients, InnerSteps = 5 }),
            ("sketched, 3 steps", new() { Solver = CompletionSolver.Sketched, InnerSteps = 3 }),
        ];
        var table = new StringBuilder($"| k | entries | {string.Join(" | ", solvers.Select(s => s.Name))} | Cholesky / 3 steps |\n|---|---|{string.Concat(solvers.Select(_ => "---|"))}---|\n");
        foreach (int k in new[] { 8, 16, 32, 64, 128 })
        {
            (Observations train, Observations test, double size) = Draw(k);
            var found = new (double Seconds, int Sweeps)?[solvers.Length];
            for (int turn = 0; turn < Turns; turn++)
            {
                for (int i = 0; i < solvers.Length; i++)
                {
                    if (solvers[i].Options.Solver != CompletionSolver.Sketched || k <= SketchUpTo)
                    {
                        CompletionOptions options = solvers[i].Options with { Rank = k, Test = test, Tolerance = 0, Sweeps = MostSweeps };
                        found[i] = Time(train, options, Reached * size, stop) is { } time && !(found[i]?.Seconds < time.Seconds) ? time : found[i];
                    }
                }
            }
            string ratio = found[0] is { } direct && found[1] is { } gradients ? (direct.Seconds / gradients.Seconds).ToString("F2", CultureInfo.InvariantCulture) : "";
            table.Append(CultureInfo.InvariantCulture, $"| {k} | {train.Count:N0} | {string.Join(" | ", found.Select(Cell))} | {ratio} |\n");
        }
        return table.ToString();
    }

    private static string Cell((double Seconds, int Sweeps)? time) => time is { } t ? string.Create(CultureInfo.InvariantCulture, $"{t.Seconds:G3} s, {t.Sweeps} sweeps") : "not run, or not there";

    /// <summary>Seconds and sweeps until the held-out error is at most <paramref name="target"/>; null where it never is.</summary>
    private static (double Seconds, int Sweeps)? Time(Observations data, CompletionOptions options, double target, CancellationToken stop)
    {
        (double, int)? found = null;
        using var end = CancellationTokenSource.CreateLinkedTokenSource(stop);
        long began = Stopwatch.GetTimestamp();
        try
        {
            MatrixCompletion.Fit(data, options, new Each(s =>
            {
                if (s.TestRmse <= target)
                {
                    found = (Stopwatch.GetElapsedTime(began).TotalSeconds, s.Sweep);
                    end.Cancel();
                }
            }), end.Token);
        }
        catch (OperationCanceledException) when (found is not null)
        {
            // It is there.
        }
        return found;
    }

    /// <summary>Entries of U·Vᵀ with normal factors, every column's number of them near 8 k, and the root mean square of the entries, √k.</summary>
    private static (Observations Train, Observations Test, double Size) Draw(int k)
    {
        float[] u = new float[Rows * k], v = new float[Cols * k], draws = new float[Rows * Cols];
        var rng = new Rng(1);
        rng.Fork("u").FillNormal(u, 0, 1);
        rng.Fork("v").FillNormal(v, 0, 1);
        rng.Fork("observed").FillUniform(draws, 0, 1);
        int[] known = [.. Enumerable.Range(0, draws.Length).Where(i => draws[i] < (double)EntriesAnUnknown * k / Rows)];
        double Value(int i) => Enumerable.Range(0, k).Sum(c => (double)u[(i / Cols * k) + c] * v[(i % Cols * k) + c]);
        var all = new Observations(Rows, Cols, [.. known.Select(i => i / Cols)], [.. known.Select(i => i % Cols)], [.. known.Select(Value)]);
        (Observations train, Observations test) = all.Split(HeldOut, 1);
        return (train, test, Math.Sqrt(k));
    }

    private sealed class Each(Action<CompletionSweep> told) : IProgress<CompletionSweep>
    {
        public void Report(CompletionSweep value) => told(value);
    }
}
