using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>lowrank.json: what an adapter was trained on.</summary>
public sealed class BaseFingerprintTests : IDisposable
{
    private static readonly int[] Widths = [4, 6, 5, 3];
    private static readonly LoraConfig Config = new() { Targets = ["layers.0"], Rank = 2, ModulesToSave = ["layers.2"] };
    private readonly Device device = Devices.Open("cpu");
    private readonly TemporaryFolder folder = new();

    public BaseFingerprintTests()
    {
        using Mlp model = Model();
        using AdaptedModel adapted = model.Attach(Config);
        adapted.SavePeft(folder.Path);
    }

    [Fact]
    public void It_names_every_weight_but_those_that_the_adapter_brings() =>
        Assert.Equal(["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"], BaseFingerprint.Read(folder.Path)!.Weights.Keys);

    [Theory, InlineData(DType.F32), InlineData(DType.BF16), InlineData(DType.F64)]
    public void The_same_base_in_any_type_is_itself(DType type)
    {
        using Mlp model = Model(type: type);
        using AdaptedModel adapted = model.AttachPeft(folder.Path);
        Assert.Empty(adapted.BaseDifferences);
    }

    [Fact]
    public void Other_values_are_named_and_loaded()
    {
        using Mlp model = Model(seed: 2);
        model.Parameters["layers.1.bias"].Value.Set(Model().Parameters["layers.1.bias"].Value.ToArray());
        using AdaptedModel adapted = model.AttachPeft(folder.Path);
        Assert.Equal(["layers.0.weight", "layers.0.bias", "layers.1.weight"], adapted.BaseDifferences);
    }

    [Fact]
    public void Other_shapes_are_named_and_refused()
    {
        using var wider = new Mlp([4, 6, 9, 3], device, new Rng(1));
        using AdaptedModel own = wider.Attach(Config with { ModulesToSave = null });
        own.SavePeft(folder.Path);
        using Mlp model = Model();
        var error = Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path));
        Assert.Contains("another base model: 'layers.1.weight' was [9, 6] and is [5, 6]; 'layers.1.bias' was [9] and is [5]; 'layers.2.weight' was [3, 9] and is [3, 5]", error.Message, StringComparison.Ordinal);
        Assert.Equal(Path.Combine(folder.Path, LowRankFile.Name), error.File);
        Assert.All(model.Sites, s => Assert.Null(s.Adapter));
        using var shorter = new Mlp([4, 6], device, new Rng(1));
        Assert.Contains("'layers.1.weight' was [9, 6] and is missing", Assert.Throws<ModelFormatException>(() => shorter.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Its_absence_is_no_error_and_other_writers_keys_stay()
    {
        LowRankFile.Write(folder.Path, new JsonObject { ["classes"] = new JsonArray("yes", "no") });
        using Mlp model = Model();
        using (AdaptedModel adapted = model.AttachPeft(folder.Path))
        {
            adapted.SavePeft(folder.Path);
        }
        Assert.Equal(["base", "classes"], LowRankFile.Read(folder.Path).Select(k => k.Key).Order(StringComparer.Ordinal));
        File.Delete(Path.Combine(folder.Path, LowRankFile.Name));
        using AdaptedModel without = model.AttachPeft(folder.Path);
        Assert.Empty(without.BaseDifferences);
    }

    [Fact]
    public void Weights_that_are_merged_have_no_hash()
    {
        using Mlp model = Model();
        using AdaptedModel adapted = model.AttachPeft(folder.Path);
        adapted.Merge();
        adapted.SavePeft(folder.Path);
        Assert.Equal([true, true, false, false], BaseFingerprint.Read(folder.Path)!.Weights.Values.Select(w => w.Hash is null));
    }

    [Theory, InlineData("[]"), InlineData("{\"base\": 3}"), InlineData("{\"base\": {\"weights\": {\"a\": null}}}"), InlineData("{\"base\": {}}"), InlineData("{\"base\": 1, \"base\": 2}"), InlineData("{")]
    public void A_damaged_file_is_named(string text)
    {
        File.WriteAllText(Path.Combine(folder.Path, LowRankFile.Name), text);
        using Mlp model = Model();
        Assert.Contains(LowRankFile.Name, Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
    }

    public void Dispose()
    {
        device.Dispose();
        folder.Dispose();
    }

    private Mlp Model(ulong seed = 1, DType type = DType.F32) => new(Widths, device, new Rng(seed), type: type);
}
