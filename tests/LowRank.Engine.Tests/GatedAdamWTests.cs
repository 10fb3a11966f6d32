using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The threshold on SoRA's gates, on every device: the maps, when a gate dies, that nothing else is touched, and what is refused.</summary>
public class GatedAdamWTests
{
    public static TheoryData<string> Names => [.. Devices.Present];

    [Theory, MemberData(nameof(Names))]
    public void The_official_map_has_a_dead_zone_of_twice_the_threshold_and_the_papers_of_once(string name)
    {
        double[] before = [0.5, 1, 1.5, 1.99, 2, 2.5, -1.5, -2.5, -1, 0];
        Assert.Equal([0, 1, 0, 0, 1, 1.5, 0, -1.5, -1, 0], After(name, before, 1, proximal: false));
        Assert.Equal([0, 0, 0.5, 0.99f, 1, 1.5, -0.5, -1.5, 0, 0], After(name, before, 1, proximal: true).Select(v => (double)(float)Math.Round(v, 6)));
        Assert.Equal(before.Select(v => (double)(float)v), After(name, before, 0, proximal: false));
    }

    [Theory, MemberData(nameof(Names))]
    public void A_gate_without_a_gradient_never_grows_and_dies_after_its_number_of_thresholds(string name)
    {
        foreach (bool proximal in (bool[])[false, true])
        {
            using Device device = Devices.Open(name);
            using Scope store = device.NewStore();
            var gate = new Parameter("g", store.Of([3], [2.5f, -1.25f, 0.75f]));
            var other = new Parameter("w", store.Of([40], Enumerable.Repeat(0.1f, 40).ToArray()));
            using var optimizer = new GatedAdamW([other, gate], [gate]) { Threshold = 0.5, Proximal = proximal, LearningRate = 1, WeightDecay = 0 };
            // 2.5 is 5 thresholds exactly: the official map leaves 0.5 where it is, which is what |g| = threshold does.
            int[] died = [0, 0, 0], want = proximal ? [5, 3, 2] : [0, 2, 1];
            double[] last = gate.Value.ToDoubles();
            for (int step = 1; step <= 6; step++)
            {
                using Tape tape = device.BeginTape();
                tape.Backward(new Add().Apply(gate, tape.NewZeros([3], DType.F32)), tape.NewZeros([3], DType.F32));
                optimizer.Step();
                double[] now = gate.Value.ToDoubles();
                Assert.All(now.Zip(last), v => Assert.True(Math.Abs(v.First) <= Math.Abs(v.Second)));
                for (int i = 0; i < 3; i++)
                {
                    died[i] = died[i] == 0 && now[i] == 0 ? step : died[i];
                }
                last = now;
            }
            Assert.Equal(want, died);
            Assert.All(other.Value.ToDoubles(), v => Assert.Equal(0.1f, (float)v));
            Assert.Empty(device.Fallbacks);
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Without_a_threshold_gates_follow_the_late_form_of_adam_and_are_never_decayed(string name)
    {
        using Device device = Devices.Open(name);
        using Scope store = device.NewStore();
        var values = new float[20];
        new Rng(1).FillNormal(values, 0, 1);
        Parameter[] Make(string prefix) => [new($"{prefix}.w", store.Of([20], values)), new($"{prefix}.g", store.Of([20], values))];
        Parameter[] ours = Make("a"), plain = Make("b"), gates = Make("c");
        using var gated = new GatedAdamW(ours, [ours[1]]) { Threshold = 0, LearningRate = 0.01, GateRate = step => 0.02 * (step + 1), MaxGradientNorm = 0.3 };
        using var first = new AdamW([plain[0]]) { Late = true, LearningRate = 0.01, WeightDecay = 0.1 };
        using var second = new AdamW([gates[1]]) { Late = true, Epsilon = 1e-6, WeightDecay = 0 };
        for (int step = 0; step < 4; step++)
        {
            foreach (Parameter p in ours)
            {
                Backward(device, p, 1);
            }
            double clip = Math.Min(1, 0.3 / (gated.MeasureGradientNorm() + 1e-6));      // one norm over both
            gated.Step();
            Backward(device, plain[0], clip);
            first.Step();
            Backward(device, gates[1], clip);
            second.LearningRate = 0.02 * (step + 1);
            second.Step();
        }
        Close.Check(ours[0].Value.ToDoubles(), plain[0].Value.ToDoubles(), Close.Bound(DType.F32), "w");
        Close.Check(ours[1].Value.ToDoubles(), gates[1].Value.ToDoubles(), Close.Bound(DType.F32), "g");
    }

    [Theory, MemberData(nameof(Names))]
    public void Without_a_threshold_a_gate_has_the_bits_of_adam(string name)
    {
        using Device device = Devices.Open(name);
        using Scope store = device.NewStore();
        var values = new float[20];
        new Rng(1).FillNormal(values, 0, 1);
        Parameter gate = new("g", store.Of([20], values)), plain = new("g", store.Of([20], values));
        using var gated = new GatedAdamW([gate], [gate]) { Threshold = 0, LearningRate = 0.01 };
        using var adam = new AdamW([plain]) { Late = true, Epsilon = 1e-6, WeightDecay = 0, LearningRate = 0.01 };
        for (int step = 1; step <= 5; step++)
        {
            Backward(device, gate, step);
            gated.Step();
            Backward(device, plain, step);
            adam.Step();
        }
        Assert.Equal(plain.Value.ToBytes(), gate.Value.ToBytes());
        Assert.NotEqual(values, plain.Value.ToArray());
    }

    [Fact]
    public void A_ladder_of_seven_is_the_sheets()
    {
        double[] want = [0, 1.1667e-4, 2.3333e-4, 3.5e-4, 4.6667e-4, 5.8333e-4, 7e-4];
        Assert.Equal(want, new SparsityLadder(LadderKind.Linear, 0, 7e-4, 7).Thresholds.Select(t => Math.Round(t, 8)));
    }

    [Fact]
    public void Ladders_and_thresholds_that_cannot_be_are_refused()
    {
        using Device device = Devices.Open("cpu");
        using Scope store = device.NewStore();
        var gate = new Parameter("g", store.NewZeros([3], DType.F32));
        foreach (double bad in (double[])[-1, double.NaN, double.PositiveInfinity])
        {
            Assert.Equal($"GatedAdamW: Threshold is {bad}, want 0 or more", Assert.Throws<ShapeException>(() => new GatedAdamW([gate], [gate]) { Threshold = bad }).Message);
        }
        Assert.Equal("GatedAdamW: gate other is not among the parameters, want gates that are trained", Assert.Throws<ShapeException>(() => new GatedAdamW([gate], [new Parameter("other", store.NewZeros([1], DType.F32))])).Message);
        Assert.Equal("SparsityLadder: count is 1, want at least 2", Assert.Throws<ShapeException>(() => new SparsityLadder(LadderKind.Linear, 0, 1, 1)).Message);
        Assert.Equal("SparsityLadder: first is -1, want 0 or more", Assert.Throws<ShapeException>(() => new SparsityLadder(LadderKind.Linear, -1, 1, 3)).Message);
        Assert.Equal("SparsityLadder: last is NaN, want 0 or more", Assert.Throws<ShapeException>(() => new SparsityLadder(LadderKind.Linear, 0, double.NaN, 3)).Message);
        Assert.Equal("SparsityLadder: first is 0, want more than 0: the ladder is made of its logarithm", Assert.Throws<ShapeException>(() => new SparsityLadder(LadderKind.ExpLinear, 0, 1, 3)).Message);
    }

    [Fact]
    public void A_ladder_sets_the_threshold_of_each_stage_and_measures_against_the_best()
    {
        using Device device = Devices.Open("cpu");
        using Scope store = device.NewStore();
        var gate = new Parameter("g", store.Of([4], [0.5f, 0, 0, 1]));
        using var optimizer = new GatedAdamW([gate], [gate]);
        foreach (bool frozen in (bool[])[false, true])
        {
            List<(double Threshold, double Rate)> seen = [];
            IReadOnlyList<SparsityStage> stages = new SparsityLadder(LadderKind.Linear, 0, 7e-4, 8).Run(optimizer, [gate], frozen, (stage, rate) =>
            {
                seen.Add((optimizer.Threshold, rate));
                return (stage == 0 ? 4 : 2, stage + 1);
            });
            Assert.Equal(stages.Select(s => s.Threshold), seen.Select(s => s.Threshold));
            Assert.Equal(frozen ? 1 : 8, seen.Count(s => s.Rate == 1));
            Assert.Equal(new SparsityStage(stages[1].Threshold, 50, 50, 25), stages[1]);
        }
    }

    private static double[] After(string name, double[] before, double threshold, bool proximal)
    {
        using Device device = Devices.Open(name);
        using Scope store = device.NewStore();
        var gate = new Parameter("g", store.Of([before.Length], before, DType.F32));
        using var optimizer = new GatedAdamW([gate], [gate]) { Threshold = threshold, Proximal = proximal };
        using Tape tape = device.BeginTape();
        tape.Backward(new Add().Apply(gate, tape.NewZeros(gate.Value.Shape, DType.F32)), tape.NewZeros(gate.Value.Shape, DType.F32));
        optimizer.Step();
        return gate.Value.ToDoubles();
    }

    private static void Backward(Device device, Parameter p, double scale)
    {
        using Tape tape = device.BeginTape();
        var up = new double[p.Value.Shape.Count];
        new Rng(4).FillUniform(up, -1, 1);
        tape.Backward(new Add().Apply(p, tape.NewZeros(p.Value.Shape, DType.F32)), tape.Of(p.Value.Shape, [.. up.Select(u => scale * u)], DType.F32));
    }
}
