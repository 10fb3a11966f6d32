using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>WaRA of golden/wara on one layer: output, gradients, merged weight, plain LoRA and optimiser steps; float64 to the case's tolerance, float32 to
/// the engine's.</summary>
public sealed class WaraGoldenTests : IDisposable
{
    private const string Prefix = "adapter_", A = ".lora_A.weight", B = ".lora_B.weight";
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string> Cases => Golden.Cases("wara", name => name.StartsWith(Prefix, StringComparison.Ordinal));

    public void Dispose() => folder.Dispose();

    [Theory, MemberData(nameof(Cases))]
    public void Golden_wara(string name) => Golden.Run("wara", name, golden =>
    {
        Run(golden, DType.F64);
        Run(golden, DType.F32);
    });

    private void Run(GoldenCase golden, DType type)
    {
        JsonElement config = golden.Config;
        using Device device = Devices.Open("cpu");
        using var model = new OneLayer(device, type, SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), golden.Doubles("in.bias"), pack: true);
        using AdaptedModel adapted = model.Attach(Config(config));
        Adapter adapter = adapted.Adapters[0];
        Assert.Equal(golden.Names("param.").Count, adapter.Parameters.Count);
        foreach (Parameter p in adapter.Parameters)
        {
            p.Value.Set(golden.Doubles("param." + NameOf(adapter, p)));
        }
        Gradients(golden, model, adapter, type);
        Merged(golden, model, adapted, type);
        Exported(golden, adapted, type);
        if (config.TryGetProperty("optimizer", out JsonElement optimizer))
        {
            Assert.Equal("adamw", optimizer.GetString());
            Steps(golden, model, adapted, type);
        }
    }

    private static void Gradients(GoldenCase golden, OneLayer model, Adapter adapter, DType type)
    {
        using Tape tape = model.Device.BeginTape();
        Tensor x = golden.Load("in.x", tape, type);
        x.NeedsGradient = true;
        Tensor y = model.Site.Forward(x);
        Check(golden, type, "out.y", y);
        tape.Backward(y, golden.Load("in.gy", tape, type));
        Check(golden, type, "grad.x", x.Gradient!);
        Assert.All(adapter.Parameters, p => Check(golden, type, "grad." + NameOf(adapter, p), p.Gradient!));
    }

    private static void Merged(GoldenCase golden, OneLayer model, AdaptedModel adapted, DType type)
    {
        byte[] before = model.Site.Weight.Value.ToBytes();
        adapted.Merge();
        Check(golden, type, "out.merged", model.Site.Weight.Value);
        if (type == DType.F64)
        {
            golden.Check("out.delta", [.. model.Site.Weight.Value.ToDoubles().Zip(golden.Doubles("in.W"), (merged, w) => merged - w)]);
        }
        adapted.Unmerge();
        Assert.Equal(before, model.Site.Weight.Value.ToBytes());
    }

    private void Exported(GoldenCase golden, AdaptedModel adapted, DType type)
    {
        adapted.SaveLora(folder.Path);
        using PeftFolder saved = PeftFolder.Open(folder.Path);
        var config = (LoraConfig)saved.Config;
        Assert.Equal(golden.Config.GetProperty("scaling").GetDouble(), config.Alpha / config.Rank, Close.Bound(DType.F64));
        if (golden.Has("out.export.lora_A"))
        {
            using Scope scope = adapted.Model.Device.BeginScope();
            string layer = saved.Tensors.Entries[0].Name[..^A.Length];
            Check(golden, type, "out.export.lora_A", saved.Tensors.Load(layer + A, scope));
            Check(golden, type, "out.export.lora_B", saved.Tensors.Load(layer + B, scope));
        }
    }

    private static void Steps(GoldenCase golden, OneLayer model, AdaptedModel adapted, DType type)
    {
        JsonElement config = golden.Config;
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = config.GetProperty("lr").GetDouble(), WeightDecay = config.GetProperty("weight_decay").GetDouble() };
        optimizer.ClearGradients();
        int[] saved = [.. config.GetProperty("steps_saved").EnumerateArray().Select(e => e.GetInt32())];
        for (int k = 1; k <= saved[^1]; k++)
        {
            using (Tape tape = model.Device.BeginTape())
            {
                Tensor loss = new SquaredError(0.5).Apply(model.Site.Forward(golden.Load("in.x", tape, type)), golden.Load("in.target", tape, type));
                if (saved.Contains(k))
                {
                    Check(golden, type, $"step{k}.loss", loss, Close.Model);
                }
                tape.Backward(loss);
                adapted.Step(optimizer);
            }
            Assert.All(adapted.Parameters.Where(_ => saved.Contains(k)), p => Check(golden, type, $"step{k}.{NameOf(adapted.Adapters[0], p)}", p.Value, Close.Model));
        }
    }

    private static WaraConfig Config(JsonElement config) => new()
    {
        Targets = ["layer"],
        Rank = config.GetProperty("r").GetInt32(),
        Alpha = config.GetProperty("alpha").GetDouble(),
        Mode = config.GetProperty("mode").GetString()!,
        Wavelet = config.GetProperty("wavelet").GetString(),
        Levels = config.GetProperty("J").GetInt32(),
        PhaseShift = config.GetProperty("phase_shift").GetInt32(),
        Ranks = config.TryGetProperty("ranks", out JsonElement ranks) ? ranks.EnumerateObject().ToDictionary(r => r.Name, r => r.Value.GetDouble()) : new Dictionary<string, double>(),
    };

    private static string NameOf(Adapter adapter, Parameter p) => adapter.Suffix(p)["wara_".Length..];

    private static void Check(GoldenCase golden, DType type, string name, Tensor got, double bound = Close.Layer)
    {
        if (type == DType.F64)
        {
            golden.Check(name, got.ToDoubles());
            return;
        }
        Close.Check(got.ToDoubles(), golden.Doubles(name), Math.Max(golden.Tolerance.Rtol, bound), $"{golden}: {name} in {type}");
    }
}
