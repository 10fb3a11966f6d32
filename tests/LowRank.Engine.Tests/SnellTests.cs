using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What must hold of SNELL whatever the tables are, on every device.</summary>
public class SnellTests
{
    private const double Near = 1e-5;       // of the largest singular value: what counts towards the rank

    public static TheoryData<string> Names => [.. Devices.Present];

    public static TheoryData<string, int, int, int, double> Selections()
    {
        var data = new TheoryData<string, int, int, int, double>();
        foreach (string name in Devices.Present)
        {
            foreach ((int n, int k, int r, double sparsity) in new[] { (9, 14, 2, 0.5), (33, 70, 3, 0.9), (65, 40, 4, 0.123), (1, 1, 1, 0.7), (40, 33, 2, 0), (40, 33, 2, 1) })
            {
                data.Add(name, n, k, r, sparsity);
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Selections))]
    public void The_threshold_is_the_quantile_of_the_sorted_distances_bit_for_bit(string name, int n, int k, int r, double sparsity)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Draw(scope, "p", k, r), Draw(scope, "q", n, r));
        float[] sizes = [.. Delta(scope, new SnellRule(0, SnellMode.Distances), p, q)[0].ToDoubles().Select(v => (float)Math.Abs(v)).Order()];
        double place = sparsity * (sizes.Length - 1);
        float low = sizes[(int)place], high = sizes[(int)Math.Ceiling(place)], want = low + ((float)(place - Math.Floor(place)) * (high - low));
        Tensor[] official = Delta(scope, new SnellRule(sparsity), p, q);
        Assert.Equal(want, (float)official[1].Item());
        Assert.Equal(sizes.Count(v => v > want), official[0].ToDoubles().Count(v => v != 0));
        if (sparsity > 0)
        {
            Assert.Equal(sizes[(int)Math.Ceiling(sparsity * sizes.Length) - 1], (float)Delta(scope, new SnellRule(sparsity, SnellMode.PaperSoft), p, q)[1].Item());
        }
        Assert.Empty(device.Fallbacks);
    }

    // More entries than torch.quantile takes (2^24), so that what a selection counts does not fit into the digits of a float.
    [Fact]
    public void The_threshold_is_the_quantile_of_more_entries_than_a_float_can_count()
    {
        const int n = 4097, k = 4096;
        const double sparsity = 0.9;
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Draw(scope, "p", k, 1), Draw(scope, "q", n, 1));
        float[] sizes = Array.ConvertAll(Delta(scope, new SnellRule(0, SnellMode.Distances), p, q)[0].ToArray(), Math.Abs);
        Tensor[] official = Delta(scope, new SnellRule(sparsity), p, q);
        float tau = (float)official[1].Item();
        float[] near = [.. sizes.Where(v => v > 0.99f * tau && v < 1.01f * tau).Order()];      // what is below need not be sorted, only counted
        double place = sparsity * (sizes.Length - 1);
        int at = (int)place - sizes.Count(v => v <= 0.99f * tau);
        Assert.InRange(at, 0, near.Length - 2);
        Assert.Equal(near[at] + ((float)(place - Math.Floor(place)) * (near[at + 1] - near[at])), tau);
        Assert.Equal(sizes.Count(v => v > tau), official[0].ToArray().Count(v => v != 0));
    }

    [Theory, MemberData(nameof(Names))]
    public void Distances_are_those_of_a_double_loop(string name)
    {
        const int n = 65, k = 70, r = 8;
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Normal(scope, 1, k, r), Normal(scope, 2, n, r));
        double[] a = p.ToDoubles(), b = q.ToDoubles(), want = new double[n * k];
        for (int i = 0; i < want.Length; i++)
        {
            for (int head = 0; head < 2; head++)
            {
                double sum = 0;
                for (int c = 0; c < r; c++)
                {
                    double apart = a[(((head * k) + (i % k)) * r) + c] - b[(((head * n) + (i / k)) * r) + c];
                    sum += apart * apart;
                }
                want[i] += (head == 0 ? 0.1 : -0.1) * Math.Sqrt(sum);
            }
        }
        Close.Check(Delta(scope, new SnellRule(0, SnellMode.Distances), p, q)[0].ToDoubles(), want, Close.Identity, "D");
    }

    // Where a row of P is one of Q the distance has no slope: nothing flows there, and elsewhere it is finite.
    [Theory, MemberData(nameof(Names))]
    public void Rows_that_meet_have_no_gradient(string name)
    {
        using Device device = Devices.Open(name);
        foreach (SnellRule rule in (SnellRule[])[new(0, SnellMode.Distances), new(0.5), new(0, SnellMode.Distances, 1), new(0, SnellMode.Distances, 3)])
        {
            using Scope scope = device.BeginScope();
            Tensor p = Draw(scope, "p", 13, 3);
            double[] diagonal = [.. Enumerable.Range(0, 13 * 13).Select(i => i % 14 == 0 ? 1.0 : 0)];
            (double[] dp, double[] dq) = Gradients(device, rule, p, p, diagonal, DType.F32);
            Assert.All(dp.Concat(dq), g => Assert.Equal(0, g));
            (dp, dq) = Gradients(device, rule, p, p, [.. diagonal.Select(_ => 1.0)], DType.F32);
            Assert.All(dp.Concat(dq), g => Assert.True(double.IsFinite(g)));
            Assert.Contains(dp, g => g != 0);
        }
    }

    [Fact]
    public void A_share_of_the_entries_stays_and_their_rank_is_not_that_of_the_tables()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Normal(scope, 1, 64, 8), Normal(scope, 2, 64, 8));
        Assert.InRange(Delta(scope, new SnellRule(0.9), p, q)[0].ToDoubles().Count(v => v != 0), 409, 411);
        double[] singular = Svd.Of(Delta(scope, new SnellRule(0, SnellMode.Distances), p, q)[0], scope).S.ToDoubles();
        Assert.InRange(singular.Count(s => s > Near * singular[0]), 33, 64);
        double[] product = Svd.Of(new MatMul(TransposeB: true).Apply(p.Reshape([128, 8]), q.Reshape([128, 8])), scope).S.ToDoubles();
        Assert.Equal(8, product.Count(s => s > Near * product[0]));
    }

    [Theory, MemberData(nameof(Names))]
    public void Heads_that_change_places_turn_the_sign_and_equal_heads_give_nothing(string name)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Draw(scope, "p", 13, 3), Draw(scope, "q", 34, 3));
        Tensor Swap(Tensor t) => scope.Of(t.Shape, [.. t.ToDoubles()[(int)(t.Shape.Count / 2)..], .. t.ToDoubles()[..(int)(t.Shape.Count / 2)]], DType.F32);
        Tensor Twice(Tensor t) => scope.Of(t.Shape, [.. t.ToDoubles()[..(int)(t.Shape.Count / 2)], .. t.ToDoubles()[..(int)(t.Shape.Count / 2)]], DType.F32);
        foreach (SnellMode mode in Enum.GetValues<SnellMode>())
        {
            var rule = new SnellRule(0.5, mode);
            Assert.Equal(Delta(scope, rule, p, q)[0].ToDoubles().Select(v => -v), Delta(scope, rule, Swap(p), Swap(q))[0].ToDoubles());
            using Tape tape = device.BeginTape();
            (Tensor equalP, Tensor equalQ) = (Twice(p), Twice(q));
            equalP.NeedsGradient = equalQ.NeedsGradient = true;
            Tensor[] none = Delta(tape, rule, equalP, equalQ);
            Assert.All(none, t => Assert.All(t.ToDoubles(), v => Assert.Equal(0, v)));
            tape.Backward(none[0], tape.Of(none[0].Shape, [.. Enumerable.Repeat(1f, (int)none[0].Shape.Count)]));
            Assert.All(equalP.Gradient!.ToDoubles().Concat(equalQ.Gradient!.ToDoubles()), v => Assert.True(double.IsFinite(v)));
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Tables_of_twice_the_size_give_four_times_the_delta_on_the_same_support(string name)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q) = (Draw(scope, "p", 13, 3), Draw(scope, "q", 34, 3));
        Tensor Double(Tensor t) => scope.Of(t.Shape, [.. t.ToDoubles().Select(v => 2 * v)], DType.F32);
        Tensor[] once = Delta(scope, new SnellRule(0.8), p, q), twice = Delta(scope, new SnellRule(0.8), Double(p), Double(q));
        Assert.Equal(2 * once[1].Item(), twice[1].Item());
        Assert.Equal(once[0].ToDoubles().Select(v => 4 * v), twice[0].ToDoubles());
    }

    [Theory, MemberData(nameof(Names))]
    public void Gradients_take_the_factor_for_a_constant_and_nothing_flows_outside_the_support(string name)
    {
        foreach (DType type in (DType[])[DType.F64, DType.F32])
        {
            using Device device = Devices.Open(name, type);
            foreach (SnellRule rule in (SnellRule[])[new(0.7), new(0.7, SnellMode.PaperSoft), new(0.7, SnellMode.Official, 1), new(0.7, SnellMode.Official, 2.5)])
            {
                using Scope scope = device.BeginScope();
                (Tensor p, Tensor q) = (Draw(scope, "p", 13, 3, type), Draw(scope, "q", 34, 3, type));
                double[] up = new double[13 * 34], d = Delta(scope, rule with { Mode = SnellMode.Distances }, p, q)[0].ToDoubles();
                new Rng(3).FillUniform(up, -1, 1);
                Tensor[] delta = Delta(scope, rule, p, q);
                double tau = delta[1].Item();
                double[] factors = [.. d.Select(v => Math.Abs(v) <= tau ? 0 : Math.Abs(v) - (rule.Mode == SnellMode.PaperSoft ? tau : 0))];
                (double[] dp, double[] dq) = Gradients(device, rule, p, q, up, type);
                (double[] wantP, double[] wantQ) = Gradients(device, rule with { Mode = SnellMode.Distances }, p, q, [.. up.Zip(factors, (u, f) => u * f)], type);
                Close.Check(dp, wantP, type == DType.F64 ? Close.Bound(type) : Close.Layer, $"{rule}: dP in {type}");
                Close.Check(dq, wantQ, type == DType.F64 ? Close.Bound(type) : Close.Layer, $"{rule}: dQ in {type}");
                (double[] noneP, double[] noneQ) = Gradients(device, rule, p, q, [.. up.Zip(factors, (u, f) => f == 0 ? u : 0)], type);
                Assert.All(noneP.Concat(noneQ), v => Assert.Equal(0, v));
            }
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void What_cannot_be_is_named_before_anything_runs(string name)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        (Tensor p, Tensor q, Tensor w) = (Draw(scope, "p", 5, 2), Draw(scope, "q", 4, 2), scope.NewZeros([4, 5], DType.F32));
        void Refused(string message, Func<Tensor> act) => Assert.Equal(message, Assert.Throws<ShapeException>(act).Message);
        foreach (double sparsity in (double[])[-0.1, 1.5, double.NaN])
        {
            Refused($"Snell: Sparsity is {sparsity}, want 0 .. 1, a share of the entries", () => new SnellWeight(new(sparsity)).Apply(w, p, q));
        }
        foreach (double norm in (double[])[0, -2, double.NaN, double.PositiveInfinity])
        {
            Refused($"Snell: Norm is {norm}, want more than 0 and finite", () => new SnellWeight(new(0.5, SnellMode.Official, norm)).Apply(w, p, q));
        }
        Refused("Snell: Mode is 7, want one of Distances, Official, PaperSoft", () => new SnellWeight(new(0.5, (SnellMode)7)).Apply(w, p, q));
        Refused("Snell: P is [2, 4, 2], want [2, 5, half the rank], none of them 0", () => new SnellWeight(new(0.5)).Apply(w, q, q));
        Refused("Snell: Q is [2, 5, 2], want [2, 4, 2]", () => new SnellWeight(new(0.5)).Apply(w, p, p));
        Refused("Snell: P is [2, 0, 2], want [2, inputs, half the rank], none of them 0", () => new SnellLinear(new(0.5)).Apply(scope.New([3, 0], DType.F32), null, scope.New([2, 0, 2], DType.F32), q));
        Refused("SnellLinear: x is [3, 4], want [..., 5]", () => new SnellLinear(new(0.5)).Apply(scope.NewZeros([3, 4], DType.F32), w, p, q));
        foreach (float bad in (float[])[float.NaN, float.PositiveInfinity])
        {
            Tensor broken = scope.Of([2, 5, 2], [bad, .. new float[19]]);
            Assert.Equal("Snell: P or Q holds NaN or infinity, want finite tables", Assert.Throws<NumericException>(() => new SnellWeight(new(0.5)).Apply(w, broken, q)).Message);
        }
    }

    private static (double[] P, double[] Q) Gradients(Device device, SnellRule rule, Tensor p, Tensor q, double[] up, DType type)
    {
        using Tape tape = device.BeginTape();
        (Tensor ownP, Tensor ownQ) = (p.CopyTo(tape), q.CopyTo(tape));
        ownP.NeedsGradient = ownQ.NeedsGradient = true;
        Tensor delta = new SnellWeight(rule).Apply(tape.NewZeros([q.Shape[1], p.Shape[1]], type), ownP, ownQ);
        tape.Backward(delta, tape.Of(delta.Shape, up, type));
        return (ownP.Gradient!.ToDoubles(), ownQ.Gradient!.ToDoubles());
    }

    private static Tensor[] Delta(Scope scope, SnellRule rule, Tensor p, Tensor q) => new SnellWeight(rule).ApplyAll(scope.NewZeros([q.Shape[1], p.Shape[1]], p.DType), p, q);

    private static Tensor Normal(Scope scope, ulong seed, int rows, int r)
    {
        var values = new float[2 * rows * r];
        new Rng(seed).FillNormal(values, 0, 1);
        return scope.Of([2, rows, r], values);
    }

    private static Tensor Draw(Scope scope, string name, int rows, int r, DType type = DType.F32)
    {
        var values = new float[2 * rows * r];
        new Rng(7).Fork(name).FillUniform(values, -1, 1);
        return scope.Of([2, rows, r], values, type);
    }
}
