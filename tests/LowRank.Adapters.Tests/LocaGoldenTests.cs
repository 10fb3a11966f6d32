using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/loca: transforms, one layer with its gradients, the schedule and a run through both phases; float64 to the case's tolerance, float32 to
/// the engine's.</summary>
public class LocaGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("loca");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_loca(string name) => Golden.Run("loca", name, golden =>
    {
        Action<GoldenCase, DType> test = golden.Has("in.gy") ? Layer : golden.Has("in.target") ? Run : golden.Names("out.L").Count > 0 ? Schedule : Matrices;
        test(golden, DType.F64);
        test(golden, DType.F32);
    });

    private static void Matrices(GoldenCase golden, DType type)
    {
        foreach (string name in golden.Names("out.C"))
        {
            int n = golden.Shape(name)[0];
            using Device device = Devices.Open("cpu");
            using Scope scope = device.BeginScope();
            var unit = new double[n];
            var c = new double[n * n];
            for (int j = 0; j < n; j++)
            {
                Array.Clear(unit);
                unit[j] = 1;
                double[] column = new Dct2().Apply(scope.Of([n, 1], unit, type)).ToDoubles();
                for (int i = 0; i < n; i++)
                {
                    c[(i * n) + j] = column[i];
                }
            }
            Check(golden, name, c, type);
        }
    }

    private static void Layer(GoldenCase golden, DType type)
    {
        JsonElement config = golden.Config;
        using Device device = Devices.Open("cpu");
        using OneLayer model = Open(golden, device, type);
        using AdaptedModel adapted = Attach(golden, model, new LocaConfig { Scale = config.GetProperty("scale").GetDouble() });
        (Parameter u, Parameter a) = (adapted.Parameters[0], adapted.Parameters[1]);
        double[] weight;
        using (Tape tape = device.BeginTape())
        {
            u.Frozen = a.Frozen = false;
            Tensor x = golden.Load("in.x", tape, type), dy = golden.Load("in.gy", tape, type);
            x.NeedsGradient = true;
            Tensor y = model.Site.Forward(x);
            Check(golden, "out.y", y.ToDoubles(), type);
            tape.Backward(y, dy);
            Check(golden, "grad.x", x.Gradient!.ToDoubles(), type);
            Check(golden, "grad.spectrum", a.Gradient!.ToDoubles(), type);
            Check(golden, "grad.spectrum_indices", u.Gradient!.ToDoubles(), type);
            double[] places = golden.Doubles("param.spectrum_indices"), grid = golden.Doubles("grad.location_grid");
            int k = a.Value.Shape[0];
            double[] got = [.. u.Gradient.ToDoubles().Select((g, i) => g / ((i < k ? model.Site.Outputs : model.Site.Inputs) - 1))];
            Check(golden, "grad.location_grid", got, type, [.. grid.Select((g, i) => places[i] >= 0 && places[i] <= 0.999 ? g : 0)]);
            weight = adapted.Adapters[0].EffectiveWeight().ToDoubles();
            Check(golden, "out.merged", weight, type);
            Check(golden, "out.delta", new SparseDct(model.Site.Outputs, model.Site.Inputs, config.GetProperty("scale").GetDouble()).Apply(a, u).ToDoubles(), type);
            Tensor g = new MatMul(TransposeA: true, Scale: config.GetProperty("scale").GetDouble()).Apply(dy, x);
            Check(golden, "buffer.K", new Dct2().Apply(g).ToDoubles(), type);
        }
        adapted.Merge();
        Check(golden, "out.merged", model.Site.Weight.Value.ToDoubles(), type);
    }

    private static void Schedule(GoldenCase golden, DType type)
    {
        foreach (string name in golden.Names("out.L"))
        {
            long[] rows = golden.Longs(name);
            using Device device = Devices.Open("cpu");
            using var model = new OneLayer(device, type, SiteKind.Linear, [2, 3], new double[6]);
            using AdaptedModel adapted = model.Attach(new LocaConfig { Targets = ["layer"], Coefficients = 1, LocationIterations = int.Parse(name["out.L".Length..], null) });
            for (int step = 0; step < rows.Length / 2; step++)
            {
                adapted.Steps = step;
                Assert.Equal((rows[2 * step] != 0, rows[(2 * step) + 1] != 0), (!adapted.Parameters[1].Frozen, !adapted.Parameters[0].Frozen));
            }
        }
    }

    private static void Run(GoldenCase golden, DType type)
    {
        JsonElement config = golden.Config;
        using Device device = Devices.Open("cpu");
        using OneLayer model = Open(golden, device, type);
        double rate = config.GetProperty("lr_spectrum").GetDouble();
        using AdaptedModel adapted = Attach(golden, model, new LocaConfig
        {
            Scale = config.GetProperty("scale").GetDouble(),
            LocationIterations = config.GetProperty("learn_location_iter").GetInt32(),
            LocationRate = config.GetProperty("lr_locations").GetDouble() / rate,
        });
        using var optimizer = new AdamW(adapted.Parameters)
        {
            LearningRate = rate,
            WeightDecay = config.GetProperty("weight_decay").GetDouble(),
            Epsilon = config.GetProperty("eps").GetDouble(),
            Beta1 = config.GetProperty("betas")[0].GetDouble(),
            Beta2 = config.GetProperty("betas")[1].GetDouble(),
        };
        List<double> losses = [], phases = [];
        for (int step = 1; step <= golden.Shape("out.loss")[0]; step++)
        {
            phases.Add(adapted.Parameters[0].Frozen ? 0 : 1);
            using Tape tape = device.BeginTape();
            Tensor loss = new SquaredError(0.5).Apply(model.Site.Forward(golden.Load("in.x", tape, type)), golden.Load("in.target", tape, type));
            losses.Add(loss.Item());
            tape.Backward(loss);
            adapted.Step(optimizer);
            if (golden.Has($"step{step}.spectrum"))
            {
                Check(golden, $"step{step}.spectrum", adapted.Parameters[1].Value.ToDoubles(), type);
                Check(golden, $"step{step}.spectrum_indices", adapted.Parameters[0].Value.ToDoubles(), type);
            }
        }
        Assert.Equal(golden.Longs("out.location_phase").Select(phase => (double)phase), phases);
        Check(golden, "out.loss", [.. losses], type);
    }

    private static OneLayer Open(GoldenCase golden, Device device, DType type) =>
        new(device, type, SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), golden.Has("in.bias") ? golden.Doubles("in.bias") : null);

    private static AdaptedModel Attach(GoldenCase golden, OneLayer model, LocaConfig config)
    {
        AdaptedModel adapted = model.Attach(config with { Targets = ["layer"], Coefficients = golden.Shape("param.spectrum")[0] });
        adapted.Parameters[0].Value.Set(golden.Doubles("param.spectrum_indices"));
        adapted.Parameters[1].Value.Set(golden.Doubles("param.spectrum"));
        return adapted;
    }

    private static void Check(GoldenCase golden, string name, double[] got, DType type) => Check(golden, name, got, type, golden.Doubles(name));

    private static void Check(GoldenCase golden, string name, double[] got, DType type, double[] want)
    {
        if (type == DType.F64)
        {
            golden.Check(name, got, want);
        }
        else
        {
            Close.Check(got, want, Close.Model, $"{golden}: {name} in {type}");
        }
    }
}
