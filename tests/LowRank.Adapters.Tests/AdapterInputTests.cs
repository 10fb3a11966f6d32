using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What adapters refuse, in words that name the thing and the remedy; nothing is left half-attached.</summary>
public sealed class AdapterInputTests : IDisposable
{
    private static readonly LoraConfig Good = new() { Targets = ["layers.0", "layers.1"], Rank = 2 };
    private readonly Device device = Devices.Open("cpu");
    private readonly Mlp model;
    private readonly TemporaryFolder folder = new();

    public AdapterInputTests() => model = new Mlp([4, 6, 3], device, new Rng(1));

    public static TheoryData<string, LoraConfig> Settings => new()
    {
        { "r is 0, want a whole number of at least 1", Good with { Rank = 0 } },
        { "r is -3, want a whole number of at least 1", Good with { Rank = -3 } },
        { "rank_pattern layers.0 is 0, want", Good with { RankPattern = new Dictionary<string, double> { ["layers.0"] = 0 } } },
        { "rank_pattern layers.0 is 1.5, want", Good with { RankPattern = new Dictionary<string, double> { ["layers.0"] = 1.5 } } },
        { "lora_alpha is NaN, want a finite number", Good with { Alpha = double.NaN } },
        { "alpha_pattern x is Infinity, want", Good with { AlphaPattern = new Dictionary<string, double> { ["x"] = double.PositiveInfinity } } },
        { "lora_dropout is 1, want 0 or more and less than 1", Good with { Dropout = 1 } },
        { "lora_dropout is NaN, want", Good with { Dropout = double.NaN } },
        { "bias is some, want none, all or lora_only", Good with { Bias = "some" } },
        { "init_lora_weights is nonsense, want true, false, gaussian", Good with { Init = LoraInit.Of("nonsense") } },
        { "lora_bias is True, want false beside use_dora", Good with { LoraBias = true, Dora = true } },
        { "lora_bias is True, want false beside init_lora_weights gaussian", Good with { LoraBias = true, Init = LoraInit.Gaussian } },
        { "layers_to_transform is given beside a target_modules pattern", Good with { Targets = ".*", LayersToTransform = [0] } },
        { "layers_pattern is given alone, want layers_to_transform", Good with { LayersPattern = ["layers"] } },
        { "matches no layer, nearest are layers.0", Good with { Targets = ["layer.0"] } },
        { "target_modules \"nothing\" matches no layer; this model has layers.0, layers.1", Good with { Targets = "nothing" } },
        { "without [layers.0, layers.1] matches no layer", Good with { Exclude = ["layers.0", "layers.1"] } },
        { "target_modules is null, want names of layers; this model has layers.0", Good with { Targets = null } },
        { "modules_to_save head names no module; this model has layers.0.weight", Good with { ModulesToSave = ["head"] } },
    };

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named_and_nothing_is_attached(string message, LoraConfig config)
    {
        var error = Assert.Throws<AdapterConfigException>(() => model.Attach(config));
        Assert.StartsWith("LoraConfig: ", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.All(model.Sites, s => Assert.Null(s.Adapter));
        using AdaptedModel after = model.Attach(Good);
    }

    [Fact]
    public void A_second_adapter_on_a_layer_is_refused()
    {
        using AdaptedModel first = model.Attach(Good with { Targets = ["layers.1"] });
        var error = Assert.Throws<InvalidOperationException>(() => model.Attach(Good));
        Assert.Contains("layers.1 has an adapter already", error.Message, StringComparison.Ordinal);
        Assert.Null(model.Sites[0].Adapter);
        Assert.Same(first.Adapters[0], model.Sites[1].Adapter);
    }

    [Fact]
    public void A_merge_that_would_give_not_a_number_in_one_layer_changes_none()
    {
        using AdaptedModel adapted = model.Attach(Good);
        Tensor b = adapted.Adapters[1].Parameters[1].Value;
        b.Set([float.NaN, .. new float[b.Shape.Count - 1]]);
        byte[][] before = [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
        Assert.Contains("LORA on layers.1 gives NaN or infinity", Assert.Throws<InvalidOperationException>(adapted.Merge).Message, StringComparison.Ordinal);
        Assert.Equal(before, model.Parameters.Values.Select(p => p.Value.ToBytes()));
    }

    [Fact]
    public void Merging_twice_and_training_what_is_merged_or_disabled_are_refused()
    {
        using AdaptedModel adapted = model.Attach(Good);
        using var optimizer = new AdamW(adapted.Parameters);
        adapted.Merge();
        Assert.Contains("merged already", Assert.Throws<InvalidOperationException>(adapted.Merge).Message, StringComparison.Ordinal);
        Assert.Contains("call Unmerge first", Assert.Throws<InvalidOperationException>(() => adapted.Step(optimizer)).Message, StringComparison.Ordinal);
        adapted.Disable();
        Assert.Contains("call Enable first", Assert.Throws<InvalidOperationException>(() => adapted.Step(optimizer)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_bias_of_b_without_a_bias_to_merge_into_is_refused()
    {
        using var bare = new OneLayer(device, DType.F32, SiteKind.Linear, [3, 4], new double[12]);
        using AdaptedModel adapted = bare.Attach(new LoraConfig { Targets = ["layer"], LoraBias = true });
        Assert.Contains("the layer has none to merge it into", Assert.Throws<InvalidOperationException>(adapted.Merge).Message, StringComparison.Ordinal);
        Assert.False(adapted.Merged);
    }

    [Fact]
    public void A_file_that_reads_differently_is_not_taken_for_the_base()
    {
        byte[][] files = [.. model.Sites.Select(s => s.Weight.Value.ToBytes())];
        model.Original = (p, scope) => scope.OfRaw(p.Value.Shape, p.Value.DType, files[p.Name[7] - '0']);
        using AdaptedModel adapted = model.Attach(Good);
        AdapterTests.Move(adapted.Adapters[0]);
        adapted.Merge();
        byte[] right = files[0];
        files[0] = [.. right.Select(b => (byte)(b ^ 1))];
        Assert.Contains("layers.0.weight reads differently", Assert.Throws<InvalidOperationException>(adapted.Unmerge).Message, StringComparison.Ordinal);
        Assert.True(adapted.Merged);
        files[0] = right;
        adapted.Unmerge();
        Assert.Equal(right, model.Sites[0].Weight.Value.ToBytes());
        Assert.False(adapted.Merged);
    }

    [Fact]
    public void A_weight_that_is_in_no_file_is_kept()
    {
        model.Original = (p, scope) => p.Name == "layers.0.weight" ? null : throw new FileNotFoundException(p.Name);
        using AdaptedModel adapted = model.Attach(Good);
        byte[][] before = [.. model.Sites.Select(s => s.Weight.Value.ToBytes())];
        adapted.Adapters.ToList().ForEach(AdapterTests.Move);
        adapted.Merge();
        Assert.Equal(model.Sites.Sum(s => (long)s.Weight.Value.Bytes), adapted.KeptBytes);
        adapted.Unmerge();
        Assert.Equal(before, model.Sites.Select(s => s.Weight.Value.ToBytes()));
    }

    [Theory]
    [InlineData(5, 6, "lora_A.weight is [2, 4], want [2, 5]")]
    [InlineData(4, 7, "lora_B.weight is [6, 2], want [7, 2]")]
    public void An_adapter_of_another_base_is_refused_with_both_shapes(int inputs, int hidden, string message)
    {
        Save();
        using var other = new Mlp([inputs, hidden, 3], device, new Rng(1));
        var error = Assert.Throws<ModelFormatException>(() => other.AttachPeft(folder.Path));
        Assert.Contains("made for another base model", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.All(other.Sites, s => Assert.Null(s.Adapter));
    }

    [Fact]
    public void A_folder_that_lacks_a_tensor_is_refused_and_a_surplus_one_is_a_warning()
    {
        Save();
        string file = Path.Combine(folder.Path, PeftFolder.ModelFile), lost = "base_model.model.layers.1.lora_B.weight";
        Rewrite(file, keep: name => name != lost, "base_model.model.somewhere.lora_A.weight");
        var error = Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path));
        Assert.Contains($"lacks 1 of 4 tensors that the config asks for on this model: {lost} [3, 2]", error.Message, StringComparison.Ordinal);
        Save();
        Rewrite(file, keep: _ => true, "base_model.model.somewhere.lora_A.weight");
        using AdaptedModel adapted = model.AttachPeft(folder.Path);
        Assert.Equal(["base_model.model.somewhere.lora_A.weight"], adapted.Warnings);
    }

    [Theory]
    [InlineData("{\"peft_type\":\"MAGIC\"}", "'MAGIC', which is no method of PEFT's; built are LORA")]
    [InlineData("{\"peft_type\":\"OFT\"}", "OFT, a method of PEFT's that is not built here yet")]
    [InlineData("{\"r\":4}", "'peft_type' is missing, want the name of a method")]
    [InlineData("{\"peft_type\":7}", "'peft_type' is 7, want the name of a method")]
    [InlineData("[]", "the text is Array, want a JSON object")]
    [InlineData("{\"peft_type\":\"LORA\",\"r\":0}", "r is 0, want")]
    [InlineData("{\"peft_type\":\"LORA\",\"lora_alpha\":null}", "want a finite number")]
    [InlineData("{\"peft_type\":\"LORA\",\"r\":\"x\"}", "'r' is")]
    [InlineData("{\"peft_type\":\"LORA\",\"use_qalora\":true}", "use_qalora is true, which asks for QA-LoRA; that is not built here")]
    [InlineData("{\"peft_type\":\"LORA\",\"init_lora_weights\":\"loftq\"}", "loftq_config is null, want loftq_bits 4 or 8")]
    [InlineData("{\"peft_type\":\"LORA\",\"init_lora_weights\":\"eva\",\"eva_config\":{\"rho\":0.5}}", "want rho from 1 to")]
    [InlineData("{\"peft_type\":\"LORA\",\"layer_replication\":[[0,2],[3,1]]}", "layer_replication is [3, 1]")]
    [InlineData("{\"peft_type\":\"LORA\",\"loftq_config\":{\"bits\":4}}", "want loftq_bits and loftq_iter")]
    [InlineData("{\"peft_type\":\"LORA\"", "adapter_config.json")]
    public void A_config_of_an_unknown_type_is_refused(string json, string message)
    {
        Save();
        File.WriteAllText(Path.Combine(folder.Path, PeftFolder.ConfigFile), json);
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        Assert.All(model.Sites, s => Assert.Null(s.Adapter));
    }

    [Fact]
    public void Missing_files_are_named()
    {
        Assert.Contains("has no adapter_config.json", Assert.Throws<FileNotFoundException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        Save();
        File.Delete(Path.Combine(folder.Path, PeftFolder.ModelFile));
        Assert.Contains("has no adapter_model.safetensors", Assert.Throws<FileNotFoundException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        File.WriteAllBytes(Path.Combine(folder.Path, "adapter_model.bin"), [0x80, 2]);
        Assert.Contains("a pickle is never read", Assert.Throws<FileNotFoundException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("..")]
    [InlineData("a/b")]
    public void A_name_that_leaves_the_folder_is_refused(string name)
    {
        using AdaptedModel adapted = model.Attach(Good);
        Assert.Throws<AdapterConfigException>(() => adapted.SavePeft(folder.Path, name));
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void A_folder_that_cannot_be_made_is_named()
    {
        string file = Path.Combine(folder.Path, "file");
        File.WriteAllText(file, "");
        using AdaptedModel adapted = model.Attach(Good);
        Assert.Contains("Choose a writable folder", Assert.Throws<IOException>(() => adapted.SavePeft(Path.Combine(file, "x"))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Impossible_rates_of_lora_plus_are_refused()
    {
        using AdaptedModel adapted = model.Attach(Good);
        foreach ((double rate, double ratio, double decay) in ((double, double, double)[])[(0, 16, 0), (1, 0, 0), (1, double.NaN, 0), (1, 16, -1)])
        {
            Assert.Throws<AdapterConfigException>(() => LoraPlus.Apply(adapted.Parameters, rate, ratio, weightDecay: decay));
        }
    }

    [Fact]
    public void A_head_that_is_not_there_is_named()
    {
        Assert.Contains("classifier names no weight", Assert.Throws<AdapterConfigException>(() => model.TrainHead("classifier")).Message, StringComparison.Ordinal);
        Assert.Equal(["layers.1.weight", "layers.1.bias"], model.TrainHead("layers.1").Select(p => p.Name));
        Assert.True(model.Parameters["layers.0.weight"].Frozen);
    }

    public void Dispose()
    {
        folder.Dispose();
        model.Dispose();
        device.Dispose();
    }

    private void Save()
    {
        using AdaptedModel adapted = model.Attach(Good);
        adapted.SavePeft(folder.Path);
    }

    private void Rewrite(string path, Func<string, bool> keep, string surplus)
    {
        using Scope scope = device.BeginScope();
        List<TensorData> tensors;
        using (SafeTensorsFile file = SafeTensorsFile.Open(path))
        {
            tensors = [.. file.Entries.Where(e => keep(e.Name)).Select(e => TensorData.Of(e.Name, file.Load(e.Name, scope))), TensorData.Of(surplus, scope.NewZeros([1], DType.F32))];
        }
        SafeTensorsFile.Save(path, tensors, new Dictionary<string, string> { ["format"] = "pt" });
    }
}
