using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What the sheet says must hold of LoRA and its relatives beside the contract of every adapter: ranks, scales, names on disk, DoRA's constant norm.</summary>
public sealed class LoraFamilyTests : IDisposable
{
    private static readonly LoraConfig Lora = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private readonly Device device = Devices.Open("cpu", DType.F64);

    /// <summary>Settings for layers.0 [6, 4] and layers.1 [3, 6], and the tensors of a file after <c>base_model.model.layers.N.</c>; of the whole model after <c>base_model.</c></summary>
    public static TheoryData<AdapterConfig, string[]> Files => new()
    {
        { new LoraConfig(), ["lora_A.weight", "lora_B.weight"] },
        { new LoraConfig { LoraBias = true }, ["lora_A.weight", "lora_B.bias", "lora_B.weight"] },
        { new LoraConfig { Dora = true }, ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"] },
        { new LohaConfig(), ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"] },
        { new LokrConfig(), ["lokr_w1", "lokr_w2"] },
        { new LokrConfig { Rank = 1 }, ["lokr_w1", "lokr_w2_a", "lokr_w2_b"] },
        { new VeraConfig(), ["vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"] },
        { new VeraConfig { SaveProjection = false }, ["vera_lambda_b", "vera_lambda_d"] },
        { new RandLoraConfig(), ["randlora_gamma", "randlora_lambda", "randlora_A", "randlora_B"] },
        { new Ia3Config(), ["ia3_l"] },
    };

    /// <summary>Settings, and what they train of a layer of 4096 x 4096.</summary>
    public static TheoryData<AdapterConfig, long> Counts => new()
    {
        { new LoraConfig { Rank = 16 }, 131_072 },
        { new LoraConfig { Rank = 16, Dora = true }, 131_072 + 4096 },
        { new LohaConfig { Rank = 16 }, 262_144 },
        { new VeraConfig { Rank = 256 }, 4096 + 256 },
        { new SnellConfig { Rank = 16 }, 131_072 },
        { new SnellConfig { Rank = 17 }, 131_072 },
        { new SoraConfig { Rank = 16 }, 131_088 },
        { new LocaConfig { Coefficients = 1000 }, 1000 },
    };

    public void Dispose() => device.Dispose();

    [Theory, MemberData(nameof(Counts), DisableDiscoveryEnumeration = true)]
    public void Counts_of_a_large_layer_are_the_sheets(AdapterConfig config, long count)
    {
        using Scope store = device.NewStore();
        Assert.Equal(count, config.ParameterCount(new Site("layer", SiteKind.Linear, new Parameter("layer.weight", store.New([4096, 4096], DType.BF16)), null)));
    }

    [Fact]
    public void Scales_are_alpha_over_the_rank_or_its_root()
    {
        using OneLayer model = Layer(20, 18);
        Assert.Equal((0.5, 2.0), ((Lora with { Rank = 16, Alpha = 8 }).ScaleOf(model.Site), (Lora with { Rank = 16, Alpha = 8, RankStabilized = true }).ScaleOf(model.Site)));
    }

    [Fact]
    public void A_change_has_the_rank_of_its_factors_and_lohas_that_of_both_multiplied()
    {
        foreach ((AdapterConfig config, int rank) in ((AdapterConfig, int)[])[(Lora, 3), (new LohaConfig { Targets = ["layer"], Rank = 3 }, 9)])
        {
            using OneLayer model = Layer(20, 18);
            using AdaptedModel adapted = Moved(model, config);
            using Scope scope = device.BeginScope();
            double[] s = Svd.Of(new Add(-1).Apply(adapted.Adapters[0].EffectiveWeight(), model.Site.WeightMatrix()), scope).S.ToDoubles();
            Assert.Equal(rank, s.Count(v => v > Close.Golden64 * s[0]));
        }
    }

    [Theory, MemberData(nameof(Files), DisableDiscoveryEnumeration = true)]
    public void A_file_has_these_tensors_and_no_others(AdapterConfig config, string[] suffixes)
    {
        using var folder = new TemporaryFolder();
        using Device single = Devices.Open("cpu");
        using var model = new Mlp([4, 6, 3], single, new Rng(1));
        using (AdaptedModel adapted = model.Attach(config with { Targets = ["layers.0", "layers.1"] }))
        {
            adapted.SavePeft(folder.Path);
        }
        using SafeTensorsFile file = SafeTensorsFile.Open(Path.Combine(folder.Path, PeftFolder.ModelFile));
        IEnumerable<string> want = suffixes.SelectMany(s => s[^2..] is "_A" or "_B" ? [$"base_model.{s}"] : Enumerable.Range(0, 2).Select(i => $"base_model.model.layers.{i}.{s}"));
        Assert.Equal(want.Order(StringComparer.Ordinal), file.Entries.Select(e => e.Name).Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("a.proj", true)]
    [InlineData("proj", true)]
    [InlineData("a.q_proj", false)]
    [InlineData("a.proj.b", false)]
    public void A_name_matches_after_a_dot_and_an_expression_as_a_whole(string path, bool matches)
    {
        Assert.Equal(matches, TargetRules.Check(new LoraConfig { Targets = ["proj"] }, path) == Match.Adapt);
        Assert.Equal(matches, TargetRules.Check(new LoraConfig { Targets = @"(a\.)?proj" }, path) == Match.Adapt);
    }

    // The first step of Adam is the learning rate along the sign of the gradient.
    [Fact]
    public void With_lora_plus_b_moves_sixteen_times_as_far_as_a()
    {
        using OneLayer model = Layer(9, 14);
        using AdaptedModel adapted = Moved(model, Lora);
        LoraPlus.Apply(adapted.Parameters, 1e-3, ratio: 16);
        double[][] before = [.. adapted.Parameters.Select(p => p.Value.ToDoubles())];
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 1e-3, WeightDecay = 0, Epsilon = 0 };
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Site.Forward(Input(tape, 14));
            tape.Backward(y, tape.Of(y.Shape, AdapterRow.Draw(new Rng(3), y.Shape.Count)));
            adapted.Step(optimizer);
        }
        foreach ((Parameter p, double[] start, double step) in adapted.Parameters.Zip(before, [1e-3, 16e-3]))
        {
            Close.Check([.. p.Value.ToDoubles().Zip(start, (v, s) => Math.Abs(v - s))], [.. start.Select(_ => step)], Close.Golden64, p.Name);
        }
    }

    [Fact]
    public void Dora_starts_at_the_norms_of_the_rows_and_takes_them_for_constants()
    {
        const int outputs = 9, inputs = 14;
        using OneLayer model = Layer(outputs, inputs);
        double[] w = model.Site.Weight.Value.ToDoubles(), norms = [.. w.Chunk(inputs).Select(row => Math.Sqrt(row.Sum(v => v * v)))];
        using AdaptedModel adapted = model.Attach(Lora with { Dora = true });
        (Parameter a, Parameter b, Parameter m) = (adapted.Parameters[0], adapted.Parameters[1], adapted.Parameters[2]);
        Close.Check(m.Value.ToDoubles(), norms, Close.Golden64, "m");
        double[] dy = AdapterRow.Draw(new Rng(3), 4 * outputs), y0;
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Site.Forward(Input(tape, inputs));
            y0 = y.ToDoubles();
            tape.Backward(y, tape.Of(y.Shape, dy));
            double[] want = [.. Enumerable.Range(0, outputs).Select(o => Enumerable.Range(0, 4).Sum(t => dy[(t * outputs) + o] * y0[(t * outputs) + o]) / norms[o])];
            Close.Check(m.Gradient!.ToDoubles(), want, Close.Golden64, "dm");
        }
        AdapterTests.Move(adapted.Adapters[0]);
        adapted.Parameters.ToList().ForEach(p => p.Gradient!.Fill(0));
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Site.Forward(Input(tape, inputs));
            tape.Backward(y, tape.Of(y.Shape, dy));
        }
        double[] v = AdapterRow.Draw(new Rng(4), b.Value.Shape.Count), start = b.Value.ToDoubles();
        double Loss(double step)
        {
            b.Value.Set([.. start.Zip(v, (s, d) => s + (step * d))]);
            using Scope scope = device.BeginScope();
            return model.Site.Forward(Input(scope, inputs)).ToDoubles().Zip(dy, (y, d) => y * d).Sum();
        }
        double whole = (Loss(Close.Step) - Loss(-Close.Step)) / (2 * Close.Step), detached = b.Gradient!.ToDoubles().Zip(v, (g, d) => g * d).Sum();
        Assert.True(Math.Abs(whole - detached) > Close.Model * Math.Abs(whole), $"{detached} beside {whole} with the norm's own slope");
        Assert.Contains(a.Gradient!.ToDoubles(), g => g != 0);
    }

    private OneLayer Layer(int outputs, int inputs) => new(device, DType.F64, SiteKind.Linear, [outputs, inputs], AdapterRow.Draw(new Rng(1), outputs * inputs));

    private static AdaptedModel Moved(OneLayer model, AdapterConfig config)
    {
        AdaptedModel adapted = model.Attach(config);
        AdapterTests.Move(adapted.Adapters[0]);
        return adapted;
    }

    private static Tensor Input(Scope scope, int inputs) => scope.Of([4, inputs], AdapterRow.Draw(new Rng(2), 4 * inputs));
}
