using LowRank.Models;
using LowRank.Testing;
using Xunit;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle.Tests;

/// <summary>The whole vision transformer against torch in float64, on the weights of a small model of Hugging Face: logits, loss, the gradient of every
/// weight, and five steps of AdamW on all of them.</summary>
public sealed class VisionTransformerOracleTests : IDisposable
{
    private const int Steps = 5;
    private const double LearningRate = 1e-3;
    private static readonly int[] Labels = [0, 1, 1, 0];
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<string, DType> Rows() => new() { { "vit_1ch", DType.F64 }, { "vit_1ch", DType.F32 }, { "vit_3ch", DType.F64 }, { "vit_3ch", DType.F32 } };

    public void Dispose() => device.Dispose();

    [Theory, MemberData(nameof(Rows))]
    public void Logits_loss_and_gradients_match_torch(string name, DType type)
    {
        using VisionTransformer model = Load(name, type);
        using var scope = Torch.NewDisposeScope();
        IReadOnlyList<Parameter> trained = model.TrainAll();
        Dictionary<string, TorchSharp.Modules.Parameter> weights = Weights(model);
        using Tape tape = device.BeginTape();
        (Tensor logits, Tensor loss) = Forward(model, tape);
        (Torch.Tensor wantLogits, Torch.Tensor wantLoss) = Forward(model, weights);
        tape.Backward(loss);
        wantLoss.backward();
        double bound = type == DType.F64 ? Close.Golden64 : Close.Model;
        Close.Check(logits.ToDoubles(), TorchTensors.Values(wantLogits), bound, $"{name} in {type}: logits");
        Close.Check(loss.ToDoubles(), TorchTensors.Values(wantLoss), bound, $"{name} in {type}: loss");
        foreach (Parameter p in trained)
        {
            Close.CheckMax(p.Gradient!.ToDoubles(), TorchTensors.Values(weights[p.Name].grad!), bound, bound, $"{name} in {type}: gradient of {p.Name}");
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Five_steps_match_torch(string name, DType type)
    {
        using VisionTransformer model = Load(name, type);
        using var scope = Torch.NewDisposeScope();
        IReadOnlyList<Parameter> trained = model.TrainAll();
        Dictionary<string, TorchSharp.Modules.Parameter> weights = Weights(model);
        using var optimizer = new AdamW(trained) { LearningRate = LearningRate };
        using Torch.optim.Optimizer peer = Torch.optim.AdamW(weights.Values, LearningRate, weight_decay: optimizer.WeightDecay);
        double bound = type == DType.F64 ? Close.Golden64 : Close.Model;
        for (int i = 0; i < Steps; i++)
        {
            using Tape tape = device.BeginTape();
            Tensor loss = Forward(model, tape).Loss;
            tape.Backward(loss);
            optimizer.Step();
            peer.zero_grad();
            Torch.Tensor want = Forward(model, weights).Loss;
            want.backward();
            peer.step();
            Close.Check(loss.ToDoubles(), TorchTensors.Values(want), bound, $"{name} in {type}: loss of step {i + 1}");
        }
        // A key's bias moves no output: its gradient is rounding alone, which the optimiser scales up, more so in float32.
        foreach (Parameter p in trained.Where(p => !p.Name.EndsWith("key.bias", StringComparison.Ordinal)))
        {
            Close.Check(p.Value.ToDoubles(), TorchTensors.Values(weights[p.Name]), bound, $"{name} in {type}: {p.Name} after {Steps} steps");
        }
    }

    private static float[] Images(VisionTransformerConfig config)
    {
        var pixels = new float[Labels.Length * config.Channels * config.ImageSize * config.ImageSize];
        new Rng(4).FillUniform(pixels, -1, 1);
        return pixels;
    }

    private static Shape ImageShape(VisionTransformerConfig config) => [Labels.Length, config.Channels, config.ImageSize, config.ImageSize];

    private static Dictionary<string, TorchSharp.Modules.Parameter> Weights(VisionTransformer model) =>
        model.Parameters.ToDictionary(p => p.Key, p => new TorchSharp.Modules.Parameter(TorchTensors.Of(p.Value.Value.ToDoubles(), p.Value.Value.Shape, DType.F64)));

    private static (Tensor Logits, Tensor Loss) Forward(VisionTransformer model, Tape tape)
    {
        Tensor logits = model.Forward(tape.Of(ImageShape(model.Config), Images(model.Config), model.DType));
        return (logits, new CrossEntropy().Apply(logits, tape.Of([Labels.Length], Labels)));
    }

    private static (Torch.Tensor Logits, Torch.Tensor Loss) Forward(VisionTransformer model, Dictionary<string, TorchSharp.Modules.Parameter> weights)
    {
        var network = new TorchVisionTransformer(model.Config, weights.ToDictionary(w => w.Key, w => (Torch.Tensor)w.Value));
        Torch.Tensor logits = network.Forward(TorchTensors.Of(Images(model.Config), ImageShape(model.Config), DType.F64));
        return (logits, F.cross_entropy(logits, Torch.tensor(Labels).to(Torch.ScalarType.Int64)));
    }

    private VisionTransformer Load(string name, DType type)
    {
        Assert.SkipWhen(TorchRuntime.Missing is not null, TorchRuntime.Missing ?? "");
        return VisionTransformer.Load(Golden.Need($"models/{name}"), device, new LoadOptions { Type = type });
    }
}
