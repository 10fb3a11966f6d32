using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

public sealed class TapeTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Fact]
    public void A_freed_tensor_is_gone_and_a_block_without_tensors_goes_back()
    {
        using Scope store = device.NewStore(), other = device.NewStore();
        long empty = device.Bytes;
        Tensor first = store.Of([3], [1f, 2, 3]), large = store.NewZeros([5 << 20], DType.F32), last = store.Of([2], [4f, 5]);
        long all = device.Bytes;
        Assert.Contains("Free: tensor is F32[3]", Assert.Throws<ShapeException>(() => other.Free(first)).Message, StringComparison.Ordinal);
        Assert.Contains("no view of another", Assert.Throws<ShapeException>(() => store.Free(first.Slice(0, 2))).Message, StringComparison.Ordinal);
        Tensor view = large.Slice(7, 5);
        store.Free(large);
        Assert.InRange(all - device.Bytes, 20 << 20, (20 << 20) + 512);
        Assert.False(large.IsAlive || view.IsAlive);
        Assert.Contains("it was freed", Assert.Throws<ObjectDisposedException>(view.ToArray).Message, StringComparison.Ordinal);
        Assert.Throws<ShapeException>(() => store.Free(large));
        Tensor again = store.Of([2], [6f, 7]);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7], (float[])[.. first.ToArray(), .. last.ToArray(), .. again.ToArray()]);
        store.Free(first);
        store.Free(last);
        store.Free(again);
        Assert.Equal((empty, 0), (device.Bytes, store.Bytes));
        Assert.Equal([8f], store.Of([1], [8f]).ToArray());
    }

    [Fact]
    public void Using_a_tensor_after_its_scope_says_so()
    {
        Tensor x;
        using (Scope scope = device.BeginScope())
        {
            x = scope.Of([1, 2], [1f, 2f]);
        }
        Assert.Contains("tape or scope has ended", Assert.Throws<ObjectDisposedException>(x.ToArray).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_shape_error_names_operand_value_and_wish()
    {
        using Scope scope = device.BeginScope();
        Tensor x = scope.NewZeros([1, 4], DType.F32), w = scope.NewZeros([4, 4], DType.F32), a = scope.NewZeros([1, 3], DType.F32), b = scope.NewZeros([4, 1], DType.F32);
        ShapeException error = Assert.Throws<ShapeException>(() => new LoraLinear(1).Apply(x, w, a, b));
        Assert.Equal("LoraLinear: A is [1, 3], want [r, 4] with r of at least 1", error.Message);
    }

    // Kernels that have nothing to read write nothing.
    [Fact]
    public void A_batch_without_rows_has_zero_gradients_and_adds_nothing_to_those_of_another()
    {
        using Scope data = device.NewStore();
        Parameter w = new("w", data.Of([2, 3], [1f, 2, 3, 4, 5, 6])), a = new("a", data.Of([1, 3], [1f, 2, 3])), b = new("b", data.Of([2, 1], [1f, 2]));
        double[] Gradient(int rows)
        {
            using Tape tape = device.BeginTape();
            Tensor x = tape.Of([rows, 3], new float[3 * rows].Select((_, i) => i + 1f).ToArray());
            Tensor y = new Gelu().Apply(new LoraLinear(1).Apply(new Linear().Apply(x, w).Reshape([rows, 2]), data.Of([3, 2], [1f, 2, 3, 4, 5, 6]), data.Of([1, 2], [1f, 2]), data.Of([3, 1], [1f, 2, 3])));
            tape.Backward(new LoraLinear(1).Apply(y, data.Of([2, 3], [1f, 2, 3, 4, 5, 6]), a, b), tape.Of([rows, 2], Enumerable.Repeat(1f, 2 * rows).ToArray()));
            return [.. w.Gradient!.ToDoubles(), .. a.Gradient!.ToDoubles(), .. b.Gradient!.ToDoubles()];
        }
        Assert.All(Gradient(0), g => Assert.Equal(0, g));
        double[] some = Gradient(4);
        Assert.All(some, g => Assert.NotEqual(0, g));
        Assert.Equal(some, Gradient(0));
    }

    [Fact]
    public void Gradients_flow_through_views_and_repeated_operands()
    {
        using Scope data = device.NewStore();
        Tensor x = data.Of([4, 3], [.. Enumerable.Range(1, 12).Select(i => (double)i)]);
        x.NeedsGradient = true;
        using Tape tape = device.BeginTape();
        Tensor square = new Mul().Apply(x.Slice(1, 2), x.Slice(1, 2));
        Tensor same = x.Reshape([2, 6]);
        Tensor sum = new Add().Apply(new Mul().Apply(same, same), same);
        Tensor loss = new Add().Apply(new SquaredError().Apply(square, tape.NewZeros([2, 3], DType.F64)), new SquaredError().Apply(sum, tape.NewZeros([2, 6], DType.F64)));
        tape.Backward(loss);
        double[] want = new double[12];
        for (int i = 0; i < 12; i++)
        {
            double v = i + 1;
            want[i] = (2 * ((v * v) + v) * ((2 * v) + 1) / 12) + (i is >= 3 and < 9 ? 2 * v * v * 2 * v / 6 : 0);
        }
        Close.Check(x.Gradient!.ToDoubles(), want, Close.Bound(DType.F64), "views");
    }

    [Fact]
    public void A_tape_runs_backward_once()
    {
        using Tape tape = device.BeginTape();
        Tensor x = tape.Of([1], [2.0]);
        x.NeedsGradient = true;
        Tensor y = new Mul().Apply(x, x);
        tape.Backward(y);
        Assert.Equal(4.0, x.Gradient!.Item());
        Assert.Contains("already", Assert.Throws<InvalidOperationException>(() => tape.Backward(y)).Message, StringComparison.Ordinal);
    }

    [Theory, InlineData(false), InlineData(true)]
    public void A_part_that_is_made_again_has_the_same_bits_and_less_memory(bool nested)
    {
        const int parts = 6, wide = 64, k = 16;
        using Scope data = device.NewStore();
        var rng = new Rng(3);
        float[] Drawn(string name, int count)
        {
            var values = new float[count];
            rng.Fork(name).FillUniform(values, -0.3f, 0.3f);
            return values;
        }
        Tensor x = data.Of([128, k], Drawn("x", 128 * k));
        Tensor[] up = [.. Enumerable.Range(0, parts).Select(i => data.Of([wide, k], Drawn($"up {i}", wide * k)))], down = [.. Enumerable.Range(0, parts).Select(i => data.Of([k, wide], Drawn($"down {i}", wide * k)))];
        foreach (Tensor trained in (Tensor[])[.. up, .. down])
        {
            trained.NeedsGradient = true;
        }
        (float[] Loss, float[][] Gradients, long Bytes) Run(bool again)
        {
            long counter = 0;
            using Tape tape = device.BeginTape();
            device.ResetPeak();
            long before = device.Bytes;
            Tensor h = x;
            Tensor Part(Tensor t, int i)
            {
                Tensor inner = new Gelu().Apply(new Linear().Apply(t, up[i]));
                var on = (Tape)device.Current!;
                inner = new Dropout(0.2, 7, (ulong)on.Next(ref counter)).Apply(inner);
                return new Add().Apply(new Linear().Apply(inner, down[i]), t);
            }
            for (int i = 0; i < parts; i++)
            {
                int part = i;
                h = !again ? Part(h, part)
                    : nested ? tape.Recompute(t => ((Tape)device.Current!).Recompute(u => Part(u, part), t), h)
                    : tape.Recompute(t => Part(t, part), h);
            }
            Tensor loss = new SquaredError().Apply(h, tape.NewZeros(h.Shape, h.DType));
            tape.Backward(loss);
            long bytes = device.PeakBytes - before;
            var result = (loss.ToArray(), (float[][])[.. up.Concat(down).Select(t => t.Gradient!.ToArray())], bytes);
            foreach (Tensor trained in (Tensor[])[.. up, .. down])
            {
                trained.ClearGradient();
            }
            Assert.Equal(parts, counter);
            return result;
        }
        Run(again: false);       // gradients have their place from here on
        var plain = Run(again: false);
        var made = Run(again: true);
        Assert.Equal(plain.Loss, made.Loss);
        Assert.Equal(plain.Gradients, made.Gradients);
        Assert.True(2 * made.Bytes < plain.Bytes, $"peak {made.Bytes} bytes where parts are made again, {plain.Bytes} where all is kept, want less than half");
    }

    [Fact]
    public void A_part_that_leads_to_nothing_trained_is_not_recorded()
    {
        using Tape tape = device.BeginTape();
        Tensor x = tape.Of([1, 2], [1f, 2f]), y = tape.Recompute(t => new Gelu().Apply(t), x);
        Assert.False(y.NeedsGradient);
        Assert.Throws<InvalidOperationException>(() => tape.Backward(new SquaredError().Apply(y, x)));
    }

    [Fact]
    public void Mixed_devices_are_refused()
    {
        using Device other = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        using Scope foreign = other.BeginScope();
        Assert.Contains("want one device", Assert.Throws<ShapeException>(() => new Add().Apply(scope.Of([1], [1f]), foreign.Of([1], [1f]))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Equal_steps_get_equal_addresses()
    {
        nint First()
        {
            using Tape tape = device.BeginTape();
            return tape.New([1000, 1000], DType.F32).Data ^ tape.New([7], DType.F32).Data;
        }
        Assert.Equal(First(), First());
    }

    [Fact]
    public void A_write_past_a_tensor_is_found()
    {
        Scope scope = device.BeginScope();
        Tensor x = scope.New([3], DType.F32);
        device.Upload([1, 2, 3, 4], x.Data + (nint)x.Bytes);
        Assert.Throws<KernelException>(scope.Dispose);
    }

    [Fact]
    public void A_result_that_is_not_finite_names_its_op()
    {
        device.CheckFinite = true;
        using Scope scope = device.BeginScope();
        Assert.Contains("Mul", Assert.Throws<ShapeException>(() => new Mul().Apply(scope.Of([1], [1e300]), scope.Of([1], [1e300]))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Ids_and_labels_out_of_range_are_named()
    {
        using Scope scope = device.BeginScope();
        Tensor table = scope.NewZeros([3, 2], DType.F32), ids = scope.Of([1], [3]);
        Assert.Equal("Gather: ids is 3, want 0 .. 2", Assert.Throws<ShapeException>(() => new Gather().Apply(table, ids)).Message);
        Assert.Equal("LinearCrossEntropy: labels is 3, want 0 .. 2", Assert.Throws<ShapeException>(() => new LinearCrossEntropy().Apply(table.Slice(0, 1), table, ids)).Message);
        Assert.Equal("CrossEntropy: labels is 3, want 0 .. 1", Assert.Throws<ShapeException>(() => new CrossEntropy().Apply(table.Slice(0, 1), ids)).Message);
    }
}
