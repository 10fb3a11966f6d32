using LowRank.Testing;
using Xunit;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle.Tests;

/// <summary>Twenty steps of every optimiser against torch's own in float64.</summary>
public class OptimizerOracleTests
{
    private const int Count = 203, Steps = 20;
    private const double LearningRate = 1e-3;

    private sealed record Kind(Func<IReadOnlyList<Parameter>, Optimizer> Ours, Func<TorchSharp.Modules.Parameter[], Torch.optim.Optimizer> Theirs);

    private static readonly Dictionary<string, Kind> Kinds = new()
    {
        ["adamw"] = new(p => new AdamW(p) { WeightDecay = 0.1 }, p => Torch.optim.AdamW(p, LearningRate, weight_decay: 0.1)),
        ["adamw, other betas"] = new(p => new AdamW(p) { Beta1 = 0.8, Beta2 = 0.95, Epsilon = 1e-6 }, p => Torch.optim.AdamW(p, LearningRate, 0.8, 0.95, 1e-6, 0.01)),
        ["adam"] = new(p => new AdamW(p) { WeightDecay = 0.1, Coupled = true }, p => Torch.optim.Adam(p, LearningRate, weight_decay: 0.1)),
        ["sgd"] = new(p => new Sgd(p) { WeightDecay = 0.1 }, p => Torch.optim.SGD(p, LearningRate, weight_decay: 0.1)),
        ["momentum"] = new(p => new Sgd(p) { Momentum = 0.9, Dampening = 0.5 }, p => Torch.optim.SGD(p, LearningRate, 0.9, 0.5)),
        ["rmsprop"] = new(p => new RmsProp(p) { WeightDecay = 0.1 }, p => Torch.optim.RMSProp(p, LearningRate, weight_decay: 0.1)),
        ["rmsprop, centred"] = new(p => new RmsProp(p) { Alpha = 0.9, Momentum = 0.5, Centered = true }, p => Torch.optim.RMSProp(p, LearningRate, 0.9, momentum: 0.5, centered: true)),
        ["nesterov"] = new(p => new Sgd(p) { Momentum = 0.9, Nesterov = true, WeightDecay = 0.1 }, p => Torch.optim.SGD(p, LearningRate, 0.9, 0, 0.1, nesterov: true)),
    };

    public static TheoryData<string, DType> Rows()
    {
        var data = new TheoryData<string, DType>();
        foreach (string kind in Kinds.Keys)
        {
            data.Add(kind, DType.F64);
            data.Add(kind, DType.F32);
        }
        return data;
    }

    [Theory, MemberData(nameof(Rows))]
    public void Twenty_steps_match_torch(string name, DType type)
    {
        Assert.SkipWhen(TorchRuntime.Missing is not null, TorchRuntime.Missing ?? "");
        using Device device = Devices.Open("cpu");
        using Scope store = device.NewStore();
        var start = new float[Count];
        new Rng(3).FillUniform(start, -1, 1);
        var ours = new Parameter("p", store.Of([Count], start, type));
        using Optimizer optimizer = Kinds[name].Ours([ours]);
        optimizer.LearningRate = LearningRate;
        using var theirs = new TorchSharp.Modules.Parameter(TorchTensors.Of(start, [Count], DType.F64));
        using Torch.optim.Optimizer peer = Kinds[name].Theirs([theirs]);
        for (int i = 0; i < Steps; i++)
        {
            using (Tape tape = device.BeginTape())
            {
                tape.Backward(new SquaredError().Apply(ours, tape.NewZeros([Count], type)));
                optimizer.Step();
            }
            using var scope = Torch.NewDisposeScope();
            peer.zero_grad();
            F.mse_loss(theirs, Torch.zeros_like(theirs)).backward();
            peer.step();
        }
        Close.Check(ours.Value.ToDoubles(), TorchTensors.Values(theirs), Close.Bound(type), $"{name} in {type}");
    }
}
