using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Parameters that move within the backward pass: the bits of the ordinary step, in less memory.</summary>
public sealed class PerLayerTests
{
    private const int Rows = 6, Width = 24, Layers = 4;

    public static TheoryData<string, string> Kinds() =>
    [
        .. from device in Devices.Present
           from kind in (string[])["adamw", "adamw-8bit", "sgd", "rmsprop", "adafactor", "galore", "galore-8bit", "galore-adafactor", "gated"]
           select (device, kind),
    ];

    /// <summary>Among the parameters are one that two layers share, one that sits a step out, and those of a part that is made twice.</summary>
    [Theory, MemberData(nameof(Kinds))]
    public void Values_and_states_have_the_bits_of_the_ordinary_step(string deviceName, string kind)
    {
        (byte[] want, double norm) = Train(deviceName, kind, perLayer: false);
        (byte[] got, double same) = Train(deviceName, kind, perLayer: true);
        Assert.Equal(want, got);
        Close.Check([same], [norm], Close.Bound(DType.F64), "norm of all gradients");
    }

    [Theory]
    [InlineData("adamw")]
    [InlineData("galore-adafactor")]
    public void The_most_memory_of_a_step_has_a_few_gradients_and_not_all(string kind)
    {
        long Peak(bool perLayer)
        {
            using var net = new Net("cpu", kind, width: 256, layers: 8, perLayer);
            net.Step(0);        // makes states and tables
            net.Device.ResetPeak();
            net.Step(1);
            return net.Device.PeakBytes;
        }
        const long gradient = 256 * 256 * sizeof(float);
        Assert.InRange(Peak(perLayer: false) - Peak(perLayer: true), 5 * gradient, 8 * gradient);
    }

    [Fact]
    public void A_second_backward_pass_and_clipping_are_refused_before_anything_moves()
    {
        using var net = new Net("cpu", "adamw", Width, Layers, perLayer: true);
        byte[] start = net.Bits();
        net.Optimizer.MaxGradientNorm = 1;
        Assert.Contains("AdamW: MaxGradientNorm is 1, want 0", Assert.Throws<ShapeException>(() => net.Backward(0)).Message, StringComparison.Ordinal);
        net.Optimizer.MaxGradientNorm = 0;
        Assert.Contains("run Backward first", Assert.Throws<InvalidOperationException>(net.Optimizer.Step).Message, StringComparison.Ordinal);
        Assert.Equal(start, net.Bits());
        net.Backward(0);
        byte[] once = net.Bits();
        Assert.NotEqual(start, once);
        Assert.Contains("want one backward pass before each Step", Assert.Throws<InvalidOperationException>(() => net.Backward(1)).Message, StringComparison.Ordinal);
        Assert.Contains("MeasureGradientNorm", Assert.Throws<InvalidOperationException>(() => net.Optimizer.MeasureGradientNorm()).Message, StringComparison.Ordinal);
        Assert.Equal(once, net.Bits());
        net.Optimizer.Step();
        net.Step(1);
        Assert.Equal(2, net.Optimizer.Steps);
    }

    private static (byte[] Bits, double Norm) Train(string deviceName, string kind, bool perLayer)
    {
        using var net = new Net(deviceName, kind, Width, Layers, perLayer);
        for (int k = 0; k < 4; k++)
        {
            net.Frozen = k == 1;
            net.Step(k);
        }
        return (net.Bits(), net.Optimizer.GradientNorm);
    }

    /// <summary>h = gelu(x·W₀ᵀ + b₀), then the same with W₁ ... made twice for the gradient, and W₀ once more at the end.</summary>
    private sealed class Net : IDisposable
    {
        private readonly Scope store;
        private readonly Parameter[] weights, biases;
        private readonly int width;

        public Net(string deviceName, string kind, int width, int layers, bool perLayer)
        {
            this.width = width;
            Device = Devices.Open(deviceName);
            store = Device.NewStore();
            weights = [.. Enumerable.Range(0, layers).Select(i => new Parameter($"W{i}", store.Of([width, width], Draw(width * width, (ulong)i))))];
            biases = [.. Enumerable.Range(0, layers).Select(i => new Parameter($"b{i}", store.Of([width], Draw(width, (ulong)(100 + i)))))];
            Parameter[] all = [.. weights, .. biases];
            Optimizer = kind switch
            {
                "adamw-8bit" => new AdamW8Bit(all) { LeastSize = 300 },
                "sgd" => new Sgd(all) { Momentum = 0.9, WeightDecay = 0.1 },
                "rmsprop" => new RmsProp(all) { Centered = true, Momentum = 0.5 },
                "adafactor" => new Adafactor(all),
                "galore" => new GaLore(all, weights) { Rank = 4, Gap = 2, WeightDecay = 0.1 },
                "galore-8bit" => new GaLore8Bit(all, weights) { Rank = 4, Gap = 2, LeastSize = 90 },
                "galore-adafactor" => new GaLoreAdafactor(all, weights) { Rank = 4, Gap = 2, Beta1 = 0.9, FollowsSize = true, Relative = true, WeightDecay = 0.1 },
                "gated" => new GatedAdamW(all, biases),
                _ => new AdamW(all),
            };
            if (perLayer)
            {
                Optimizer.StepPerLayer();
            }
        }

        public Device Device { get; }

        public Optimizer Optimizer { get; }

        public bool Frozen
        {
            set => (weights[2].Frozen, biases[2].Frozen) = (value, value);
        }

        public void Step(int number)
        {
            Backward(number);
            Optimizer.Step();
        }

        public void Backward(int number)
        {
            using Tape tape = Device.BeginTape();
            Tensor x = tape.Of([Rows, width], Draw(Rows * width, (ulong)(200 + number)));
            Tensor h = Layer(x, 0);
            h = tape.Recompute(t => Enumerable.Range(1, weights.Length - 1).Aggregate(t, Layer), h);
            h = new Linear().Apply(h, weights[0], biases[0]);
            tape.Backward(new SquaredError().Apply(h, tape.NewZeros(h.Shape, DType.F32)));
        }

        public byte[] Bits() => [.. weights.Concat(biases).SelectMany(p => p.Value.ToBytes()), .. Optimizer.State().SelectMany(s => s.Value.ToBytes())];

        public void Dispose()
        {
            Optimizer.Dispose();
            store.Dispose();
            Device.Dispose();
        }

        private Tensor Layer(Tensor x, int i) => new Gelu().Apply(new Linear().Apply(x, weights[i], biases[i]));

        private float[] Draw(int count, ulong seed)
        {
            var values = new float[count];
            float most = 1.5f / MathF.Sqrt(width);
            new Rng(seed).FillUniform(values, -most, most);
            return values;
        }
    }
}
