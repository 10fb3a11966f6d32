using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>golden/galore: the official projector and AdamW, with its own factors fed in and with ours.</summary>
public sealed partial class GaLoreGoldenTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope store;

    public GaLoreGoldenTests() => store = device.NewStore();

    public static TheoryData<string> Cases => Golden.Cases("galore");

    public void Dispose()
    {
        store.Dispose();
        device.Dispose();
    }

    [Theory, MemberData(nameof(Cases))]
    public void Golden_galore(string name) => Golden.Run("galore", name, golden =>
    {
        JsonElement config = golden.Config;
        GoldenTolerance tolerance = golden.Tolerance;
        if (config.TryGetProperty("eight_bit", out _))
        {
            Coded(golden);
            return;
        }
        if (config.TryGetProperty("block", out _))
        {
            Maps(golden);
            return;
        }
        bool half = config.TryGetProperty("dtype", out JsonElement type) && type.GetString() == "bfloat16";
        Action<GoldenCase, DType, bool, double> run = config.TryGetProperty("decay_rate", out _) ? FactoredMoments : config.TryGetProperty("cases", out _) ? Projector : config.TryGetProperty("in", out _) ? Regression : Trajectory;
        run(golden, half ? DType.BF16 : DType.F64, true, tolerance.Rtol);
        if (!half)
        {
            run(golden, DType.F32, true, Close.Model);
            run(golden, DType.F64, false, Close.GaLoreFactors);
        }
    });

    /// <summary>With β₁ = 0 the first moment is g itself, and with a learning rate and an ε beyond all measure the step of W is -α·back(g).</summary>
    private void Projector(GoldenCase golden, DType type, bool stored, double bound)
    {
        const double beyond = 1e12;
        foreach (string id in golden.Config.GetProperty("cases").EnumerateArray().Select(c => c.GetString()!))
        {
            string[] words = id.Split('.');      // 12x8, r4, std
            string input = $"in.{words[0]}.{words[1]}.";
            Shape shape = golden.Shape(input + "G");
            var p = new Parameter("W", store.NewZeros(shape, type));
            using var optimizer = new GaLore([p])
            {
                Rank = int.Parse(words[1][1..], null),
                Scale = golden.Config.GetProperty("scale").GetDouble(),
                Side = SideOf(words[2]),
                Gap = 2,
                Beta1 = 0,
                Epsilon = beyond,
                Uncorrected = true,
                Factors = stored ? (_, _, _, scope) => Stored(golden, $"buffer.{id}.P", type, scope) : null,
                LearningRate = beyond,
            };
            foreach ((string gradient, string low) in new[] { ("G", "low"), ("G2", "low2") })
            {
                Take(optimizer, [(p, golden.Doubles(input + gradient))], type);
                Check(golden, $"out.{id}.{low}", optimizer.Pack.StateOf("exp_avg", p).ToDoubles(), bound);
                if (low == "low")
                {
                    Check(golden, $"out.{id}.back", [.. p.Value.ToDoubles().Select(v => -v)], bound);
                }
            }
        }
    }

    private void Trajectory(GoldenCase golden, DType type, bool stored, double bound)
    {
        JsonElement config = golden.Config;
        int matrices = config.TryGetProperty("shapes", out JsonElement shapes) ? shapes.GetArrayLength() : 1;
        Parameter[] parameters = [.. golden.Names("param.W").Select(name => new Parameter(name["param.".Length..], golden.Load(name, store, type)))];
        using GaLore optimizer = Make(golden, parameters, parameters[..matrices], type, stored);
        for (int k = 1; golden.Has($"in.step{k}.G0"); k++)
        {
            Take(optimizer, [.. parameters.Select((p, i) => (p, golden.Doubles($"in.step{k}.G{i}")))], type);
            foreach (Parameter p in parameters)
            {
                foreach ((string letter, Tensor value) in new[] { ("W", p.Value), ("M", optimizer.Pack.StateOf("exp_avg", p)), ("V", optimizer.Pack.StateOf("exp_avg_sq", p)) })
                {
                    if (golden.Has($"step{k}.{letter}{p.Name[1..]}"))
                    {
                        Check(golden, $"step{k}.{letter}{p.Name[1..]}", value.ToDoubles(), bound);
                    }
                }
            }
        }
        Assert.NotEqual(parameters[0].Value.ToDoubles(), golden.Doubles("param.W0"));
    }

    private void Regression(GoldenCase golden, DType type, bool stored, double bound)
    {
        var p = new Parameter("W0", golden.Load("param.W", store, type));
        using GaLore optimizer = Make(golden, [p], [p], type, stored);
        List<double> losses = [];
        for (int k = 0; k < golden.Config.GetProperty("steps").GetInt32(); k++)
        {
            using Tape tape = device.BeginTape();
            Tensor loss = new SquaredError(0.5).Apply(new Linear().Apply(golden.Load("in.x", tape, type), p), golden.Load("in.target", tape, type));
            losses.Add(loss.Item());
            tape.Backward(loss);
            optimizer.Step();
        }
        Check(golden, "out.loss", [.. losses], stored ? bound : Close.GaLoreLoss);
        if (stored)
        {
            Check(golden, $"step{losses.Count}.W", p.Value.ToDoubles(), bound);
        }
    }

    private static GaLore Make(GoldenCase golden, Parameter[] parameters, Parameter[] projected, DType type, bool stored)
    {
        JsonElement config = golden.Config;
        double Number(string name, double otherwise) => config.TryGetProperty(name, out JsonElement value) ? value.GetDouble() : otherwise;
        return new GaLore(parameters, projected)
        {
            Rank = config.GetProperty("rank").GetInt32(),
            Gap = config.GetProperty("update_proj_gap").GetInt32(),
            Scale = config.GetProperty("scale").GetDouble(),
            Side = SideOf(config.GetProperty("proj_type").GetString()!),
            Beta1 = config.GetProperty("betas")[0].GetDouble(),
            Beta2 = config.GetProperty("betas")[1].GetDouble(),
            Epsilon = config.GetProperty("eps").GetDouble(),
            Uncorrected = config.TryGetProperty("correct_bias", out JsonElement correct) && !correct.GetBoolean(),
            Factors = stored ? (p, _, step, scope) => Stored(golden, $"buffer.step{step}.P{p.Name[1..]}", type, scope) : null,
            LearningRate = config.GetProperty("lr").GetDouble(),
            WeightDecay = Number("weight_decay", 0),
        };
    }

    /// <summary>The stored vectors, whichever side they belong to.</summary>
    private static SvdFactors Stored(GoldenCase golden, string name, DType type, Scope scope)
    {
        Tensor Load(string side) => golden.Load(golden.Has(name + side) ? name + side : name, scope, type);
        return new SvdFactors(Load("_left"), scope.New([1], type), Load("_right"));
    }

    private static GaLoreSide SideOf(string name) => name switch
    {
        "std" => GaLoreSide.Standard,
        "reverse_std" => GaLoreSide.Reverse,
        "left" => GaLoreSide.Left,
        "right" => GaLoreSide.Right,
        _ => GaLoreSide.Both,
    };

    private static void Take(Optimizer optimizer, (Parameter P, double[] Gradient)[] gradients, DType type)
    {
        foreach ((Parameter p, double[] gradient) in gradients)
        {
            using Tape tape = p.Value.Device.BeginTape();
            Tensor upstream = tape.New(p.Value.Shape, type);
            upstream.Set(gradient);
            tape.Backward(new Add().Apply(p, tape.NewZeros(p.Value.Shape, type)), upstream);
        }
        optimizer.Step();
    }

    private static void Check(GoldenCase golden, string name, double[] got, double bound) => Close.CheckMax(got, golden.Doubles(name), bound, golden.Tolerance.Atol, $"{golden}: {name}");
}
