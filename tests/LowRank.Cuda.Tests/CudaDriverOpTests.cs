using LowRank.Testing;
using Xunit;

namespace LowRank.Cuda.Tests;

/// <summary>Every op row on <c>cuda:0</c>, whose memory the host cannot read: launches, copies and workspace go through the driver as on a real GPU.</summary>
public class CudaDriverOpTests
{
    public static TheoryData<int, DType, string> Rows()
    {
        var data = new TheoryData<int, DType, string>();
        for (int i = 0; i < OpRows.All.Count; i++)
        {
            foreach (DType type in OpRows.All[i].Types)
            {
                data.Add(i, type, OpRows.All[i].ToString());
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Rows))]
    public void Forward_and_gradients_have_the_bits_of_the_emulator(int row, DType type, string name)
    {
        using StandIn.Faults none = StandIn.With("");
        using Device device = Devices.Open("cuda:0"), reference = Devices.Open("emulated");
        var run = new OpRun(OpRows.All[row], type);
        (double[] y, double[]?[] gradients) = run.On(device, type);
        (double[] want, double[]?[] wantGradients) = run.On(reference, type);
        Assert.True(want.AsSpan().SequenceEqual(y), $"{name} in {type}: result");
        foreach (int i in run.Differentiable)
        {
            Assert.True(wantGradients[i].AsSpan().SequenceEqual(gradients[i]), $"{name} in {type}: gradient of operand {i}");
        }
        Assert.True(StandIn.Count("launch") > 0, "nothing was launched");
    }
}
