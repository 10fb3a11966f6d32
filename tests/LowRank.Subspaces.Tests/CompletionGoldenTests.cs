using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>golden/matrix-completion: products, errors and objectives after half sweeps, and the fits of sketched least squares.</summary>
public class CompletionGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("matrix-completion");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_matrix_completion(string name) => Golden.Run("matrix-completion", name, golden =>
    {
        if (golden.Has("in.sketch_rows"))
        {
            Regression(golden);
            return;
        }
        foreach (JsonElement run in golden.Config.GetProperty("runs").EnumerateArray())
        {
            (string label, string kind, int steps) = (run[0].GetString()!, run[1].GetString()!, run[2].GetInt32());
            Assert.SkipUnless(kind is "direct" or "cgls", $"the solver {kind} is not built");
            CompletionOptions options = Options(golden) with { Solver = kind == "direct" ? CompletionSolver.Direct : CompletionSolver.Gradients, InnerSteps = Math.Max(1, steps) };
            Trajectory(golden, label, options, 0);
            Completion single = Run.Fit(Data(golden), options with { Type = DType.F32 });
            Close.Check(Planted.Product(single.U, single.V, single.Rank), golden.Doubles($"out.{label}.X"), Close.Model, $"{golden}: {label} in F32");
        }
        foreach (JsonElement level in golden.Config.GetProperty("noise_rel").EnumerateArray())
        {
            Trajectory(golden, $"noisy{level}", Options(golden) with { Solver = CompletionSolver.Direct }, level.GetDouble());
        }
    });

    private static CompletionOptions Options(GoldenCase golden) => new()
    {
        Rank = golden.Config.GetProperty("k").GetInt32(),
        Sweeps = golden.Config.GetProperty("sweeps").GetInt32(),
        Lambda = golden.Config.GetProperty("lam").GetDouble(),
        AverageDuplicates = true,
        Tolerance = 0,
        Type = DType.F64,
        FirstBasis = golden.Doubles("in.G0"),
    };

    private static Observations Data(GoldenCase golden) => new(golden.Shape("in.M")[0], golden.Shape("in.M")[1], golden.Ints("in.rows"), golden.Ints("in.cols"), golden.Doubles("in.values"));

    private static void Trajectory(GoldenCase golden, string label, CompletionOptions options, double noise)
    {
        double[] truth = golden.Doubles("in.M");
        Observations data = Data(golden);
        var observed = Enumerable.Range(0, data.Count).GroupBy(t => (data.RowOf[t] * data.Cols) + data.ColOf[t], t => data.Values[t]).ToDictionary(g => g.Key, g => g.Average());
        List<double> errors = [], objectives = [];
        Completion found = Run.Fit(data, options with
        {
            AfterHalf = (half, u, v) =>
            {
                if (half == 0)
                {
                    golden.Check("in.U0", u);
                }
                double[] mine = half % 2 == 0 ? v : u;
                if (noise > 0)
                {
                    double[] e = golden.Doubles($"in.noise.{half}");
                    double scale = noise * Norm(mine) / Norm(e);
                    for (int i = 0; i < e.Length; i++)
                    {
                        mine[i] += scale * e[i];
                    }
                }
                double[] x = Planted.Product(u, v, options.Rank);
                errors.Add(Close.Error(x, truth));
                objectives.Add(0.5 * observed.Sum(p => (x[p.Key] - p.Value) * (x[p.Key] - p.Value)));
                string step = $"{label}.step{(half / 2) + 1}{(half % 2 == 0 ? "a" : "")}.X";
                if (golden.Has(step))
                {
                    golden.Check(step, x);
                }
                return mine;
            },
        });
        golden.Check($"out.{label}.X", Planted.Product(found.U, found.V, found.Rank));
        golden.Check($"out.{label}.error", [.. errors]);
        if (golden.Has($"out.{label}.objective"))
        {
            golden.Check($"out.{label}.objective", [.. objectives]);
        }
    }

    private static void Regression(GoldenCase golden)
    {
        double[] a = golden.Doubles("in.A"), b = golden.Doubles("in.b");
        int k = golden.Config.GetProperty("k").GetInt32(), zeta = golden.Config.GetProperty("zeta").GetInt32(), iterations = golden.Config.GetProperty("iterations").GetInt32();
        double[] weights = [.. golden.Doubles("in.sketch_signs").Select(sign => sign / Math.Sqrt(zeta))];
        var system = new SketchedLeastSquares(a, b, k, new SparseSketch(golden.Config.GetProperty("sketch_rows").GetInt32(), golden.Ints("in.sketch_rows"), weights));
        golden.Check("out.Rf", [.. system.Factor]);
        golden.Check("out.cond_preconditioned", [system.Condition()]);
        golden.Check("out.omega", [system.Damping()]);
        golden.Check("out.x0", system.SketchedSolution());
        double[] Fit(double[] x) => Planted.Product(a, x, k);
        List<double> gradients = [], fixedPoint = [];
        system.Gradients(iterations, each: x => gradients.AddRange(Fit(x)));
        system.FixedPoint(iterations, x => fixedPoint.AddRange(Fit(x)));
        golden.Check("out.fit_pcg", [.. gradients]);
        golden.Check("out.fit_fixed_point", [.. fixedPoint]);
        golden.Check("out.fit_direct", Fit(system.Gradients(4 * iterations)));
    }

    private static double Norm(double[] x) => Math.Sqrt(x.Sum(v => v * v));
}
