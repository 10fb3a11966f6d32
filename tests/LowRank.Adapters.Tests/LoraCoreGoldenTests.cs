using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/lora-core on one layer: output, gradients, merged weight and optimiser steps; float64 to the case's tolerance, float32 to the engine's.</summary>
public class LoraCoreGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("lora-core");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_lora_core(string name) => Golden.Run("lora-core", name, Run, Missing(name));

    private static string? Missing(string name) => name.Split('_')[0] switch
    {
        "lora" or "rslora" or "dora" or "loraplus" or "pissa" or "olora" or "loftq" or "eva" or "vera" or "loha" or "lokr" => null,
        var method => $"method {method} is not built yet",
    };

    private static void Run(GoldenCase golden)
    {
        Run(golden, DType.F64);
        Run(golden, DType.F32);
    }

    private static void Run(GoldenCase golden, DType type)
    {
        using Device device = Devices.Open("cpu");
        Action<GoldenCase, Device, DType> test = golden.Name.Split('_')[0] switch
        {
            "loraplus" => Groups,
            "lokr" when golden.Has("out.pairs") => Pairs,
            "loftq" => StartGolden.Loftq,
            "eva" => golden.Has("in.x1") && golden.Has("in.a1.weight") ? StartGolden.Eva : StartGolden.Components,
            _ => Layer,
        };
        test(golden, device, type);
    }

    private static void Layer(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        using OneLayer model = Open(golden, device, type);
        using AdaptedModel adapted = model.Attach(Config(golden.Name.Split('_')[0], config));
        Adapter adapter = adapted.Adapters[0];
        if (golden.Has("out.BA"))
        {
            Check(golden, type, "buffer.W_res", model.Site.Weight.Value.ToDoubles());
            using Scope scope = device.BeginScope();
            Check(golden, type, "out.BA", new MatMul().Apply(adapter.Parameters[1], adapter.Parameters[0]).ToDoubles());
        }
        foreach (Parameter p in adapter.Parameters)
        {
            p.Value.Set(golden.Doubles("param." + adapter.Suffix(p)));
        }
        if (golden.Has("buffer.dropout_mask"))
        {
            ((Lora)adapter).DropoutMask = golden.Load("buffer.dropout_mask", model.Store, type);
        }
        Gradients(golden, model, adapter, type);
        if (adapter is Lora lora)
        {
            lora.DropoutMask = null;
        }
        Merged(golden, model, adapted, type);
        if (config.TryGetProperty("optimizer", out JsonElement optimizer))
        {
            Steps(golden, model, adapted, optimizer.GetString()!, type);
        }
    }

    private static void Gradients(GoldenCase golden, OneLayer model, Adapter adapter, DType type)
    {
        using Tape tape = model.Device.BeginTape();
        Tensor x = Input(golden, model, type);
        x.NeedsGradient = x.DType.IsFloat();
        Tensor y = model.Site.Forward(x);
        Check(golden, type, "out.y", y.ToDoubles());
        Check(golden, type, "out.y_base", model.Site.BaseForward(x).ToDoubles(), skip: adapter.ChangesBase);
        tape.Backward(y, golden.Load("in.gy", tape, type));
        foreach (Parameter p in adapter.Parameters)
        {
            Check(golden, type, "grad." + adapter.Suffix(p), p.Gradient!.ToDoubles());
            p.Value.Set(p.Value.ToDoubles());
        }
        if (golden.Has("grad.x"))
        {
            Check(golden, type, "grad.x", x.Gradient!.ToDoubles());
        }
    }

    private static void Merged(GoldenCase golden, OneLayer model, AdaptedModel adapted, DType type)
    {
        byte[] before = model.Site.Weight.Value.ToBytes();
        adapted.Merge();
        double[] merged = Stored(golden, model.Site.Weight.Value);
        Check(golden, type, "out.merged", merged);
        if (type == DType.F64)
        {
            double[] w = golden.Doubles(golden.Has("buffer.W_res") ? "buffer.W_res" : "in.W");
            Check(golden, type, "out.delta", [.. merged.Select((v, i) => v - w[i])]);
        }
        if (golden.Has("out.merged_bias"))
        {
            Check(golden, type, "out.merged_bias", model.Site.Bias!.Value.ToDoubles());
        }
        using (model.Device.BeginScope())
        {
            Check(golden, type, "out.y", model.Site.Forward(Input(golden, model, type)).ToDoubles(), skip: golden.Has("buffer.dropout_mask"));
        }
        adapted.Unmerge();
        Assert.Equal(before, model.Site.Weight.Value.ToBytes());
    }

    private static void Steps(GoldenCase golden, OneLayer model, AdaptedModel adapted, string kind, DType type)
    {
        JsonElement config = golden.Config;
        double rate = config.GetProperty("lr").GetDouble();
        using Optimizer optimizer = kind == "adamw"
            ? new AdamW(adapted.Parameters) { LearningRate = rate, WeightDecay = config.GetProperty("weight_decay").GetDouble() }
            : new Sgd(adapted.Parameters) { LearningRate = rate };
        optimizer.ClearGradients();
        int[] saved = [.. config.GetProperty("steps_saved").EnumerateArray().Select(e => e.GetInt32())];
        for (int k = 1; k <= saved[^1]; k++)
        {
            using (Tape tape = model.Device.BeginTape())
            {
                Tensor loss = new SquaredError(0.5).Apply(model.Site.Forward(Input(golden, model, type)), golden.Load("in.target", tape, type));
                if (saved.Contains(k))
                {
                    Check(golden, type, $"step{k}.loss", loss.ToDoubles(), trajectory: true);
                }
                tape.Backward(loss);
                adapted.Step(optimizer);
            }
            foreach (Parameter p in adapted.Parameters.Where(_ => saved.Contains(k)))
            {
                Check(golden, type, $"step{k}.{adapted.Adapters[0].Suffix(p)}", p.Value.ToDoubles(), trajectory: true);
            }
        }
    }

    private static void Groups(GoldenCase golden, Device device, DType type)
    {
        using Scope store = device.NewStore();
        Parameter[] parameters = [.. golden.Names("param.").Select(n => new Parameter(n["param.".Length..], golden.Load(n, store, type)))];
        double rate = golden.Config.GetProperty("lr").GetDouble();
        LoraPlus.Apply(parameters, rate, golden.Config.GetProperty("loraplus_lr_ratio").GetDouble());
        foreach (Parameter p in parameters)
        {
            JsonElement group = golden.Config.GetProperty("groups").GetProperty(p.Name);
            Assert.Equal(group.GetProperty("lr").GetDouble(), rate * p.LearningRateScale, Close.Bound(DType.F64));
            Assert.Equal(group.GetProperty("weight_decay").GetDouble(), p.WeightDecay);
        }
        using var optimizer = new AdamW(parameters) { LearningRate = rate };
        for (int k = 1; golden.Has($"step{k}.{parameters[0].Name}"); k++)
        {
            foreach (Parameter p in parameters)
            {
                using Tape tape = device.BeginTape();
                Tensor product = new Mul().Apply(p, golden.Load($"step{k}.grad.{p.Name}", tape, type));
                Tensor ones = tape.New(product.Shape, type);
                ones.Fill(1);
                tape.Backward(product, ones);
            }
            optimizer.Step();
            foreach (Parameter p in parameters)
            {
                Check(golden, type, $"step{k}.{p.Name}", p.Value.ToDoubles(), trajectory: true);
            }
        }
    }

    private static OneLayer Open(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        double[] w = golden.Doubles("in.W");
        Shape shape = golden.Shape("in.W");
        double[]? bias = golden.Has("in.bias") ? golden.Doubles("in.bias") : null;
        switch (config.GetProperty("kind").GetString())
        {
            case "embedding":
                return new OneLayer(device, type, SiteKind.Embedding, shape, w, bias);
            case "conv2d":
                return new OneLayer(device, type, SiteKind.Conv2d, shape, w, bias, new Convolution { Stride = config.TryGetProperty("stride", out JsonElement stride) ? stride.GetInt32() : 1, Padding = config.GetProperty("padding").GetInt32() });
            case "conv1d_gpt2":
                return new OneLayer(device, type, SiteKind.Linear, [shape[1], shape[0]], Turn(w, shape[0], shape[1]), bias);
            default:
                return new OneLayer(device, type, SiteKind.Linear, shape, w, bias, pack: true);
        }
    }

    /// <summary>How LoKr parts a number into two: exact.</summary>
    private static void Pairs(GoldenCase golden, Device device, DType type)
    {
        int[] factors = [.. golden.Config.GetProperty("factors").EnumerateArray().Select(e => e.GetInt32())];
        int most = golden.Shape("out.pairs")[0];
        golden.Check("out.pairs", [.. Enumerable.Range(1, most).SelectMany(n => factors.Select(f => LokrShape.Factors(n, f))).SelectMany(pair => (double[])[pair.Small, pair.Large])]);
    }

    private static AdapterConfig Config(string method, JsonElement config) => method switch
    {
        "vera" => new VeraConfig { Targets = ["layer"], Rank = config.GetProperty("r").GetInt32(), Key = config.GetProperty("projection_prng_key").GetInt64(), InitialD = config.GetProperty("d_initial").GetDouble() },
        "loha" => new LohaConfig { Targets = ["layer"], Rank = config.GetProperty("r").GetInt32(), Alpha = config.GetProperty("alpha").GetDouble() },
        "lokr" => new LokrConfig
        {
            Targets = ["layer"],
            Rank = config.GetProperty("r").GetInt32(),
            Alpha = config.GetProperty("alpha").GetDouble(),
            DecomposeBoth = Flag(config, "decompose_both"),
            DecomposeFactor = config.TryGetProperty("decompose_factor", out JsonElement factor) ? factor.GetInt32() : -1,
        },
        _ => OfLora(config),
    };

    private static LoraConfig OfLora(JsonElement config) => new()
    {
        Targets = ["layer"],
        Rank = config.GetProperty("r").GetInt32(),
        Alpha = config.GetProperty("lora_alpha").GetDouble(),
        RankStabilized = Flag(config, "use_rslora"),
        Dora = Flag(config, "use_dora"),
        LoraBias = Flag(config, "lora_bias"),
        Init = config.TryGetProperty("init_lora_weights", out JsonElement init) ? LoraInit.Of(init.GetString()!) : LoraInit.Default,
    };

    private static bool Flag(JsonElement config, string name) => config.TryGetProperty(name, out JsonElement value) && value.GetBoolean();

    private static Tensor Input(GoldenCase golden, OneLayer model, DType type) =>
        golden.Load("in.x", model.Device.Current!, model.Site.Kind == SiteKind.Embedding ? DType.I32 : type);

    private static double[] Stored(GoldenCase golden, Tensor w) => golden.Config.GetProperty("kind").GetString() == "conv1d_gpt2" ? Turn(w.ToDoubles(), w.Shape[0], w.Shape[1]) : w.ToDoubles();

    private static double[] Turn(double[] values, int rows, int cols) => [.. Enumerable.Range(0, rows * cols).Select(i => values[(i % rows * cols) + (i / rows)])];

    internal static void Check(GoldenCase golden, DType type, string name, double[] got, bool trajectory = false, bool skip = false)
    {
        if (skip)
        {
            return;
        }
        if (type == DType.F64)
        {
            golden.Check(name, got);
            return;
        }
        Close.Check(got, golden.Doubles(name), Math.Max(golden.Tolerance.Rtol, trajectory ? Close.Model : Close.Layer), $"{golden}: {name} in {type}");
    }
}
