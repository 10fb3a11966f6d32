using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The loss of words that never holds all logits: its memory, its equality with the plain route, labels that do not count, bad operands.</summary>
public sealed class LinearCrossEntropyTests : IDisposable
{
    private const int Count = 400, Inputs = 24, Words = 3000;
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Theory, InlineData(false), InlineData(true)]
    public void Peak_memory_is_an_eighth_of_the_plain_route(bool trained)
    {
        var plain = Run(trained, (x, w, labels) => new CrossEntropy(Ignore: 5, Smoothing: 0.1, SoftCap: 2).Apply(new Linear().Apply(x, w), labels));
        var slabs = Run(trained, (x, w, labels) => new LinearCrossEntropy(Ignore: 5, Smoothing: 0.1, SoftCap: 2).Apply(x, w, labels));
        Close.Check(slabs.Values, plain.Values, Close.Bound(DType.F32), "loss and gradients");
        Assert.True(8 * slabs.Bytes <= plain.Bytes, $"{slabs.Bytes} bytes by slabs, {plain.Bytes} with all logits, want an eighth at most");
    }

    [Fact]
    public void No_label_that_counts_gives_zero_and_no_gradient()
    {
        using Tape tape = device.BeginTape();
        Tensor x = tape.Of([2, 2], [1f, 2f, 3f, 4f]), w = tape.Of([3, 2], [1f, 2f, 3f, 4f, 5f, 6f]);
        x.NeedsGradient = true;
        Tensor loss = new LinearCrossEntropy().Apply(x, w, tape.Of([2], (ReadOnlySpan<int>)[-100, -100]));
        tape.Backward(loss);
        Assert.Equal(0.0, loss.Item());
        Assert.All(x.Gradient!.ToArray(), g => Assert.Equal(0f, g));
    }

    [Fact]
    public void Operands_that_do_not_fit_are_named()
    {
        using Scope scope = device.BeginScope();
        Tensor x = scope.NewZeros([2, 3], DType.F32), w = scope.NewZeros([5, 3], DType.F32), labels = scope.Of([2], [0, 4]);
        void Throws(string want, LinearCrossEntropy op, params Tensor?[] operands) => Assert.Contains(want, Assert.Throws<ShapeException>(() => op.Apply(operands)).Message, StringComparison.Ordinal);
        Throws("x is [2, 4], want [..., 3] with one row at least", new(), scope.NewZeros([2, 4], DType.F32), w, labels);
        Throws("x is [0, 3], want", new(), scope.NewZeros([0, 3], DType.F32), w, labels);
        Throws("labels is [3], want 2 labels", new(), x, w, scope.Of([3], [0, 1, 2]));
        Throws("bias is [4], want [5]", new(), x, w, labels, scope.NewZeros([4], DType.F32));
        Throws("Smoothing is 1, want 0 or more and less than 1", new(Smoothing: 1), x, w, labels);
        Throws("SoftCap is -1, want 0 (no cap) or more", new(SoftCap: -1), x, w, labels);
    }

    private (double[] Values, long Bytes) Run(bool trained, Func<Tensor, Tensor, Tensor, Tensor> loss)
    {
        using Scope data = device.NewStore();
        var rng = new Rng(9);
        float[] Drawn(string name, int count)
        {
            var values = new float[count];
            rng.Fork(name).FillUniform(values, -1, 1);
            return values;
        }
        Tensor x = data.Of([Count, Inputs], Drawn("x", Count * Inputs)), w = data.Of([Words, Inputs], Drawn("w", Words * Inputs));
        Tensor labels = data.Of([Count], [.. Enumerable.Range(0, Count).Select(i => i * 31 % 211)]);
        (x.NeedsGradient, w.NeedsGradient) = (true, trained);
        long bytes = 0;
        double value = 0;
        for (int run = 0; run < 2; run++)       // gradients have their place from the first on
        {
            x.ClearGradient();
            w.ClearGradient();
            using Tape tape = device.BeginTape();
            device.ResetPeak();
            long before = device.Bytes;
            Tensor y = loss(x, w, labels);
            tape.Backward(y);
            (bytes, value) = (device.PeakBytes - before, y.Item());
        }
        return ([value, .. x.Gradient!.ToDoubles(), .. w.Gradient?.ToDoubles() ?? []], bytes);
    }
}
