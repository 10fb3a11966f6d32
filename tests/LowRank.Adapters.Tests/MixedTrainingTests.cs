using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>A batch whose samples choose their adapters trains: every adapter as if its own samples were all there is.</summary>
public sealed class MixedTrainingTests : IDisposable
{
    private static readonly string?[] Choice = ["a", null, "b", "a", "c", null];
    private static readonly string[] Names = ["a", "b", "c"];
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Theory, InlineData(DType.F64), InlineData(DType.F32)]
    public void Each_adapter_has_its_gradients_from_its_own_samples_alone(DType type)
    {
        using Mlp model = Build(type);
        using NamedAdapters adapters = Three(model);
        (double[] y, double[] dx) = Run(model, type, adapters, Choice, [.. Enumerable.Range(0, Choice.Length)]);
        double[][][] got = [.. Names.Select(name => Gradients(adapters[name]))];
        for (int i = 0; i < Names.Length; i++)
        {
            Assert.Contains(got[i], g => g.Any(v => v != 0));
            int[] samples = [.. Enumerable.Range(0, Choice.Length).Where(s => Choice[s] == Names[i])];
            using var optimizer = new Sgd(adapters[Names[i]].Parameters);
            optimizer.ClearGradients();
            adapters.Activate(Names[i]);
            (double[] alone, double[] own) = Run(model, type, null, [], samples);
            double[][] want = Gradients(adapters[Names[i]]);
            for (int p = 0; p < want.Length; p++)
            {
                Close.Check(got[i][p], want[p], Close.Bound(type), $"{Names[i]}: gradient {p} in {type}");
            }
            Close.Check(Of(y, samples), alone, Close.Bound(type), $"{Names[i]}: outputs in {type}");
            Close.Check(Of(dx, samples), own, Close.Bound(type), $"{Names[i]}: gradient of x in {type}");
        }
        adapters.Activate();
    }

    [Fact]
    public void A_step_moves_those_that_occur_and_batches_see_them_moved()
    {
        using Mlp model = Build(DType.F32);
        using NamedAdapters adapters = Three(model);
        double[] before = Outputs(model, adapters, Choice);
        using Sgd a = new(adapters["a"].Parameters) { LearningRate = 0.5 }, b = new(adapters["b"].Parameters) { LearningRate = 0.5 };
        Run(model, DType.F32, adapters, ["a", "a", null], [0, 1, 2]);
        Run(model, DType.F32, adapters, ["b", null, null], [0, 1, 2]);
        adapters.Step("a", a);
        adapters.Step("b", b);
        double[] after = Outputs(model, adapters, Choice);
        int wide = after.Length / Choice.Length;
        for (int s = 0; s < Choice.Length; s++)
        {
            bool moved = !before.AsSpan(s * wide, wide).SequenceEqual(after.AsSpan(s * wide, wide));
            Assert.Equal(Choice[s] is "a" or "b", moved);
        }
        Assert.Equal(1, adapters["a"].Steps);
        Assert.Equal(0, adapters["c"].Steps);
    }

    [Fact]
    public void Whole_modules_are_refused_on_a_tape()
    {
        using Mlp model = Build(DType.F32);
        using var adapters = new NamedAdapters(model);
        adapters.Add("a", new LoraConfig { Targets = ["layers.0"], Rank = 2, ModulesToSave = ["layers.1"] });
        Assert.Contains("layers.1 as a whole", Assert.Throws<InvalidOperationException>(() => Run(model, DType.F32, adapters, ["a", null], [0, 1])).Message, StringComparison.Ordinal);
    }

    private Mlp Build(DType type) => new([4, 6, 5, 3], device, new Rng(1), type: type);

    /// <summary>LoRA, DoRA and (IA)3: what goes through packed factors, what does not, and what is no sum.</summary>
    private static NamedAdapters Three(Mlp model)
    {
        var adapters = new NamedAdapters(model);
        var rng = new Rng(4);
        foreach ((string name, AdapterConfig config) in (ReadOnlySpan<(string, AdapterConfig)>)
            [("a", new LoraConfig { Targets = ["layers.0", "layers.1"], Rank = 2 }), ("b", new LoraConfig { Targets = ["layers.1"], Rank = 3, Dora = true }), ("c", new LoraConfig { Targets = ["layers.0"], Rank = 1 })])
        {
            foreach (Parameter p in adapters.Add(name, config).Parameters.Where(p => !p.Name.Contains("magnitude", StringComparison.Ordinal)))
            {
                var values = new double[p.Value.Shape.Count];
                rng.Fork(name + p.Name).FillUniform(values, -0.5, 0.5);
                p.Value.Set(values);
            }
        }
        return adapters;
    }

    /// <summary>Outputs and the gradient of the inputs for some samples, with an upstream gradient that a sample keeps whatever is beside it.</summary>
    private (double[] Y, double[] Dx) Run(Mlp model, DType type, NamedAdapters? adapters, string?[] choice, int[] samples)
    {
        using Scope data = device.NewStore();
        Tensor Rows(string name, int wide) => data.Of([samples.Length, wide], [.. samples.SelectMany(s =>
        {
            var row = new double[wide];
            new Rng(8).Fork($"{name} {s}").FillUniform(row, -1, 1);
            return row;
        })], type);
        Tensor x = Rows("x", 4);
        x.NeedsGradient = true;
        using IDisposable? mixed = adapters?.Mix(choice);
        using Tape tape = device.BeginTape();
        Tensor y = model.Forward(x);
        tape.Backward(y, Rows("dy", 3));
        return (y.ToDoubles(), x.Gradient!.ToDoubles());
    }

    private double[] Outputs(Mlp model, NamedAdapters adapters, string?[] choice)
    {
        using IDisposable mixed = adapters.Mix(choice);
        using Scope scope = device.BeginScope();
        return model.Forward(scope.Of([choice.Length, 4], [.. Enumerable.Range(0, 4 * choice.Length).Select(i => Math.Cos(i))], DType.F32)).ToDoubles();
    }

    private static double[][] Gradients(AdaptedModel set) => [.. set.Parameters.Select(p => p.Gradient!.ToDoubles())];

    private static double[] Of(double[] rows, int[] samples)
    {
        int wide = rows.Length / Choice.Length;
        return [.. samples.SelectMany(s => rows.AsSpan(s * wide, wide).ToArray())];
    }
}
