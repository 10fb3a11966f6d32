using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/snell on one layer: distances, threshold, delta, output and gradients, and steps of AdamW; float64 to the case's tolerance.</summary>
public sealed class SnellGoldenTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu", DType.F64);

    public static TheoryData<string> Cases => Golden.Cases("snell");

    public void Dispose() => device.Dispose();

    [Theory, MemberData(nameof(Cases))]
    public void Golden_snell(string name) => Golden.Run("snell", name, golden =>
    {
        SnellConfig config = Config(golden);
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), golden.Has("in.bias") ? golden.Doubles("in.bias") : null);
        using AdaptedModel adapted = model.Attach(config);
        (Parameter p, Parameter q) = (adapted.Parameters[0], adapted.Parameters[1]);
        Assert.Equal(golden.Shape("param.P"), p.Value.Shape);
        Assert.Equal(golden.Shape("param.Q"), q.Value.Shape);
        p.Value.Set(golden.Doubles("param.P"));
        q.Value.Set(golden.Doubles("param.Q"));
        if (golden.Has("in.target"))
        {
            Steps(golden, model, adapted);
            return;
        }
        using (Scope scope = device.BeginScope())
        {
            Tensor none = scope.NewZeros(golden.Shape("in.W"), DType.F64);
            golden.Check("out.D", new Transpose().Apply(new SnellWeight(config.Rule with { Mode = SnellMode.Distances }).Apply(none, p, q)).ToDoubles());
            Tensor[] delta = new SnellWeight(config.Rule).ApplyAll(none, p, q);
            golden.Check("out.delta", delta[0].ToDoubles());
            golden.Check("out.S", new Transpose().Apply(delta[0]).ToDoubles());
            if (golden.Has("out.tau"))
            {
                golden.Check("out.tau", delta[1].ToDoubles());
            }
        }
        using Tape tape = device.BeginTape();
        Tensor x = golden.Load("in.x", tape, DType.F64);
        x.NeedsGradient = true;
        Tensor y = model.Site.Forward(x);
        golden.Check("out.y", y.ToDoubles());
        tape.Backward(y, golden.Load("in.gy", tape, DType.F64));
        golden.Check("grad.x", x.Gradient!.ToDoubles());
        golden.Check("grad.P", p.Gradient!.ToDoubles());
        golden.Check("grad.Q", q.Gradient!.ToDoubles());
    });

    private void Steps(GoldenCase golden, OneLayer model, AdaptedModel adapted)
    {
        JsonElement config = golden.Config;
        using var optimizer = new AdamW(adapted.Parameters)
        {
            LearningRate = config.GetProperty("lr").GetDouble(),
            WeightDecay = config.GetProperty("weight_decay").GetDouble(),
            Beta1 = config.GetProperty("betas")[0].GetDouble(),
            Beta2 = config.GetProperty("betas")[1].GetDouble(),
            Epsilon = config.GetProperty("eps").GetDouble(),
        };
        for (int k = 1; k <= config.GetProperty("steps").GetInt32(); k++)
        {
            using (Tape tape = device.BeginTape())
            {
                Tensor loss = new SquaredError().Apply(model.Site.Forward(golden.Load("in.x", tape, DType.F64)), golden.Load("in.target", tape, DType.F64));
                golden.Check($"step{k}.loss", loss.ToDoubles());
                tape.Backward(loss);
                adapted.Step(optimizer);
            }
            golden.Check($"step{k}.P", adapted.Parameters[0].Value.ToDoubles());
            golden.Check($"step{k}.Q", adapted.Parameters[1].Value.ToDoubles());
            using Scope scope = device.BeginScope();
            golden.Check($"step{k}.delta", adapted.Adapters[0].SparseDelta()!.ToDoubles());
        }
    }

    /// <summary>The case's settings, through the file's words as a user would write them.</summary>
    private static SnellConfig Config(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        string module = config.TryGetProperty("module", out JsonElement value) ? value.GetString()! : "SNELL";
        Assert.Equal(0.1, config.GetProperty("s").GetDouble());
        string text = $$"""
            {
              "peft_type": "SNELL", "target_modules": ["layer"], "r": {{config.GetProperty("rank").GetRawText()}}, "sparsity": {{config.GetProperty("sparsity").GetRawText()}},
              "mode": "{{config.GetProperty("mode").GetString()}}", "norm_p": {{config.GetProperty("p").GetRawText()}}, "threshold_at_zero": {{(module == "SNELL" ? "true" : "false")}}
            }
            """;
        return (SnellConfig)AdapterCatalog.Read(System.Text.Encoding.UTF8.GetBytes(text));
    }
}
