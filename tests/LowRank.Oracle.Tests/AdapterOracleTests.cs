using LowRank.Adapters;
using LowRank.Testing;
using Xunit;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle.Tests;

/// <summary>LoRA, rsLoRA and DoRA on linear, convolution and embedding layers against torch in float64: output, gradient of the input and of every parameter.</summary>
public class AdapterOracleTests
{
    public static TheoryData<int, DType, string> Rows()
    {
        var data = new TheoryData<int, DType, string>();
        for (int i = 0; i < AdapterRows.All.Count; i++)
        {
            if (AdapterRows.All[i].Config is LoraConfig)
            {
                data.Add(i, DType.F64, AdapterRows.All[i].ToString());
                data.Add(i, DType.F32, AdapterRows.All[i].ToString());
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Rows))]
    public void Layer_matches_torch(int index, DType type, string name)
    {
        Assert.SkipWhen(TorchRuntime.Missing is not null, TorchRuntime.Missing ?? "");
        AdapterRow row = AdapterRows.All[index];
        double bound = type == DType.F64 ? Close.Bound(type) : Close.Layer;
        using Device device = Devices.Open("cpu");
        using OneLayer model = row.Model(device, type);
        using AdaptedModel adapted = model.Attach(row.Config);
        foreach (Parameter p in adapted.Parameters)
        {
            double[] values = AdapterRow.Draw(new Rng(1).Fork(p.Name), p.Value.Shape.Count);
            p.Value.Set(p.Name.Contains("magnitude", StringComparison.Ordinal) ? [.. values.Select(v => 1 + (v / 2))] : values);
        }
        using Tape tape = device.BeginTape();
        Tensor x = row.Tensor(tape, type, row.Values());
        x.NeedsGradient = row.Kind != SiteKind.Embedding;
        Tensor y = model.Site.Forward(x);
        Tensor dy = tape.Of(y.Shape, AdapterRow.Draw(new Rng(2), y.Shape.Count), type);
        tape.Backward(y, dy);

        using var scope = Torch.NewDisposeScope();
        Torch.Tensor w = TorchTensors.Of(model.Site.Weight.Value.ToDoubles(), row.Weight, DType.F64);
        Torch.Tensor? bias = model.Site.Bias is { } b ? TorchTensors.Of(b.Value.ToDoubles(), b.Value.Shape, DType.F64) : null;
        Torch.Tensor input = TorchTensors.Of(row.Values(), row.Input, DType.F64);
        input = row.Kind == SiteKind.Embedding ? input.to(Torch.ScalarType.Int64) : input;
        input.requires_grad = x.NeedsGradient;
        var parameters = adapted.Parameters.ToDictionary(p => p.Name["layer.".Length..], p => TorchTensors.Of(p.Value.ToDoubles(), p.Value.Shape, DType.F64));
        foreach (Torch.Tensor p in parameters.Values)
        {
            p.requires_grad = true;
        }
        Torch.Tensor want = Layer(row, ((LoraConfig)row.Config).ScaleOf(model.Site), w, bias, parameters, input);
        Close.Check(y.ToDoubles(), TorchTensors.Values(want), bound, $"{name} in {type}");
        want.backward([TorchTensors.Of(dy.ToDoubles(), dy.Shape, DType.F64)]);
        if (x.NeedsGradient)
        {
            Close.Check(x.Gradient!.ToDoubles(), TorchTensors.Values(input.grad!), bound, $"{name} in {type}: dx");
        }
        foreach (Parameter p in adapted.Parameters)
        {
            Close.Check(p.Gradient!.ToDoubles(), TorchTensors.Values(parameters[p.Name["layer.".Length..]].grad!), bound, $"{name} in {type}: d{p.Name}");
        }
    }

    /// <summary>The layer with W_eff = diag(m/‖row‖)·(W + s·B·A), the length of a row a constant for gradients.</summary>
    private static Torch.Tensor Layer(AdapterRow row, double scale, Torch.Tensor w, Torch.Tensor? bias, Dictionary<string, Torch.Tensor> p, Torch.Tensor x)
    {
        bool lookup = row.Kind == SiteKind.Embedding;
        (Torch.Tensor a, Torch.Tensor b) = lookup ? (p["lora_embedding_A"], p["lora_embedding_B"]) : (p["lora_A.weight"].flatten(1), p["lora_B.weight"].flatten(1));
        Torch.Tensor product = b.mm(a) * scale;
        Torch.Tensor effective = w + (lookup ? product.t() : product.view(w.shape));
        if (p.TryGetValue("lora_magnitude_vector", out Torch.Tensor? m))
        {
            Torch.Tensor norm = lookup ? Torch.linalg.norm(effective.detach(), dims: [0]) : Torch.linalg.norm(effective.detach().flatten(1), dims: [1]);
            Torch.Tensor c = m.flatten() / norm;
            effective = effective * (lookup ? c : c.view([-1, .. Enumerable.Repeat(1L, w.shape.Length - 1)]));
        }
        if (p.TryGetValue("lora_B.bias", out Torch.Tensor? own))
        {
            bias = bias is null ? own * scale : bias + (own * scale);
        }
        Convolution g = row.Convolution;
        return row.Kind switch
        {
            SiteKind.Embedding => effective.index_select(0, x.flatten()).view([.. x.shape, effective.shape[1]]),
            SiteKind.Conv1d => F.conv1d(x, effective, bias, g.Stride.Width, g.Padding.Width, g.Dilation.Width),
            SiteKind.Conv2d => F.conv2d(x, effective, bias, [g.Stride.Height, g.Stride.Width], [g.Padding.Height, g.Padding.Width], [g.Dilation.Height, g.Dilation.Width]),
            SiteKind.Conv3d => F.conv3d(x, effective, bias, [g.Stride.Depth, g.Stride.Height, g.Stride.Width], [g.Padding.Depth, g.Padding.Height, g.Padding.Width], [g.Dilation.Depth, g.Dilation.Height, g.Dilation.Width]),
            _ => F.linear(x, effective, bias),
        };
    }
}
