using System.Text.Json;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/concrete: masks, gradients, whole trajectories and the baselines of the official codes, in float64.</summary>
public class ConcreteGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("concrete");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_concrete(string name) => Golden.Run("concrete", name, golden =>
    {
        using Device device = Devices.Open("cpu");
        Action<GoldenCase, Device> run =
            golden.Config.TryGetProperty("cases", out _) ? Masks
            : golden.Config.TryGetProperty("K", out _) ? Ties
            : golden.Config.TryGetProperty("dare", out _) ? Baselines
            : golden.Has("grad.lam") ? Gradients
            : golden.Has("step1.v.lam") || golden.Has("step1.v.X.fc1.bias") ? Trajectory
            : (_, _) => Assert.Skip("the case is of a kind that this test does not know");
        run(golden, device);
    });

    private static void Masks(GoldenCase golden, Device device)
    {
        DType type = golden.Config.GetProperty("dtype").GetString() == "float64" ? DType.F64 : DType.F32;
        int count = golden.Config.GetProperty("cases").GetArrayLength();
        for (int i = 0; i < count; i++)
        {
            double temperature = golden.Config.GetProperty("cases")[i][1].GetDouble();
            foreach (string tensor in golden.Names($"param.X.{i}.").Select(n => n.Split('.')[^1]))
            {
                using Tape tape = device.BeginTape();
                var x = new Parameter("x", tape.Of([golden.Doubles($"param.X.{i}.{tensor}").Length], golden.Doubles($"param.X.{i}.{tensor}"), type));
                Tensor[] mask = new ConcreteMask(temperature).ApplyAll(x, tape.Of(x.Value.Shape, golden.Doubles($"in.u.{i}.{tensor}"), type));
                tape.Backward(mask[0], tape.Of(x.Value.Shape, golden.Doubles($"in.gs.{i}.{tensor}"), type));
                double mean = mask[1].Item();
                golden.Check($"out.s.{i}.{tensor}", mask[0].ToDoubles());
                golden.Check($"out.m.{i}.{tensor}", [.. mask[0].ToDoubles().Select(s => s * mean)]);
                golden.Check($"grad.X.{i}.{tensor}", x.Gradient!.ToDoubles());
            }
        }
    }

    private static void Ties(GoldenCase golden, Device device)
    {
        double[] start = golden.Doubles("in.theta0"), taus = golden.Doubles("in.tau");
        double keep = golden.Config.GetProperty("K").GetDouble(), lambda = golden.Config.GetProperty("lam").GetDouble();
        // θ₀ = 0, so that θₜ - θ₀ is τₜ to the last bit: ties between magnitudes stay ties
        TensorSource zero = File("zero", ("w", [start.Length], new double[start.Length]));
        TensorSource[] experts = [.. taus.Chunk(start.Length).Select((tau, t) => File($"expert{t}", ("w", [start.Length], tau)))];
        foreach ((TiesFunction function, string name) in new[] { (TiesFunction.Sum, "sum"), (TiesFunction.Mean, "mean"), (TiesFunction.Max, "max") })
        {
            using MergedTensors merged = ModelMerge.Ties(zero, experts, new TiesOptions(keep, function, 1));
            double[] tau = merged.ReadDouble("w");
            golden.Check($"out.tau_{name}", tau);
            golden.Check($"out.merged_{name}", [.. start.Zip(tau, (s, v) => s + (lambda * v))]);
        }
    }

    private static void Baselines(GoldenCase golden, Device device)
    {
        (TensorSource start, TensorSource[] experts) = Models(golden);
        JsonElement ties = golden.Config.GetProperty("ties"), dare = golden.Config.GetProperty("dare");
        double Of(JsonElement group, string name) => group.GetProperty(name).GetDouble();
        Func<int, string, double[]> Draws(string kind) => (expert, tensor) => golden.Doubles($"in.u.{kind}.{expert}.{tensor}");
        var drop = new DareOptions(Of(dare, "p"), dare.GetProperty("rescale").GetBoolean(), Keep: Of(dare, "threshold"));
        foreach ((string name, Func<MergedTensors> merge) in new (string, Func<MergedTensors>)[]
        {
            ("average", () => ModelMerge.Average(experts)),
            ("task_arithmetic", () => ModelMerge.TaskArithmetic(start, experts, Of(golden.Config, "task_arithmetic_lam"))),
            ("ties", () => ModelMerge.Ties(start, experts, new TiesOptions(Of(ties, "threshold"), TiesFunction.Sum, Of(ties, "lam")))),
            ("dare_ta", () => ModelMerge.Dare(start, experts, drop with { Lambda = Of(dare, "lam_ta"), Draws = Draws("dare_ta") })),
            ("dare_ties", () => ModelMerge.Dare(start, experts, drop with { Then = DareThen.Ties, Lambda = Of(dare, "lam_ties"), Draws = Draws("dare_ties") })),
        })
        {
            Check(golden, $"out.{name}.", merge());
        }
    }

    private static void Gradients(GoldenCase golden, Device device)
    {
        (TensorSource start, TensorSource[] experts) = Models(golden);
        using var merge = new ConcreteMerge(device, start, experts, Options(golden) with { Adaptive = true });
        SetLambdas(merge, golden.Doubles("param.lam"), experts.Length);
        foreach ((string name, Parameter x) in merge.Logits)
        {
            x.Value.Set(golden.Doubles("param.X." + name));
        }
        merge.Draw();
        Check(golden, "out.merged.", merge.Merged());
        foreach (string name in merge.Logits.Keys)
        {
            golden.Check("out.s." + name, merge.Scaled(name));
        }
        golden.Check("out.loss", [merge.Descend(Network(golden, device), 0, lambdas: true, masks: true)]);
        golden.Check("grad.lam", Flat([.. merge.LambdaParameters.Select(l => l.Gradient!.ToDoubles())]));
        foreach ((string name, Parameter x) in merge.Logits)
        {
            golden.Check("grad.X." + name, x.Gradient!.ToDoubles());
        }
    }

    private static void Trajectory(GoldenCase golden, Device device)
    {
        (TensorSource start, TensorSource[] experts) = Models(golden);
        ConcreteOptions options = Options(golden);
        using var merge = new ConcreteMerge(device, start, experts, options);
        int seen = 0;
        void Moments(string step, string name, AdamW adam, Func<Func<Parameter, double[]>, double[]> read)
        {
            golden.Check($"{step}.{name}", read(p => p.Value.ToDoubles()));
            golden.Check($"{step}.m.{name}", read(p => adam.Pack.StateOf("exp_avg", p).ToDoubles()));
            golden.Check($"{step}.v.{name}", read(p => adam.Pack.StateOf("exp_avg_sq", p).ToDoubles()));
            seen++;
        }
        var progress = new Each(made =>
        {
            string step = $"{(made.Phase == "adaptation" && options.Masked ? "tta_step" : "step")}{made.Step + 1}";
            string loss = $"{step}.loss_{(made.Phase == "mask" ? "outer" : "inner")}";
            if (golden.Has(loss))
            {
                golden.Check(loss, [made.Loss]);
            }
            if (made.Phase == "mask")
            {
                foreach ((string name, Parameter x) in merge.Logits)
                {
                    Moments(step, "X." + name, merge.MaskAdam!, read => read(x));
                }
                return;
            }
            Moments(step, "lam", merge.LambdaAdam!, read => Flat([.. merge.LambdaParameters.Select(read)]));
        });
        merge.Fit(Network(golden, device), progress);
        Assert.True(seen >= 3);
        if (golden.Has("out.lam"))
        {
            golden.Check("out.lam", Flat(merge.LambdaParameters.Select(l => l.Value.ToDoubles()).ToArray()));
        }
        Check(golden, "out.merged.", merge.Merged());
    }

    private static ConcreteOptions Options(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        double Number(string name, double otherwise) => config.TryGetProperty(name, out JsonElement value) ? value.GetDouble() : otherwise;
        string merge = config.TryGetProperty("merge", out JsonElement kind) ? kind.GetString()! : "";
        bool masked = config.TryGetProperty("temperature", out _);
        int meta = (int)Number("meta_steps", 0), steps = (int)Number("steps", 0), adaptation = (int)Number("tta_steps", 0);
        return new ConcreteOptions
        {
            Masked = masked,
            Adaptive = merge.Length > 0,
            LayerWise = merge.StartsWith("layer-wise", StringComparison.Ordinal),
            Clamp = config.TryGetProperty("clamp_weights", out JsonElement clamp) && clamp.GetBoolean(),
            Lambda = Number("lam_init", Number("lam", 0.3)),
            Temperature = Number("temperature", 0.5),
            EntropyEpsilon = config.GetProperty("entropy_eps").GetDouble(),
            Steps = meta,
            MaskRate = Number("lr", 1e-3),
            InnerRate = Number("base_lr", 1),
            AdaptationSteps = masked ? adaptation : steps,
            AdaptationRate = Number(masked ? "adamerging_lr" : "lr", 1e-3),
            FreshMasks = golden.Has("step1.loss_outer") && golden.Has("in.u.5.fc1.bias"),
            Order = [.. config.GetProperty("keys").EnumerateArray().Select(k => k.GetString()!)],
            Type = DType.F64,
            Draws = (draw, tensor) => golden.Doubles($"in.u.{draw}.{tensor}"),
        };
    }

    /// <summary>fc1, tanh, fc2 and the task's head.</summary>
    private static TaskLogits Network(GoldenCase golden, Device device) => (weights, task, batch) =>
    {
        Scope tape = device.Current!;
        Tensor hidden = new Tanh().Apply(new Linear().Apply(golden.Load($"in.x.{batch}.{task}", tape, DType.F64), weights["fc1.weight"], weights["fc1.bias"]));
        return new Linear().Apply(new Linear().Apply(hidden, weights["fc2.weight"], weights["fc2.bias"]), golden.Load($"in.head.{task}", tape, DType.F64));
    };

    private static (TensorSource Start, TensorSource[] Experts) Models(GoldenCase golden)
    {
        TensorSource Of(string prefix) => File(prefix, [.. golden.Names(prefix).Select(n => (n[prefix.Length..], golden.Shape(n), golden.Doubles(n)))]);
        int count = golden.Config.GetProperty("T").GetInt32();
        return (Of("in.theta0."), [.. Enumerable.Range(0, count).Select(t => Of($"in.theta.{t}."))]);
    }

    internal static TensorSource File(string name, params (string Name, Shape Shape, double[] Values)[] tensors)
    {
        using var bytes = new MemoryStream();
        SafeTensorsFile.Write(bytes, tensors.Select(t => TensorData.Of(t.Name, t.Shape, t.Values)));
        return SafeTensorsFile.Read(bytes.ToArray(), name);
    }

    private static void SetLambdas(ConcreteMerge merge, double[] values, int tasks)
    {
        int columns = merge.LambdaParameters.Count;
        for (int k = 0; k < columns; k++)
        {
            merge.LambdaParameters[k].Value.Set([.. Enumerable.Range(0, tasks).Select(t => values[(t * columns) + k])]);
        }
    }

    /// <summary>Columns of tasks as rows.</summary>
    private static double[] Flat(double[][] columns) => [.. Enumerable.Range(0, columns[0].Length).SelectMany(t => columns.Select(c => c[t]))];

    private static void Check(GoldenCase golden, string prefix, MergedTensors merged)
    {
        using (merged)
        {
            Assert.NotEmpty(golden.Names(prefix));
            foreach (string name in golden.Names(prefix))
            {
                golden.Check(name, merged.ReadDouble(name[prefix.Length..]));
            }
        }
    }

    private sealed class Each(Action<ConcreteProgress> act) : IProgress<ConcreteProgress>
    {
        public void Report(ConcreteProgress value) => act(value);
    }
}
