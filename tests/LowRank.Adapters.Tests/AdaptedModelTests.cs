using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Several adapters on one model, and what is trained beside them.</summary>
public sealed class AdaptedModelTests : IDisposable
{
    private static readonly LoraConfig Config = new() { Targets = ["layers.0", "layers.1"], Rank = 2, Alpha = 4 };
    private readonly Device device = Devices.Open("cpu");
    private readonly Mlp model;
    private readonly TemporaryFolder folder = new();

    public AdaptedModelTests() => model = new Mlp([4, 6, 5, 3], device, new Rng(1));

    [Fact]
    public void A_start_depends_on_seed_and_path_only()
    {
        byte[] A(string[] targets, int rank)
        {
            using AdaptedModel adapted = model.Attach(Config with { Targets = targets, RankPattern = new Dictionary<string, double> { ["layers.0"] = rank } }, seed: 5);
            return adapted.Parameters.Single(p => p.Name == "layers.1.lora_A.weight").Value.ToBytes();
        }
        Assert.Equal(A(["layers.1"], 2), A(["layers.0", "layers.1", "layers.2"], 3));
    }

    [Fact]
    public void Whole_modules_and_biases_train_as_copies_and_go_with_the_adapter()
    {
        byte[][] before = Bits();
        double[] plain = Forward();
        using (AdaptedModel adapted = model.Attach(Config with { ModulesToSave = ["layers.2"], Bias = "lora_only" }))
        {
            Assert.Equal(
                ["layers.0.lora_A.weight", "layers.0.lora_B.weight", "layers.1.lora_A.weight", "layers.1.lora_B.weight", "layers.2.weight", "layers.2.bias", "layers.0.bias", "layers.1.bias"],
                adapted.Parameters.Select(p => p.Name));
            Assert.Equal((2 * (4 + 6)) + (2 * (6 + 5)) + 15 + 3 + 6 + 5, adapted.ParameterCount);
            Train(adapted);
            double[] trained = Forward();
            Assert.NotEqual(plain, trained);
            adapted.Disable();
            Assert.Equal(plain, Forward());
            Assert.All(model.Parameters.Values, p => Assert.True(p.Frozen));
            adapted.Enable();
            Assert.Equal(trained, Forward());
            adapted.SavePeft(folder.Path);
            using var other = new Mlp([4, 6, 5, 3], device, new Rng(1));
            using AdaptedModel read = other.AttachPeft(folder.Path);
            Assert.Equal(trained, Forward(other));
            adapted.Merge();
            Close.Check(Forward(), trained, Close.Layer, "merged");
        }
        Assert.Equal(before, Bits());
        Assert.Equal(plain, Forward());
        Assert.All(model.Parameters.Values, p => Assert.True(p.Frozen));
    }

    [Fact]
    public void Dropout_draws_anew_each_step_and_the_same_again_for_the_same_step()
    {
        using AdaptedModel adapted = model.Attach(Config with { Dropout = 0.5 });
        adapted.Adapters.ToList().ForEach(AdapterTests.Move);
        double[] whole = Forward();
        double[] Taped(long step)
        {
            adapted.Steps = step;
            using Tape tape = device.BeginTape();
            return model.Forward(Input(tape)).ToDoubles();
        }
        double[] first = Taped(0), second = Taped(1);
        Assert.NotEqual(whole, first);
        Assert.NotEqual(first, second);
        Assert.Equal(first, Taped(0));
        Assert.Equal(second, Taped(1));
        double[] layer = FirstLayer(), mean = new double[layer.Length];
        const int draws = 4000;
        for (int step = 0; step < draws; step++)
        {
            adapted.Steps = step;
            using Tape tape = device.BeginTape();
            mean = [.. mean.Zip(model.Sites[0].Forward(Input(tape)).ToDoubles(), (a, b) => a + (b / draws))];
        }
        Close.Check(mean, layer, Close.Average, "mean over draws");
    }

    [Fact]
    public void Keys_of_a_foreign_config_are_kept_and_missing_ones_take_defaults()
    {
        using (AdaptedModel adapted = model.Attach(Config))
        {
            adapted.SavePeft(folder.Path);
        }
        string path = Path.Combine(folder.Path, PeftFolder.ConfigFile), again = Path.Combine(folder.Path, "again");
        JsonObject json = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        json["from_elsewhere"] = new JsonObject { ["a"] = 1, ["b"] = new JsonArray("x", null) };
        json.Remove("use_dora");
        json.Remove("qalora_group_size");
        json["revision"] = "main";
        File.WriteAllText(path, json.ToJsonString());
        using AdaptedModel read = model.AttachPeft(folder.Path);
        read.SavePeft(again);
        JsonObject written = JsonNode.Parse(File.ReadAllText(Path.Combine(again, PeftFolder.ConfigFile)))!.AsObject();
        Assert.True(JsonNode.DeepEquals(json["from_elsewhere"], written["from_elsewhere"]));
        Assert.Equal("main", written["revision"]!.GetValue<string>());
        Assert.False(written["use_dora"]!.GetValue<bool>());
        Assert.Equal(16, written["qalora_group_size"]!.GetValue<int>());
        Assert.Equal(written.Select(p => p.Key).Order(StringComparer.Ordinal), written.Select(p => p.Key));
    }

    [Fact]
    public void Named_adapters_lie_side_by_side()
    {
        double[][] outputs = new double[2][];
        for (int i = 0; i < 2; i++)
        {
            using AdaptedModel adapted = model.Attach(Config, seed: (ulong)i);
            adapted.Adapters.ToList().ForEach(AdapterTests.Move);
            outputs[i] = Forward();
            adapted.SavePeft(folder.Path, $"task{i}");
        }
        Assert.NotEqual(outputs[0], outputs[1]);
        for (int i = 0; i < 2; i++)
        {
            using AdaptedModel read = model.AttachPeft(folder.Path, $"task{i}");
            Assert.Equal(outputs[i], Forward());
        }
        Assert.Equal(["task0", "task1"], Directory.GetFileSystemEntries(folder.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void All_linear_leaves_the_output_out()
    {
        using AdaptedModel adapted = model.Attach(Config with { Targets = Names.AllLinear });
        Assert.Equal(["layers.0", "layers.1"], adapted.Adapters.Select(a => a.Site.Path));
    }

    public void Dispose()
    {
        folder.Dispose();
        model.Dispose();
        device.Dispose();
    }

    private static Tensor Input(Scope scope) => scope.Of([3, 4], AdapterRow.Draw(new Rng(2), 12), DType.F32);

    private void Train(AdaptedModel adapted)
    {
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 0.05 };
        for (int step = 0; step < 3; step++)
        {
            using Tape tape = device.BeginTape();
            tape.Backward(new SquaredError().Apply(model.Forward(Input(tape)), tape.NewZeros([3, 3], DType.F32)));
            adapted.Step(optimizer);
        }
    }

    private double[] Forward(Mlp? network = null)
    {
        using Scope scope = device.BeginScope();
        return (network ?? model).Forward(Input(scope)).ToDoubles();
    }

    private double[] FirstLayer()
    {
        using Scope scope = device.BeginScope();
        return model.Sites[0].Forward(Input(scope)).ToDoubles();
    }

    private byte[][] Bits() => [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
}
