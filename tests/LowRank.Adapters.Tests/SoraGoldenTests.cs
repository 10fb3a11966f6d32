using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/sora: the layer and its gradients, the optimiser of the gates, both optimisers in one run, ladders of thresholds; float64 to the case's
/// tolerance.</summary>
public sealed class SoraGoldenTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu", DType.F64);

    public static TheoryData<string> Cases => Golden.Cases("sora");

    public void Dispose() => device.Dispose();

    [Theory, MemberData(nameof(Cases))]
    public void Golden_sora(string name) => Golden.Run("sora", name, golden =>
    {
        Action<GoldenCase> run = golden.Has("out.lambdas") ? Ladder : golden.Has("in.grads") ? Gates : golden.Has("in.m0.W") ? Joint : Layer;
        run(golden);
    });

    private void Layer(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), golden.Has("in.bias") ? golden.Doubles("in.bias") : null);
        using AdaptedModel adapted = model.Attach(new SoraConfig
        {
            Targets = ["layer"],
            Rank = config.GetProperty("r").GetInt32(),
            Alpha = config.GetProperty("alpha").GetDouble(),
            Dropout = config.GetProperty("dropout").GetDouble(),
        });
        Set(adapted, golden, "param.");
        Sora adapter = (Sora)adapted.Adapters[0];
        Assert.Equal(config.GetProperty("scale").GetDouble(), adapter.Scale, Close.Bound(DType.F64));
        using (Tape tape = device.BeginTape())
        {
            Tensor x = golden.Load("in.x", tape, DType.F64);
            x.NeedsGradient = true;
            Tensor y = model.Site.Forward(x);
            golden.Check("out.y", y.ToDoubles());
            tape.Backward(y, golden.Load("in.gy", tape, DType.F64));
            golden.Check("grad.x", x.Gradient!.ToDoubles());
            foreach ((string letter, Parameter p) in Letters(adapted))
            {
                golden.Check("grad." + letter, p.Gradient!.ToDoubles());
            }
            for (int i = 0; i < adapter.Gate.Value.Shape[1]; i++)
            {
                if (adapter.Gates()[i] == 0)
                {
                    (double[] da, double[] db) = (adapted.Parameters[0].Gradient!.ToDoubles(), adapted.Parameters[1].Gradient!.ToDoubles());
                    Assert.All(da[(i * model.Site.Inputs)..((i + 1) * model.Site.Inputs)], v => Assert.Equal(0, v));
                    Assert.All(Enumerable.Range(0, model.Site.Outputs), row => Assert.Equal(0, db[(row * adapter.Gate.Value.Shape[1]) + i]));
                    Assert.NotEqual(0, adapter.Gate.Gradient!.ToDoubles()[i]);
                }
            }
        }
        double[] w = golden.Doubles("in.W");
        adapted.Merge();
        golden.Check("out.merged", model.Site.Weight.Value.ToDoubles());
        golden.Check("out.delta", [.. model.Site.Weight.Value.ToDoubles().Zip(w, (a, b) => a - b)]);
        adapted.Unmerge();
        Assert.Equal(w, model.Site.Weight.Value.ToDoubles());
        if (golden.Has("out.pruned_A"))
        {
            (double[] a, double[] b, int kept) = adapter.Pruned();
            Assert.Equal(golden.Shape("out.pruned_A")[0], kept);
            golden.Check("out.pruned_A", a);
            golden.Check("out.pruned_B", b);
        }
    }

    /// <summary>Gates alone, on given gradients: moments and values after every step, at the given rate or that of the settings.</summary>
    private void Gates(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        using Scope store = device.NewStore();
        var gate = new Parameter("g", golden.Load("param.g", store, DType.F64));
        double[] gradients = golden.Doubles("in.grads"), rates = golden.Doubles("in.lr"), want = golden.Doubles("out.gates");
        int count = (int)gate.Value.Shape.Count, steps = config.GetProperty("steps").GetInt32();
        using GatedAdamW optimizer = Optimizer([gate], [gate], config, config.GetProperty("eps").GetDouble(), step => rates[step]);
        for (int k = 0; k < steps; k++)
        {
            Take(gate, gradients[(k * count)..((k + 1) * count)]);
            optimizer.Step();
            golden.Check("out.gates", gate.Value.ToDoubles(), want.AsSpan(k * count, count));
        }
        golden.Check($"step{steps}.g", gate.Value.ToDoubles());
        golden.Check($"step{steps}.m", optimizer.Pack.StateOf("exp_avg", gate).ToDoubles());
        golden.Check($"step{steps}.v", optimizer.Pack.StateOf("exp_avg_sq", gate).ToDoubles());
    }

    /// <summary>Two modules, one optimiser, one clip, and the penalty over the gates of both.</summary>
    private void Joint(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        int[] ranks = [.. config.GetProperty("ranks").EnumerateArray().Select(r => r.GetInt32())];
        var models = new List<OneLayer>();
        var sets = new List<AdaptedModel>();
        var packs = new List<Sgd>();      // what forgets the gradients of each set
        try
        {
            for (int m = 0; m < ranks.Length; m++)
            {
                models.Add(new OneLayer(device, DType.F64, SiteKind.Linear, golden.Shape($"in.m{m}.W"), golden.Doubles($"in.m{m}.W")));
                // A model of its own divides by its own gates; the case counts those of all modules.
                sets.Add(models[m].Attach(new SoraConfig
                {
                    Targets = ["layer"],
                    Rank = ranks[m],
                    Alpha = config.GetProperty("alpha").GetDouble(),
                    Lambda1 = config.GetProperty("lambda1").GetDouble() * ranks[m] / ranks.Sum(),
                }));
                Set(sets[m], golden, $"param.m{m}.");
                packs.Add(new Sgd(sets[m].Parameters));
            }
            Run(golden, config, models, sets, packs);
        }
        finally
        {
            packs.ForEach(p => p.Dispose());
            sets.ForEach(s => s.Dispose());
            models.ForEach(m => m.Dispose());
        }
    }

    private void Run(GoldenCase golden, JsonElement config, List<OneLayer> models, List<AdaptedModel> sets, List<Sgd> packs)
    {
        using Scope store = device.NewStore();
        // Names of a pack differ; these stand for the adapters' own in it.
        Dictionary<Parameter, Parameter> named = [];
        List<Parameter> all = [], gates = [];
        for (int m = 0; m < sets.Count; m++)
        {
            foreach ((string letter, Parameter p) in Letters(sets[m]))
            {
                named.Add(p, new Parameter($"m{m}.{letter}", p.Value.CopyTo(store)));
                all.Add(named[p]);
                gates.AddRange(letter == "g" ? [named[p]] : []);
            }
        }
        double[] rates = golden.Doubles("in.lr"), gateRates = golden.Doubles("in.lr_gate"), losses = golden.Doubles("out.loss"), norms = golden.Doubles("out.gradnorm"), path = golden.Doubles("out.gates");
        using GatedAdamW optimizer = Optimizer(all, gates, config, config.GetProperty("eps_gate").GetDouble(), step => gateRates[step]);
        optimizer.WeightDecay = config.GetProperty("weight_decay").GetDouble();
        optimizer.MaxGradientNorm = config.GetProperty("max_grad_norm").GetDouble();
        for (int k = 0; k < rates.Length; k++)
        {
            double total = 0;
            for (int m = 0; m < sets.Count; m++)
            {
                foreach ((_, Parameter p) in Letters(sets[m]))
                {
                    p.Value.Set(named[p].Value.ToDoubles());
                }
                packs[m].ClearGradients();
                using Tape tape = device.BeginTape();
                Tensor loss = new SquaredError().Apply(models[m].Site.Forward(golden.Load($"in.m{m}.x", tape, DType.F64)), golden.Load($"in.m{m}.target", tape, DType.F64));
                loss = new Add().Apply(loss, sets[m].Penalty()!);
                total += loss.Item();
                tape.Backward(loss);
                foreach ((string letter, Parameter p) in Letters(sets[m]))
                {
                    Take(named[p], p.Gradient!.ToDoubles());
                    if (k == 0 && letter == "g")
                    {
                        golden.Check($"grad.m{m}.g", p.Gradient!.ToDoubles());
                    }
                }
            }
            optimizer.LearningRate = rates[k];
            optimizer.Step();
            golden.Check("out.loss", [total], losses.AsSpan(k, 1));
            golden.Check("out.gradnorm", [optimizer.GradientNorm], norms.AsSpan(k, 1));
            double[] now = [.. gates.SelectMany(g => g.Value.ToDoubles())];
            golden.Check("out.gates", now, path.AsSpan(k * now.Length, now.Length));
            foreach (Parameter p in all.Where(p => golden.Has($"step{k + 1}.{p.Name}")))
            {
                golden.Check($"step{k + 1}.{p.Name}", p.Value.ToDoubles());
            }
        }
    }

    private static void Ladder(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        LadderKind kind = config.GetProperty("lambda_schedule").GetString() switch { "linear" => LadderKind.Linear, "log_linear" => LadderKind.LogLinear, _ => LadderKind.ExpLinear };
        var ladder = new SparsityLadder(kind, config.GetProperty("lambda2").GetDouble(), config.GetProperty("max_lambda").GetDouble(), config.GetProperty("lambda_num").GetInt32());
        golden.Check("out.lambdas", [.. ladder.Thresholds]);
        golden.Check("out.used", [.. Enumerable.Range(0, (int)golden.Shape("out.used").Count).Select(ladder.At)]);
    }

    private static GatedAdamW Optimizer(IReadOnlyList<Parameter> all, IReadOnlyList<Parameter> gates, JsonElement config, double epsilon, Func<long, double> rate) => new(all, gates)
    {
        Beta1 = config.GetProperty("betas")[0].GetDouble(),
        Beta2 = config.GetProperty("betas")[1].GetDouble(),
        Epsilon = config.TryGetProperty("eps_main", out JsonElement main) ? main.GetDouble() : 1e-8,
        GateEpsilon = epsilon,
        GateRate = rate,
        Threshold = config.GetProperty("lambda2").GetDouble(),
        Proximal = config.GetProperty("mode").GetString() != "official",
    };

    private void Take(Parameter p, double[] gradient)
    {
        using Tape tape = device.BeginTape();
        tape.Backward(new Add().Apply(p, tape.NewZeros(p.Value.Shape, DType.F64)), tape.Of(p.Value.Shape, gradient));
    }

    private static (string Letter, Parameter Parameter)[] Letters(AdaptedModel adapted) => [("A", adapted.Parameters[0]), ("B", adapted.Parameters[1]), ("g", adapted.Parameters[2])];

    private static void Set(AdaptedModel adapted, GoldenCase golden, string prefix)
    {
        foreach ((string letter, Parameter p) in Letters(adapted))
        {
            Assert.Equal(golden.Shape(prefix + letter), p.Value.Shape);
            p.Value.Set(golden.Doubles(prefix + letter));
        }
    }
}
