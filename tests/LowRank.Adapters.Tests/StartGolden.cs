using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Cases of golden/lora-core for starts that read more than a shape: LoftQ, EVA and the principal components that it finds.</summary>
internal static class StartGolden
{
    public static void Loftq(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        int rank = config.GetProperty("r").GetInt32(), bits = config.GetProperty("loftq_bits").GetInt32();
        using var model = new OneLayer(device, type, SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), pack: true);
        using AdaptedModel adapted = model.Attach(new LoraConfig { Targets = ["layer"], Rank = rank, Init = LoraInit.Loftq, Loftq = new(bits, config.GetProperty("loftq_iter").GetInt32()) });
        Tensor w = model.Site.Weight.Value;
        LoraCoreGoldenTests.Check(golden, type, "out.base", w.ToDoubles());
        using Scope scope = device.BeginScope();
        LoraCoreGoldenTests.Check(golden, type, "out.BA", new MatMul().Apply(adapted.Parameters[1], adapted.Parameters[0]).ToDoubles());
        QuantizedMatrix again = QuantizedMatrix.Quantize(w.ToArray(), w.Shape, bits == 4 ? Quantization.NF4 : Quantization.Int8Rows);     // the largest of a block stands for itself
        Assert.Equal(golden.Ints("out.codes").Select(c => unchecked((byte)c)), again.Codes.ToArray());
        LoraCoreGoldenTests.Check(golden, type, "out.absmax", [.. again.Scales.Select(s => (double)s)]);
    }

    public static void Components(GoldenCase golden, Device device, DType type)
    {
        var pca = new IncrementalPca(device, golden.Config.GetProperty("n_components").GetInt32(), golden.Shape("in.x1")[1]);
        for (int k = 1; golden.Has($"in.x{k}"); k++)
        {
            using Scope scope = device.BeginScope();
            pca.Add(golden.Load($"in.x{k}", scope, type).ToDoubles());
            foreach ((string name, double[] got) in (ReadOnlySpan<(string, double[])>)[("components", pca.Components), ("singular_values", pca.SingularValues), ("mean", pca.Mean), ("var", pca.Variance), ("explained_variance", pca.ExplainedVariance), ("explained_variance_ratio", pca.ExplainedVarianceRatio)])
            {
                LoraCoreGoldenTests.Check(golden, type, $"step{k}.{name}", got);
            }
        }
    }

    public static void Eva(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        using var model = new Branches(golden, device, type);
        string[] inputs = [.. golden.Names("in.x")];
        var data = new Calibration(inputs.Length, i => model.Forward(golden.Load(inputs[i], device.Current!, type)));
        using AdaptedModel adapted = model.Attach(
            new LoraConfig
            {
                Targets = Names.Of(Texts(config, "target_modules")),
                Rank = config.GetProperty("r").GetInt32(),
                Alpha = config.GetProperty("lora_alpha").GetDouble(),
                Init = LoraInit.Eva,
                Eva = new() { MostRankFactor = config.GetProperty("rho").GetDouble(), Similarity = config.GetProperty("tau").GetDouble(), Whiten = config.GetProperty("whiten").GetBoolean(), KeepScale = config.GetProperty("adjust_scaling_factors").GetBoolean() },
            },
            data);
        var found = (LoraConfig)adapted.Config;
        Assert.Equal(Texts(config, "target_modules_after"), found.Targets);
        Assert.Equal(Numbers(config, "rank_pattern"), found.RankPattern);
        Assert.Equal(Numbers(config, "alpha_pattern"), found.AlphaPattern);
        Assert.Equal(Numbers(config, "scaling"), adapted.Adapters.ToDictionary(a => a.Path, a => ((Lora)a).Scale));
        foreach (Adapter adapter in adapted.Adapters)
        {
            LoraCoreGoldenTests.Check(golden, type, $"out.{adapter.Path}.lora_A.weight", adapter.Parameters[0].Value.ToDoubles());
            Assert.All(adapter.Parameters[1].Value.ToDoubles(), v => Assert.Equal(0, v));
        }
    }

    private static string[] Texts(JsonElement config, string key) => [.. config.GetProperty(key).EnumerateArray().Select(e => e.GetString()!)];

    private static Dictionary<string, double> Numbers(JsonElement config, string key) => config.GetProperty(key).EnumerateObject().ToDictionary(p => p.Name, p => p.Value.GetDouble());

    /// <summary>y = c(tanh(b(relu(a1 x) + a2 x))).</summary>
    private sealed class Branches : Model
    {
        private readonly Dictionary<string, Site> layers = [];

        public Branches(GoldenCase golden, Device device, DType type)
            : base(device, type)
        {
            foreach (string name in (ReadOnlySpan<string>)["a1", "a2", "b", "c"])
            {
                layers.Add(name, Add(new Site(name, SiteKind.Linear, Add($"{name}.weight", golden.Load($"in.{name}.weight", Store, type)), Add($"{name}.bias", golden.Load($"in.{name}.bias", Store, type)))));
            }
        }

        public Tensor Forward(Tensor x)
        {
            Tensor h = new Add().Apply(new Relu().Apply(layers["a1"].Forward(x)), layers["a2"].Forward(x));
            return layers["c"].Forward(new Tanh().Apply(layers["b"].Forward(h)));
        }
    }
}
