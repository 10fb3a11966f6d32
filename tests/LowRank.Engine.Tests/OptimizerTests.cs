using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Optimisers against their float64 reference, and what they do with groups, clipping and frozen parameters.</summary>
public sealed class OptimizerTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    public static TheoryData<string, string> Kinds() => [.. from device in Devices.Present from kind in (string[])["adamw", "adam", "sgd", "momentum", "nesterov", "late", "rmsprop", "centered", "adafactor", "galore"] select (device, kind)];

    private static Optimizer Make(string kind, IReadOnlyList<Parameter> parameters) => kind switch
    {
        "adamw" => new AdamW(parameters) { WeightDecay = 0.1 },
        "adam" => new AdamW(parameters) { WeightDecay = 0.1, Coupled = true },
        "sgd" => new Sgd(parameters) { WeightDecay = 0.1 },
        "late" => new AdamW(parameters) { WeightDecay = 0.1, Late = true, Uncorrected = true },
        "rmsprop" => new RmsProp(parameters) { WeightDecay = 0.1 },
        "centered" => new RmsProp(parameters) { Centered = true, Momentum = 0.5 },
        "adafactor" => new Adafactor(parameters) { WeightDecay = 0.1, Epsilon = 1e-7 },
        "galore" => new GaLore(parameters) { Rank = 4, WeightDecay = 0.1 },
        "momentum" => new Sgd(parameters) { Momentum = 0.9, Dampening = 0.5 },
        _ => new Sgd(parameters) { Momentum = 0.9, Nesterov = true, WeightDecay = 0.1 },
    };

    private static double[] Train(string deviceName, string kind, DType type, int steps, double clip = 0)
    {
        using Device device = Devices.Open(deviceName);
        using Scope store = device.NewStore();
        var rng = new Rng(3);
        var first = new float[1000];
        var second = new float[37];
        rng.FillUniform(first, -1, 1);
        rng.FillUniform(second, -1, 1);
        Parameter[] parameters = [new("a", store.Of([10, 100], first, type)), new("b", store.Of([37], second, type)) { LearningRateScale = 4, WeightDecay = 0 }];
        using Optimizer optimizer = Make(kind, parameters);
        optimizer.LearningRate = 0.001;     // far from the minimum, where relative errors would only measure cancellation
        optimizer.MaxGradientNorm = clip;
        for (int i = 0; i < steps; i++)
        {
            using Tape tape = device.BeginTape();
            Tensor loss = new Add().Apply(
                new SquaredError().Apply(parameters[0], tape.NewZeros([10, 100], type)),
                new SquaredError(3).Apply(parameters[1], tape.NewZeros([37], type)));
            tape.Backward(loss);
            optimizer.Step();
        }
        return [.. parameters[0].Value.ToDoubles(), .. parameters[1].Value.ToDoubles(), optimizer.GradientNorm];
    }

    [Theory, MemberData(nameof(Kinds))]
    public void A_hundred_steps_match_the_float64_reference(string deviceName, string kind) =>
        Close.Check(Train(deviceName, kind, DType.F32, 100), Train("cpu", kind, DType.F64, 100), Close.Bound(DType.F32), kind);

    [Theory, MemberData(nameof(Kinds))]
    public void Clipping_matches_the_float64_reference(string deviceName, string kind) =>
        Close.Check(Train(deviceName, kind, DType.F32, 20, clip: 0.05), Train("cpu", kind, DType.F64, 20, clip: 0.05), Close.Bound(DType.F32), kind);

    [Fact]
    public void Adam_moves_by_the_learning_rate_at_first()
    {
        using Scope store = device.NewStore();
        var p = new Parameter("p", store.Of([2], [1.0, -1.0]));
        using var optimizer = new AdamW([p]) { LearningRate = 0.5, WeightDecay = 0, Epsilon = 0 };
        using Tape tape = device.BeginTape();
        tape.Backward(new SquaredError().Apply(p, tape.NewZeros([2], DType.F64)));
        optimizer.Step();
        Close.Check(p.Value.ToDoubles(), [0.5, -0.5], Close.Bound(DType.F64), "first step");
    }

    [Fact]
    public void Adafactor_keeps_rows_and_columns_of_every_matrix()
    {
        using Scope store = device.NewStore();
        var p = new Parameter("p", store.Of([2, 3, 4], [.. Enumerable.Range(0, 24).Select(i => i + 1.0)]));
        using var optimizer = new Adafactor([p, new Parameter("q", store.Of([5], [1.0, 2, 3, 4, 5]))]);
        using (Tape tape = device.BeginTape())
        {
            tape.Backward(new SquaredError(12).Apply(p, tape.NewZeros([2, 3, 4], DType.F64)));      // dp = p
            optimizer.Step();
        }
        Dictionary<string, (Shape Shape, double[] Values)> state = optimizer.State().ToDictionary(s => s.Name, s => (s.Value.Shape, s.Value.ToDoubles()));
        Assert.Equal([("col_var.p", [2, 4]), ("col_var.q", [5]), ("row_var.p", [2, 3])], state.Select(s => (s.Key, s.Value.Shape)).Order());
        double Mean(IEnumerable<int> values) => values.Average(v => (double)v * v);
        Close.Check(state["row_var.p"].Values, [.. Enumerable.Range(0, 6).Select(r => Mean(Enumerable.Range((4 * r) + 1, 4)))], Close.Bound(DType.F64), "rows");
        Close.Check(state["col_var.p"].Values, [.. Enumerable.Range(0, 8).Select(c => Mean(Enumerable.Range(0, 3).Select(r => (c / 4 * 12) + (4 * r) + (c % 4) + 1)))], Close.Bound(DType.F64), "columns");
    }

    [Theory]
    [InlineData("adamw")]
    [InlineData("adamw-8bit")]
    [InlineData("galore")]
    [InlineData("galore-8bit")]
    [InlineData("galore-adafactor")]
    [InlineData("gated")]
    public void Steps_that_a_parameter_sits_out_do_not_count_for_it(string kind)
    {
        static Optimizer Counting(string kind, Parameter[] p) => kind switch
        {
            "adamw-8bit" => new AdamW8Bit(p) { LeastSize = 1 },
            "galore" => new GaLore(p) { Rank = 2, Gap = 2 },
            "galore-8bit" => new GaLore8Bit(p) { Rank = 2, Gap = 2 },
            "galore-adafactor" => new GaLoreAdafactor(p) { Rank = 2, Gap = 2, Relative = true },
            "gated" => new GatedAdamW(p, p),
            _ => new AdamW(p),
        };
        Shape shape = [3, 4];
        double[] start = [.. Enumerable.Range(0, 12).Select(i => 1 + Math.Sin(i))];
        foreach ((string name, DType type) in from name in Devices.Present from type in (DType[])[DType.F32, DType.F64] select (name, type))
        {
            using Device on = Devices.Open(name, type);
            using Scope store = on.NewStore();
            Parameter late = new("late", store.Of(shape, start, type)), always = new("always", store.Of(shape, start, type)), alone = new("alone", store.Of(shape, start, type));
            using Optimizer both = Counting(kind, [late, always]), one = Counting(kind, [alone]);
            (both.LearningRate, one.LearningRate) = (0.1, 0.1);
            void Take(Optimizer optimizer, params Parameter[] moved)
            {
                foreach (Parameter p in moved)
                {
                    using Tape tape = on.BeginTape();
                    tape.Backward(new SquaredError().Apply(p, tape.NewZeros(shape, type)));
                }
                optimizer.Step();
            }
            late.Frozen = true;
            Take(both, always);
            Take(both, always);
            late.Frozen = false;
            for (int step = 0; step < 3; step++)
            {
                Take(both, late, always);
                Take(one, alone);
            }
            Assert.Equal(alone.Value.ToBytes(), late.Value.ToBytes());
            Assert.NotEqual(alone.Value.ToBytes(), always.Value.ToBytes());
            Dictionary<string, double> sat = both.State().Where(s => s.Name.StartsWith("paused.", StringComparison.Ordinal)).ToDictionary(s => s.Name, s => s.Value.Item());
            Assert.Equal(new Dictionary<string, double> { ["paused.late"] = 2, ["paused.always"] = 0 }, sat);
            Assert.DoesNotContain(one.State(), s => s.Name.StartsWith("paused.", StringComparison.Ordinal));
        }
    }

    [Fact]
    public void Frozen_parameters_and_those_without_a_gradient_stay()
    {
        using Scope store = device.NewStore();
        Parameter moved = new("moved", store.Of([3], [1f, 2, 3])), frozen = new("frozen", store.Of([3], [1f, 2, 3])), idle = new("idle", store.Of([3], [1f, 2, 3]));
        using var optimizer = new AdamW([moved, frozen, idle]) { WeightDecay = 0.5 };
        frozen.Frozen = true;
        using (Tape tape = device.BeginTape())
        {
            tape.Backward(new SquaredError().Apply(moved, frozen));
            Assert.Null(frozen.Gradient);
        }
        using (Tape tape = device.BeginTape())
        {
            tape.Backward(new SquaredError().Apply(moved, tape.NewZeros([3], DType.F32)));
        }
        optimizer.Step();
        Assert.NotEqual([1f, 2, 3], moved.Value.ToArray());
        Assert.Equal([1f, 2, 3], frozen.Value.ToArray());
        Assert.Equal([1f, 2, 3], idle.Value.ToArray());
    }

    [Fact]
    public void A_step_without_gradients_says_so()
    {
        using Scope store = device.NewStore();
        using var optimizer = new Sgd([new Parameter("p", store.Of([1], [1f]))]);
        Assert.Contains("run Backward first", Assert.Throws<InvalidOperationException>(optimizer.Step).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void State_round_trips_and_continues_bit_for_bit()
    {
        double[] whole = Run(10, breakAt: -1), broken = Run(10, breakAt: 4);
        Assert.Equal(whole, broken);
    }

    private double[] Run(int steps, int breakAt)
    {
        using Scope store = device.NewStore();
        var p = new Parameter("p", store.Of([5], [1f, 2, 3, 4, 5]));
        Optimizer optimizer = new AdamW([p]);
        for (int i = 0; i < steps; i++)
        {
            if (i == breakAt)
            {
                float[] values = p.Value.ToArray();
                string[] names = [.. optimizer.Pack.StateNames];
                var state = optimizer.State().ToDictionary(s => s.Name, s => s.Value.ToArray());
                long taken = optimizer.Steps;
                optimizer.Dispose();
                p = new Parameter("p", store.Of([5], values));
                optimizer = new AdamW([p]);
                optimizer.Restore(taken, names, (name, to) => to.Set(state[name]));
            }
            using Tape tape = device.BeginTape();
            tape.Backward(new SquaredError().Apply(p, tape.NewZeros([5], DType.F32)));
            optimizer.Step();
        }
        double[] result = p.Value.ToDoubles();
        optimizer.Dispose();
        return result;
    }
}
