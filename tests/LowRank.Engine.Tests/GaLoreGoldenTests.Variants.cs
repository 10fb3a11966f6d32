using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Of the same folder, the cases of Adafactor and of moments in 8 bits.</summary>
public sealed partial class GaLoreGoldenTests
{
    private static void FactoredMoments(GoldenCase golden, DType type, bool stored, double bound)
    {
        using Device cpu = Devices.Open("cpu");
        using Scope scope = cpu.NewStore();
        JsonElement config = golden.Config;
        int matrices = config.GetProperty("shapes").GetArrayLength();
        Parameter[] parameters = [.. golden.Names("param.W").Select(name => new Parameter(name["param.".Length..], golden.Load(name, scope, type)))];
        using var optimizer = new GaLoreAdafactor(parameters, parameters[..matrices])
        {
            Rank = config.GetProperty("rank").GetInt32(),
            Gap = config.GetProperty("update_proj_gap").GetInt32(),
            Scale = config.GetProperty("scale").GetDouble(),
            Side = SideOf(config.GetProperty("proj_type").GetString()!),
            Factors = stored ? (p, _, step, s) => Stored(golden, $"buffer.step{step}.P{p.Name[1..]}", type, s) : null,
            Beta1 = config.GetProperty("beta1") is { ValueKind: JsonValueKind.Number } beta ? beta.GetDouble() : null,
            MomentDecay = -config.GetProperty("decay_rate").GetDouble(),
            Threshold = config.GetProperty("clip_threshold").GetDouble(),
            Epsilon = config.GetProperty("eps")[0].GetDouble(),
            LeastSize = config.GetProperty("eps")[1].GetDouble(),
            Relative = config.GetProperty("relative_step").GetBoolean(),
            Warmup = config.GetProperty("warmup_init").GetBoolean(),
            FollowsSize = config.GetProperty("scale_parameter").GetBoolean(),
            WeightDecay = config.GetProperty("weight_decay").GetDouble(),
        };
        optimizer.LearningRate = config.GetProperty("lr") is { ValueKind: JsonValueKind.Number } rate ? rate.GetDouble() : optimizer.LearningRate;
        for (int k = 1; golden.Has($"in.step{k}.G0"); k++)
        {
            Take(optimizer, [.. parameters.Select((p, i) => (p, golden.Doubles($"in.step{k}.G{i}")))], type);
            foreach (Parameter p in parameters)
            {
                bool vector = p.Value.Shape.Rank < 2;
                foreach ((string letter, Func<Tensor> value) in new (string, Func<Tensor>)[]
                {
                    ("W", () => p.Value),
                    ("M", () => optimizer.Pack.StateOf("exp_avg", p)),
                    ("R", () => optimizer.Pack.StateOf("row_var", p)),
                    (vector ? "V" : "C", () => optimizer.Pack.StateOf("col_var", p)),
                })
                {
                    if (golden.Has($"step{k}.{letter}{p.Name[1..]}"))
                    {
                        Check(golden, $"step{k}.{letter}{p.Name[1..]}", value().ToDoubles(), bound);
                    }
                }
            }
        }
        Assert.NotEqual(parameters[0].Value.ToDoubles(), golden.Doubles("param.W0"));
    }

    /// <summary>On every device, and with the float64 reference.</summary>
    private static void Coded(GoldenCase golden)
    {
        Array.ForEach([.. Devices.Present], name => Coded(golden, name, DType.F32));
        Coded(golden, "cpu", DType.F64);
    }

    private static void Coded(GoldenCase golden, string deviceName, DType type)
    {
        using Device on = Devices.Open(deviceName);
        using Scope scope = on.NewStore();
        JsonElement config = golden.Config;
        var p = new Parameter("W0", golden.Load("param.W0", scope, type));
        using var optimizer = new GaLore8Bit([p])
        {
            Rank = config.GetProperty("rank").GetInt32(),
            Gap = config.GetProperty("update_proj_gap").GetInt32(),
            Scale = config.GetProperty("scale").GetDouble(),
            Side = SideOf(config.GetProperty("proj_type").GetString()!),
            Factors = (_, _, step, s) => Stored(golden, $"buffer.step{step}.P0", type, s),
            Beta1 = config.GetProperty("betas")[0].GetDouble(),
            Beta2 = config.GetProperty("betas")[1].GetDouble(),
            Epsilon = config.GetProperty("eps").GetDouble(),
            LearningRate = config.GetProperty("lr").GetDouble(),
            WeightDecay = config.GetProperty("weight_decay").GetDouble(),
        };
        for (int k = 1; golden.Has($"in.step{k}.G0"); k++)
        {
            Take(optimizer, [(p, golden.Doubles($"in.step{k}.G0"))], type);
            if (!golden.Has($"step{k}.W0"))
            {
                continue;
            }
            golden.Check($"step{k}.W0", p.Value.ToDoubles());
            foreach ((string letter, string digit, string state) in new[] { ("M", "1", "exp_avg"), ("V", "2", "exp_avg_sq") })
            {
                if (config.GetProperty("eight_bit").GetBoolean())
                {
                    golden.Check($"step{k}.absmax{digit}", optimizer.Pack.StateOf(state + "_max", p).ToDoubles());
                    Close.CheckCodes(optimizer.Pack.StateOf(state + "_codes", p).ToDoubles(), golden.Doubles($"step{k}.{letter}0"), $"{golden}: step{k}.{letter}0 on {on.Name}");
                }
                else
                {
                    golden.Check($"step{k}.{letter}0", optimizer.Pack.StateOf(state, p).ToDoubles());
                }
            }
        }
        Assert.True(optimizer.Steps > 1);
    }

    /// <summary>The maps, and the codes and values of numbers block by block.</summary>
    private static void Maps(GoldenCase golden)
    {
        float[] x = golden.Floats("in.x");
        int block = golden.Config.GetProperty("block").GetInt32();
        foreach ((string name, Codebook book, float[] values) in new[] { ("signed", Codebook.Signed8, x), ("unsigned", Codebook.Unsigned8, Array.ConvertAll(x, Math.Abs)) })
        {
            golden.Check($"out.map_{name}", [.. book.Values.Select(v => (double)v)]);
            (byte[] codes, float[] most) = Blocks.Quantize(values, block, book);
            Assert.Equal(golden.Ints($"out.{name}.codes"), codes.Select(c => (int)c));
            golden.Check($"out.{name}.absmax", [.. most.Select(v => (double)v)]);
            golden.Check($"out.{name}.dequantised", [.. codes.Select((c, i) => (double)(book.Values[c] * most[i / block]))]);
        }
    }
}
