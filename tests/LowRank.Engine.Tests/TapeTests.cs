using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

public sealed class TapeTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

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
        Assert.Equal("CrossEntropy: labels is 3, want 0 .. 1", Assert.Throws<ShapeException>(() => new CrossEntropy().Apply(table.Slice(0, 1), ids)).Message);
    }
}
