using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The contract of every op, over the table of rows and every device present.</summary>
public class OpTests
{
    // The float64 references are the same on every device.
    public static TheoryData<int, string> Rows()
    {
        var data = new TheoryData<int, string>();
        for (int i = 0; i < OpRows.All.Count; i++)
        {
            if (!OpRows.All[i].IsDetached)
            {
                data.Add(i, OpRows.All[i].ToString());
            }
        }
        return data;
    }

    public static TheoryData<string, int, DType, string> TypedRows() => Typed(Devices.Present);

    public static TheoryData<string, int, DType, string> TypedRowsOnTheCpu() => Typed(["cpu"]);

    private static TheoryData<string, int, DType, string> Typed(IReadOnlyList<string> devices)
    {
        var data = new TheoryData<string, int, DType, string>();
        foreach (string device in devices)
        {
            for (int i = 0; i < OpRows.All.Count; i++)
            {
                foreach (DType type in OpRows.All[i].TypesOn(device))
                {
                    data.Add(device, i, type, OpRows.All[i].ToString());
                }
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(TypedRows))]
    public void Kernels_match_the_float64_reference_and_a_second_backward_pass_adds(string deviceName, int row, DType type, string name)
    {
        using Device device = Devices.Open(deviceName), reference = Devices.Open("cpu");
        var run = new OpRun(OpRows.All[row], type);
        (double[] want, double[]?[] wantGradients) = run.On(reference, DType.F64);
        for (int times = 1; times <= 2; times++)
        {
            (double[] y, double[]?[] gradients) = run.On(device, type, times);
            Assert.True(device.Fallbacks.Count == 0, $"{name} in {type} fell back to the reference: {string.Join(", ", device.Fallbacks.Keys)}");
            Close.Check(y, want, OpRows.All[row].Bound(type), $"{name} on {deviceName} in {type}");
            foreach (int i in run.Differentiable)
            {
                Close.Check(gradients[i], [.. wantGradients[i]!.Select(g => times * g)], OpRows.All[row].Bound(type), $"{name} on {deviceName} in {type}, gradient of operand {i} after {times} passes");
            }
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Gradient_matches_a_central_difference(int row, string name)
    {
        using Device device = Devices.Open("cpu");
        double step = OpRows.All[row].Step;
        var run = new OpRun(OpRows.All[row], DType.F64);
        double[]?[] gradients = run.On(device, DType.F64).Gradients;
        foreach (int i in run.Differentiable)
        {
            double[] v = run.Direction(i);
            double want = (run.Loss(device, i, v, step) - run.Loss(device, i, v, -step)) / (2 * step);
            double got = gradients[i]!.Zip(v, (g, d) => g * d).Sum();
            double scale = Math.Sqrt(gradients[i]!.Sum(g => g * g) * v.Sum(d => d * d));
            Assert.True(Math.Abs(got - want) <= Close.Difference * Math.Max(scale, Close.Step), $"{name}, operand {i}: {got:R}, central difference {want:R}");
        }
    }

    [Theory, MemberData(nameof(TypedRowsOnTheCpu))]
    public void Bits_do_not_depend_on_the_number_of_threads(string deviceName, int row, DType type, string name)
    {
        using Device device = Devices.Open(deviceName);
        var run = new OpRun(OpRows.All[row], type);
        int threads = CpuDevice.Threads;
        try
        {
            CpuDevice.Threads = 1;
            (double[] y, double[]?[] gradients) = run.On(device, type);
            foreach (int count in (ReadOnlySpan<int>)[2, 3])
            {
                CpuDevice.Threads = count;
                (double[] y2, double[]?[] gradients2) = run.On(device, type);
                Assert.True(y.AsSpan().SequenceEqual(y2), $"{name} in {type}: result differs between 1 and {count} threads");
                foreach (int i in run.Differentiable)
                {
                    Assert.True(gradients[i].AsSpan().SequenceEqual(gradients2[i]), $"{name} in {type}: gradient {i} differs between 1 and {count} threads");
                }
            }
        }
        finally
        {
            CpuDevice.Threads = threads;
        }
    }

    [Fact]
    public void Every_op_of_the_catalogue_has_a_row()
    {
        var rows = OpRows.All.Select(r => r.Op.GetType()).ToHashSet();
        Assert.All(OpCatalog.All, op => Assert.Contains(op.GetType(), rows));
        Type[] ops = [.. typeof(Op).Assembly.GetTypes().Where(t => t.IsSubclassOf(typeof(Op)) && !t.IsAbstract)];
        Assert.Equal(ops.Length, OpCatalog.All.Count);
    }
}
