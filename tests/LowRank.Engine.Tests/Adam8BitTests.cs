using System.Runtime.InteropServices;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Moments in 8 bits: the maps, the kernel on every device, what is kept, GaLore on top, and GaLore with Adafactor.</summary>
public sealed class Adam8BitTests : IDisposable
{
    private const int Coded = 5000, Plain = 37;      // elements: twenty blocks, the last one ragged, and a parameter that keeps floats
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope store;

    public Adam8BitTests() => store = device.NewStore();

    public static TheoryData<string> AllDevices => [.. Devices.Present];

    public void Dispose()
    {
        store.Dispose();
        device.Dispose();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_map_rises_from_0_or_minus_1_to_1_and_its_book_finds_every_code(bool bothSigns)
    {
        Codebook map = bothSigns ? Codebook.Signed8 : Codebook.Unsigned8;
        Assert.Equal(256, map.Values.Length);
        Assert.All(map.Values.Zip(map.Values.Skip(1)), pair => Assert.True(pair.First < pair.Second));
        Assert.Contains(0f, map.Values);
        Assert.Equal(1f, map.Values[^1]);
        Assert.DoesNotContain(-1f, map.Values);
        Assert.Equal(bothSigns, map.Values[0] < 0);

        byte[] book = map.ToBook();
        ReadOnlySpan<float> middles = MemoryMarshal.Cast<byte, float>(book.AsSpan(1024, 1024));
        var random = new float[2000];
        new Rng(1).FillUniform(random, bothSigns ? -1 : 0, 1);
        float[] values = [.. random, .. random.Select(v => v * v * v * v * 1e-5f), .. map.Values, .. middles[..255].ToArray().SelectMany(m => new[] { MathF.BitDecrement(m), m, MathF.BitIncrement(m) })];
        foreach (float value in values)
        {
            int bits = BitConverter.SingleToInt32Bits(value), place = Math.Max(0, ((bits & int.MaxValue) >> 16) - ((127 - 23) << 7));
            int code = book[2048 + place + (bits < 0 ? 2945 : 0)];
            Assert.Equal(map.Nearest(value), code + (value > middles[code] ? 1 : 0));
        }
    }

    [Theory, MemberData(nameof(AllDevices))]
    public void Steps_match_the_float64_reference(string name)
    {
        (double[] values, double[] codes) = Train(name, DType.F32, 3);
        (double[] Values, double[] Codes) want = Train("cpu", DType.F64, 3);
        Close.Check(values, want.Values, Close.Bound(DType.F32), "values");
        Close.CheckCodes(codes, want.Codes, "codes");
    }

    private static (double[] Values, double[] Codes) Train(string name, DType type, int steps)
    {
        using Device on = Devices.Open(name);
        using Scope scope = on.NewStore();
        Parameter a = new("a", scope.Of([50, 100], Random(Coded, 1), type)), b = new("b", scope.Of([Plain], Random(Plain, 2), type)) { LearningRateScale = 4, WeightDecay = 0 };
        using var optimizer = new AdamW8Bit([a, b]) { WeightDecay = 0.1, MaxGradientNorm = 1 };
        for (int k = 0; k < steps; k++)
        {
            Take(optimizer, [(a, Random(Coded, (ulong)(10 + k))), (b, Random(Plain, (ulong)(20 + k)))]);
        }
        return ([.. a.Value.ToDoubles(), .. b.Value.ToDoubles()], [.. optimizer.Pack.StateOf("exp_avg_codes", a).ToDoubles(), .. optimizer.Pack.StateOf("exp_avg_sq_codes", a).ToDoubles()]);
    }

    [Theory, MemberData(nameof(AllDevices))]
    public void An_element_whose_gradient_is_not_finite_stays_and_forgets(string name)
    {
        using Device on = Devices.Open(name);
        using Scope scope = on.NewStore();
        var p = new Parameter("p", scope.Of([300], [.. Enumerable.Repeat(0.5f, 300)]));
        using var optimizer = new AdamW8Bit([p]) { LeastSize = 1 };
        double[] gradient = [.. Enumerable.Repeat(1.0, 300)];
        Take(optimizer, [(p, gradient)]);
        double after = p.Value.ToDoubles()[7];
        (gradient[7], gradient[290]) = (double.NaN, double.PositiveInfinity);
        Take(optimizer, [(p, gradient)]);
        double[] values = p.Value.ToDoubles(), codes = optimizer.Pack.StateOf("exp_avg_codes", p).ToDoubles();
        Assert.Equal((after, after), (values[7], values[290]));
        Assert.True(values[8] < after, $"the others go on: {values[8]} beside {after}");
        Assert.Equal((0f, 0f), (Codebook.Signed8.Values[(int)codes[7]], Codebook.Signed8.Values[(int)codes[290]]));
        Assert.All(values, v => Assert.True(double.IsFinite(v)));
    }

    [Fact]
    public void Small_projections_keep_floats_and_others_a_byte_an_element()
    {
        Parameter small = new("small", store.NewZeros([4095, 3], DType.F32)), large = new("large", store.NewZeros([4096, 3], DType.F32));
        using var optimizer = new GaLore8Bit([small, large]) { Rank = 1 };
        string[] states = ["exp_avg", "exp_avg_sq", "exp_avg_codes", "exp_avg_sq_codes", "exp_avg_max", "exp_avg_sq_max"];
        Assert.Equal([4095, 4095, 0, 0, 0, 0], states.Select(s => optimizer.StateShape(s, small)?.Count ?? 0));
        Assert.Equal([0, 0, 4096, 4096, 16, 16], states.Select(s => optimizer.StateShape(s, large)?.Count ?? 0));
        Assert.Equal(2, states.Count(s => optimizer.StateType(s) == DType.U8));
    }

    [Fact]
    public void A_regression_with_8_bits_ends_near_one_with_32()
    {
        double Loss(Func<Parameter, Optimizer> make)
        {
            using Scope scope = device.NewStore();
            Tensor x = scope.Of([128, 256], Random(128 * 256, 3), DType.F32), target = scope.Of([128, 64], Random(128 * 64, 4), DType.F32);
            var w = new Parameter("W", scope.NewZeros([64, 256], DType.F32));
            using Optimizer optimizer = make(w);
            double last = 0;
            for (int k = 0; k < 50; k++)
            {
                using Tape tape = device.BeginTape();
                Tensor loss = new SquaredError().Apply(new Linear().Apply(x, w), target);
                last = loss.Item();
                tape.Backward(loss);
                optimizer.Step();
            }
            return last;
        }
        double floats = Loss(w => new GaLore([w]) { Rank = 16, Epsilon = 1e-8, LearningRate = 0.01 });
        double codes = Loss(w => new GaLore8Bit([w]) { Rank = 16, LeastSize = 1, LearningRate = 0.01, WeightDecay = 0 });
        Assert.NotEqual(floats, codes);
        Assert.Equal(1, codes / floats, Close.Average);
    }

    [Fact]
    public void At_full_rank_galore_is_adamw_in_the_turned_basis_and_not_adamw()
    {
        Parameter w = new("W", store.NewZeros([12, 7], DType.F64)), turned = new("T", store.NewZeros([12, 7], DType.F64)), plain = new("P", store.NewZeros([12, 7], DType.F64));
        using var galore = new GaLore([w]) { Rank = 7, Scale = 1, LearningRate = 0.01 };
        using var adam = new AdamW([turned, plain]) { Late = true, Epsilon = 1e-6, LearningRate = 0.01, WeightDecay = 0 };
        for (int k = 0; k < 5; k++)
        {
            double[] g = Random(84, (ulong)k);
            Take(galore, [(w, g)]);
            using Scope scope = device.BeginScope();
            Tensor basis = galore.Pack.StateOf("projector_right", w);
            Take(adam, [(turned, new MatMul(TransposeB: true).Apply(scope.Of([12, 7], g), basis).ToDoubles()), (plain, g)]);
        }
        using Scope last = device.BeginScope();
        Close.Check(w.Value.ToDoubles(), new MatMul().Apply(turned.Value, galore.Pack.StateOf("projector_right", w)).ToDoubles(), Close.Golden64, "turned basis");
        Assert.True(Close.Error(w.Value.ToDoubles(), plain.Value.ToDoubles()) > Close.Average);
    }

    [Theory]
    [InlineData("adamw-8bit")]
    [InlineData("galore-8bit")]
    [InlineData("galore-adafactor")]
    public void State_round_trips_and_continues_bit_for_bit(string kind)
    {
        double[] Run(int breakAt)
        {
            Parameter Fresh(double[] values) => new("W", store.Of([70, 60], values, DType.F32));
            Parameter p = Fresh(Random(4200, 5));
            Optimizer optimizer = Make(kind, p);
            for (int k = 0; k < 6; k++)
            {
                if (k == breakAt)
                {
                    double[] values = p.Value.ToDoubles();
                    string[] names = [.. optimizer.Pack.StateNames];
                    var state = optimizer.State().ToDictionary(s => s.Name, s => s.Value.ToBytes());
                    optimizer.Dispose();
                    p = Fresh(values);
                    optimizer = Make(kind, p);
                    optimizer.Restore(k, names, (name, to) => to.SetRaw(state[name]));
                }
                Take(optimizer, [(p, Random(4200, (ulong)(30 + k)))]);
            }
            double[] result = p.Value.ToDoubles();
            optimizer.Dispose();
            return result;
        }
        Assert.Equal(Run(breakAt: -1), Run(breakAt: 4));
    }

    private static Optimizer Make(string kind, Parameter p) => kind switch
    {
        "adamw-8bit" => new AdamW8Bit([p]),
        "galore-8bit" => new GaLore8Bit([p]) { Rank = 4, Gap = 3, LeastSize = 200 },
        _ => new GaLoreAdafactor([p]) { Rank = 4, Gap = 3, Beta1 = 0.9, FollowsSize = true },
    };

    [Fact]
    public void Bad_settings_are_named_before_anything_moves()
    {
        var p = new Parameter("W", store.Of([6, 5], Random(30, 6), DType.F32));
        double[] before = p.Value.ToDoubles();
        foreach ((Func<Optimizer> make, string want) in new (Func<Optimizer>, string)[]
        {
            (() => new AdamW8Bit([p]) { Beta1 = 1 }, "AdamW8Bit: Beta1 is 1"),
            (() => new AdamW8Bit([p]) { LearningRate = -1 }, "AdamW8Bit: LearningRate is -1"),
            (() => new GaLore8Bit([p]) { Epsilon = -1 }, "GaLore8Bit: Epsilon is -1"),
            (() => new GaLore([p]) { Beta2 = double.NaN }, "GaLore: Beta1 is 0.9 and Beta2 NaN"),
            (() => new GaLore([p]) { Side = (GaLoreSide)9 }, "GaLore: Side is 9, want Standard, Reverse, Left, Right, Both"),
            (() => new GaLoreAdafactor([p]) { Threshold = 0 }, "Threshold 0"),
            (() => new GaLoreAdafactor([p]) { Beta1 = -0.5 }, "GaLoreAdafactor: Beta1 is -0.5"),
            (() => new GaLoreAdafactor([p]) { Gap = 0 }, "GaLoreAdafactor: Rank is 128 and Gap 0"),
        })
        {
            using Optimizer optimizer = make();
            Assert.Contains(want, Assert.Throws<ShapeException>(() => Take(optimizer, [(p, Random(30, 7))])).Message, StringComparison.Ordinal);
            Assert.Equal(before, p.Value.ToDoubles());
        }
    }

    private static double[] Random(int count, ulong seed)
    {
        var values = new float[count];
        new Rng(seed).FillUniform(values, -1, 1);
        return [.. values.Select(v => (double)v)];
    }

    private static void Take(Optimizer optimizer, (Parameter P, double[] Gradient)[] gradients)
    {
        foreach ((Parameter p, double[] gradient) in gradients)
        {
            using Tape tape = p.Value.Device.BeginTape();
            tape.Backward(new Add().Apply(p, tape.NewZeros(p.Value.Shape, p.Value.DType)), tape.Of(p.Value.Shape, gradient, p.Value.DType));
        }
        optimizer.Step();
    }
}
