using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What the sheet says must hold of GaLore.</summary>
public sealed class GaLoreTests : IDisposable
{
    private const double Beyond = 1e12;     // as learning rate and ε with β₁ = 0: the step of W is -α·back(g)
    private static readonly string[] Kept = ["exp_avg", "exp_avg_sq", "projector_left", "projector_right"];
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope store;

    public GaLoreTests() => store = device.NewStore();

    public void Dispose()
    {
        store.Dispose();
        device.Dispose();
    }

    [Theory]
    [InlineData(96, 64, GaLoreSide.Standard, 96, 8)]
    [InlineData(64, 96, GaLoreSide.Standard, 8, 96)]
    [InlineData(64, 64, GaLoreSide.Standard, 64, 8)]
    [InlineData(96, 64, GaLoreSide.Reverse, 8, 64)]
    [InlineData(96, 64, GaLoreSide.Left, 8, 64)]
    [InlineData(64, 96, GaLoreSide.Right, 64, 8)]
    [InlineData(64, 96, GaLoreSide.Both, 8, 8)]
    public void Moments_have_the_shape_of_the_projection_and_factors_are_orthonormal(int m, int n, GaLoreSide side, int rows, int cols)
    {
        Parameter p = Matrix(m, n);
        using var optimizer = new GaLore([p]) { Rank = 8, Side = side };
        Take(optimizer, p, Random(m * n, 1));
        Dictionary<string, Tensor> state = optimizer.State().ToDictionary(s => s.Name, s => s.Value);
        Assert.Equal([rows, cols], state["exp_avg.W"].Shape);
        Assert.Equal([rows, cols], state["exp_avg_sq.W"].Shape);
        Assert.Equal(side == GaLoreSide.Both ? 4 : 3, state.Count);
        using Scope scope = device.BeginScope();
        foreach ((string name, Tensor factor) in state.Where(s => s.Key.StartsWith("projector", StringComparison.Ordinal)))
        {
            bool right = name.Contains("right", StringComparison.Ordinal);
            double[] gram = new MatMul(TransposeA: !right, TransposeB: right).Apply(factor, factor).ToDoubles();
            Close.Check(gram, [.. Enumerable.Range(0, 64).Select(i => i % 9 == 0 ? 1.0 : 0)], Close.Factor(DType.F64), name);
        }
    }

    [Theory]
    [InlineData(9, 9, GaLoreSide.Standard)]
    [InlineData(12, 9, GaLoreSide.Standard)]
    [InlineData(9, 12, GaLoreSide.Both)]
    public void At_full_rank_nothing_is_lost(int m, int n, GaLoreSide side)
    {
        double[] g = Random(m * n, 2);
        Close.Check(Back(m, n, g, 9, side), g, Close.Golden64, "back(project(G))");
    }

    [Fact]
    public void What_is_lost_is_the_energy_of_the_other_directions()
    {
        double[] g = Random(64 * 48, 3), back = Back(64, 48, g, 8, GaLoreSide.Standard);
        using Scope scope = device.BeginScope();
        double[] values = Svd.Of(scope.Of([64, 48], g), scope).S.ToDoubles();
        Close.Check([g.Zip(back, (x, y) => (x - y) * (x - y)).Sum()], [values[8..].Sum(v => v * v)], Close.Golden64, "energy");
    }

    [Fact]
    public void The_first_step_is_the_learning_rate_along_the_signs_of_the_projection()
    {
        Parameter p = Matrix(12, 7);
        double[] before = p.Value.ToDoubles();
        using var optimizer = new GaLore([p]) { Rank = 3, Scale = 0.5, LearningRate = 0.01 };
        Take(optimizer, p, Random(12 * 7, 4));
        using Scope scope = device.BeginScope();
        double[] g = [.. optimizer.Pack.StateOf("exp_avg", p).ToDoubles().Select(m => m / (1 - optimizer.Beta1))];
        double[] low = [.. g.Select(v => -0.01 * v / (Math.Abs(v) + (optimizer.Epsilon / Math.Sqrt(1 - optimizer.Beta2))))];
        double[] want = new MatMul(Scale: 0.5).Apply(scope.Of([12, 3], low), optimizer.Pack.StateOf("projector_right", p)).ToDoubles();
        double[] moved = [.. p.Value.ToDoubles().Zip(before, (a, b) => a - b)];
        Close.Check(moved, want, Close.Golden64, "first step");
        double[] values = Svd.Of(scope.Of([12, 7], moved), scope).S.ToDoubles();
        Assert.True(values[3] < Close.Golden64 * values[0], $"the step has rank above 3: {values[3]} beside {values[0]}");
    }

    // A sign in P turns that of its row of g too, so that it cancels in P and in M; over a change of P a moment would meet a vector of the other sign. Factors are
    // therefore given one sign of our own choice, whoever finds them.
    [Fact]
    public void Signs_of_singular_vectors_never_count()
    {
        double[] Run(Func<int, double> sign)
        {
            Parameter p = Matrix(8, 6);
            using var optimizer = new GaLore([p])
            {
                Rank = 2,
                Gap = 2,
                Factors = (_, g, step, scope) =>
                {
                    SvdFactors found = Svd.Of(g, scope, 2);
                    return found with { U = Turned(scope, found.U, sign((int)step)), Vt = Turned(scope, found.Vt, sign((int)step)) };
                },
            };
            for (int k = 0; k < 5; k++)
            {
                Take(optimizer, p, Random(48, (ulong)k));
            }
            return p.Value.ToDoubles();
        }
        static Tensor Turned(Scope scope, Tensor x, double sign) => scope.Of(x.Shape, [.. x.ToDoubles().Select(v => sign * v)]);
        double[] plain = Run(_ => 1);
        Assert.Equal(plain, Run(_ => -1));
        Assert.Equal(plain, Run(step => step == 1 ? 1 : -1));
    }

    [Fact]
    public void Steps_of_a_low_rank_add_up_to_the_full_one_over_several_changes()
    {
        Parameter p = Matrix(8, 6);
        double[] before = p.Value.ToDoubles();
        using var optimizer = new GaLore([p]) { Rank = 2, Gap = 1, LearningRate = 0.1 };
        foreach ((int step, int rank) in ((int, int)[])[(1, 2), (2, 4), (3, 6), (4, 6)])
        {
            Take(optimizer, p, Random(48, (ulong)step));
            using Scope scope = device.BeginScope();
            double[] values = Svd.Of(scope.Of([8, 6], [.. p.Value.ToDoubles().Zip(before, (a, b) => a - b)]), scope).S.ToDoubles();
            Assert.Equal(rank, values.Count(v => v > Close.Layer * values[0]));
        }
    }

    [Fact]
    public void A_parameter_without_a_gradient_stays_and_a_rank_above_the_smaller_side_is_that_side()
    {
        Parameter p = Matrix(8, 3), idle = new("idle", store.Of([4, 3], Random(12, 2)));
        double[] before = idle.Value.ToDoubles();
        using var optimizer = new GaLore([p, idle]) { Rank = 5, WeightDecay = 0.5 };
        Take(optimizer, p, Random(24, 1));
        Assert.Equal(before, idle.Value.ToDoubles());
        Assert.All(optimizer.Pack.StateOf("exp_avg", idle).ToDoubles(), v => Assert.Equal(0, v));
        Assert.Equal([8, 3], optimizer.Pack.StateOf("exp_avg", p).Shape);
        Assert.Equal([3, 3], optimizer.Pack.StateOf("projector_right", p).Shape);
    }

    [Fact]
    public void Decay_alone_shrinks_by_the_learning_rate_whatever_the_scale()
    {
        Parameter p = Matrix(6, 5);
        double[] before = p.Value.ToDoubles();
        using var optimizer = new GaLore([p]) { Rank = 2, Scale = 7, LearningRate = 0.5, WeightDecay = 0.25 };
        Take(optimizer, p, new double[30]);
        Assert.Equal(before.Select(v => v - (0.125 * v)), p.Value.ToDoubles());
    }

    [Fact]
    public void Factors_change_at_every_gap_and_clipping_does_not_move_them()
    {
        List<long> steps = [];
        Parameter p = Matrix(8, 6);
        using var optimizer = new GaLore([p]) { Rank = 2, Gap = 20, MaxGradientNorm = 0.5, Factors = (_, g, step, scope) => { steps.Add(step); return Svd.Of(g, scope, 2); } };
        for (int k = 0; k < 101; k++)
        {
            Take(optimizer, p, Random(48, (ulong)k));
        }
        Assert.Equal([1, 21, 41, 61, 81, 101], steps);
        double norm = Math.Sqrt(Random(48, 100).Sum(v => v * v));
        Assert.Equal(norm, optimizer.GradientNorm, Close.Bound(DType.F64) * norm);
    }

    [Fact]
    public void Randomised_factors_repeat_and_come_close()
    {
        double[] g = [.. Enumerable.Range(0, 30).SelectMany(i => Enumerable.Range(0, 20).Select(j => 1.0 / (1 + i + j)))];      // values fall off fast
        double[] Moved(Func<Parameter, Tensor, long, Scope, SvdFactors>? factors)
        {
            Parameter p = Matrix(30, 20);
            using var optimizer = new GaLore([p]) { Rank = 3, Factors = factors };
            Take(optimizer, p, g);
            return p.Value.ToDoubles();
        }
        double[] exact = Moved(null), random = Moved(GaLore.Randomized(3, 5));
        Close.Check(random, exact, Close.Randomized, "randomised step");
        Assert.Equal(random, Moved(GaLore.Randomized(3, 5)));
    }

    [Fact]
    public void Memory_of_a_layer_is_the_sheet_s()
    {
        using Scope none = device.NewStore();
        var p = new Parameter("W", none.NewZeros([4096, 4096], DType.F32));
        using var optimizer = new GaLore([p]) { Rank = 1024 };
        Assert.Equal(50_331_648, 4 * Kept.Sum(s => optimizer.StateShape(s, p)?.Count ?? 0));
    }

    [Fact]
    public void Bad_input_is_named()
    {
        Parameter vector = new("norm.bias", store.NewZeros([4], DType.F64)), p = Matrix(4, 3);
        Assert.Contains("norm.bias is [4], want a matrix", Assert.Throws<ShapeException>(() => new GaLore([vector, Matrix(4, 3)], [vector])).Message, StringComparison.Ordinal);
        using (var optimizer = new GaLore([p]) { Rank = 0 })
        {
            Assert.Contains("Rank is 0", Assert.Throws<ShapeException>(() => Take(optimizer, p, Random(12, 1))).Message, StringComparison.Ordinal);
        }
        using var other = new GaLore([p]) { Rank = 2 };
        double[] broken = Random(12, 1), before = p.Value.ToDoubles();
        broken[5] = double.NaN;
        Assert.Contains("gradient of W at step 1", Assert.Throws<NumericException>(() => Take(other, p, broken)).Message, StringComparison.Ordinal);
        Assert.Equal(before, p.Value.ToDoubles());
    }

    private double[] Back(int m, int n, double[] g, int rank, GaLoreSide side)
    {
        var p = new Parameter("W", store.NewZeros([m, n], DType.F64));
        using var optimizer = new GaLore([p]) { Rank = rank, Side = side, Scale = 1, Beta1 = 0, Epsilon = Beyond, LearningRate = Beyond, Uncorrected = true };
        Take(optimizer, p, g);
        return [.. p.Value.ToDoubles().Select(v => -v)];
    }

    private Parameter Matrix(int m, int n) => new("W", store.Of([m, n], Random(m * n, 9)));

    private static double[] Random(int count, ulong seed)
    {
        var values = new float[count];
        new Rng(seed).FillUniform(values, -1, 1);
        return [.. values.Select(v => (double)v)];
    }

    private void Take(GaLore optimizer, Parameter p, double[] gradient)
    {
        using Tape tape = device.BeginTape();
        tape.Backward(new Add().Apply(p, tape.NewZeros(p.Value.Shape, DType.F64)), tape.Of(p.Value.Shape, gradient));
        optimizer.Step();
    }
}
