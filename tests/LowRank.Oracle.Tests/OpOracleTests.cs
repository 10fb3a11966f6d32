using LowRank.Testing;
using Xunit;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle.Tests;

/// <summary>Every op row against torch in float64 on the same rounded inputs: result and all gradients.</summary>
public class OpOracleTests
{
    public static TheoryData<int, DType, string> Rows()
    {
        var data = new TheoryData<int, DType, string>();
        for (int i = 0; i < OpRows.All.Count; i++)
        {
            if (OpOracle.All.ContainsKey(OpRows.All[i].Op.GetType()))
            {
                data.Add(i, DType.F64, OpRows.All[i].ToString());
                data.Add(i, DType.F32, OpRows.All[i].ToString());
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Rows))]
    public void Forward_and_gradients_match_torch(int index, DType type, string name)
    {
        Assert.SkipWhen(TorchRuntime.Missing is not null, TorchRuntime.Missing ?? "");
        OpRow row = OpRows.All[index];
        var run = new OpRun(row, type);
        using Device device = Devices.Open("cpu");
        (double[] y, double[]?[] gradients) = run.On(device, type);

        using var scope = Torch.NewDisposeScope();
        var operands = new Torch.Tensor?[row.Inputs.Length];
        for (int i = 0; i < operands.Length; i++)
        {
            Operand operand = row.Inputs[i];
            if (operand.Role != Role.None)
            {
                Torch.Tensor value = TorchTensors.Of(run.Values[i], operand.Shape, DType.F64).MoveToOuterDisposeScope();
                operands[i] = operand.Role == Role.Ids ? value.to(Torch.ScalarType.Int64) : value;
                operands[i]!.requires_grad = run.Differentiable.Contains(i);
            }
        }
        Torch.Tensor result = OpOracle.All[row.Op.GetType()](row.Op, operands);
        Close.Check(y, TorchTensors.Values(result), Close.Bound(type), $"{name} in {type}");
        result.backward([Torch.tensor(run.Upstream).view(result.shape)]);
        foreach (int i in run.Differentiable)
        {
            Close.Check(gradients[i], TorchTensors.Values(operands[i]!.grad!), Close.Bound(type), $"{name} in {type}, gradient of operand {i}");
        }
    }

    [Fact]
    public void Every_op_of_the_catalogue_has_a_counterpart_or_a_reason() =>
        Assert.Equal(
            OpCatalog.All.Select(op => op.GetType().Name).Order(StringComparer.Ordinal),
            OpOracle.All.Keys.Concat(OpOracle.Without.Keys).Select(t => t.Name).Order(StringComparer.Ordinal));
}
