using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What models of an architecture refuse, that they go to disk and back, and that every layer takes an adapter.</summary>
public sealed class ArchitectureTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-architecture-").FullName;
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<string> Cases => ["bert_mlm", "gpt2_lm", "qwen3", "electra_seqcls", "deberta_v2_c2p_conv", "deit_teacher", "dinov2_interp_swiglu", "t5_encoder"];

    public void Dispose()
    {
        device.Dispose();
        Directory.Delete(folder, recursive: true);
    }

    [Theory]
    [InlineData("qwen3", "model_type", "\"rwkv\"", "model_type is 'rwkv', want one of bert,")]
    [InlineData("qwen3", "num_key_value_heads", "4", "num_key_value_heads is 4, want a divisor of num_attention_heads 6")]
    [InlineData("qwen3", "hidden_act", "\"mish\"", "hidden_act is 'mish', want one of")]
    [InlineData("qwen3", "rope_parameters", "{\"rope_type\":\"longrope\"}", "rope_type is longrope, want default, linear, llama3 or yarn")]
    [InlineData("qwen3", "rope_parameters", "{\"rope_type\":\"linear\"}", "factor is missing, want a number")]
    [InlineData("qwen3", "hidden_size", "\"36\"", "hidden_size is \"36\", want an integer")]
    [InlineData("qwen3", "intermediate_size", "47", "is F32[46, 36], want [47, 36] as config.json says")]
    [InlineData("qwen3", "num_hidden_layers", "1", "belong to no layer that config.json describes, such as 'model.layers.1.")]
    [InlineData("qwen3", "num_hidden_layers", "3", "has no tensor 'model.layers.2.")]
    [InlineData("gpt2_lm", "architectures", "[\"GPT2ForTokenClassification\"]", "architectures is GPT2ForTokenClassification, want a Model,")]
    [InlineData("bert_mlm", "num_attention_heads", "7", "num_attention_heads is 7, want a divisor of hidden_size 30")]
    [InlineData("electra_seqcls", "architectures", "[\"ElectraForMaskedLM\"]", "want ElectraModel or ElectraForSequenceClassification")]
    [InlineData("electra_seqcls", "embedding_size", "24", "want [77, 24] as config.json says")]
    [InlineData("deberta_v2_c2p_conv", "pos_att_type", "[\"p2p\"]", "pos_att_type is p2p, want c2p, p2c or both")]
    [InlineData("deberta_v2_c2p_conv", "conv_kernel_size", "4", "conv_kernel_size is 4, want an odd number")]
    [InlineData("deberta_v2_c2p_conv", "position_buckets", "8", "want [16, 24] as config.json says")]
    [InlineData("deit_teacher", "architectures", "[\"DeiTForMaskedImageModeling\"]", "want DeiTModel, DeiTForImageClassification or DeiTForImageClassificationWithTeacher")]
    [InlineData("deit_teacher", "patch_size", "21", "patch_size is 21, want at most image_size 20")]
    [InlineData("dinov2_interp_swiglu", "num_attention_heads", "5", "num_attention_heads is 5, want a divisor of hidden_size 24")]
    [InlineData("dinov2_interp_swiglu", "use_swiglu_ffn", "false", "mlp.fc1")]
    [InlineData("t5_encoder", "architectures", "[\"T5ForConditionalGeneration\"]", "decoder.")]
    [InlineData("t5_encoder", "feed_forward_proj", "\"gated-swoosh\"", "feed_forward_proj is 'swoosh', want one of gelu_new")]
    public void A_config_that_contradicts_itself_or_the_weights_is_named(string name, string key, string value, string message)
    {
        string path = Golden.Need($"models/{name}");
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(path, "config.json")))!.AsObject();
        config[key] = JsonNode.Parse(value);
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        File.Copy(Path.Combine(path, "model.safetensors"), Path.Combine(folder, "model.safetensors"));
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => PretrainedModel.Load(folder, device)).Message, StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Cases))]
    public void A_saved_model_has_the_same_bits_and_settings(string name)
    {
        string path = Golden.Need($"models/{name}");
        using PretrainedModel model = PretrainedModel.Load(path, device);
        model.Save(folder);
        using PretrainedModel again = PretrainedModel.Load(folder, device);
        Assert.Equal(model.Parameters.Keys, again.Parameters.Keys);
        Assert.All(model.Parameters, p => Assert.Equal(p.Value.Value.ToBytes(), again.Parameters[p.Key].Value.ToBytes()));
        using TensorSource before = TensorSource.Open(path), after = TensorSource.Open(folder);
        Assert.Equal(before.Entries.Select(e => e.ToString()).Order(StringComparer.Ordinal), after.Entries.Select(e => e.ToString()).Order(StringComparer.Ordinal));
        Assert.All(before.Entries, e => Assert.Equal(before.Bytes(e.Name), after.Bytes(e.Name)));
        JsonNode Config(string path) => JsonNode.Parse(File.ReadAllText(Path.Combine(path, "config.json")))!;
        Assert.True(JsonNode.DeepEquals(Config(path), Config(folder)), File.ReadAllText(Path.Combine(folder, "config.json")));
    }

    [Theory, MemberData(nameof(Cases))]
    public void Every_linear_layer_takes_an_adapter(string name)
    {
        using PretrainedModel model = PretrainedModel.Load(Golden.Need($"models/{name}"), device);
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 2, Targets = Names.AllLinear });
        Assert.Equal(model.Sites.Count(s => s.Kind == SiteKind.Linear && !s.IsOutput), adapted.Adapters.Count);
    }

    [Fact]
    public void Images_of_another_size_are_refused_unless_positions_stretch()
    {
        using var fixedSize = (Deit)PretrainedModel.Load(Golden.Need("models/deit_teacher"), device);
        using var any = (Dinov2)PretrainedModel.Load(Golden.Need("models/dinov2_interp_swiglu"), device);
        using Scope scope = device.BeginScope();
        Assert.Equal([1, 24], any.Forward(scope.NewZeros([1, 3, 30, 10], DType.F32)).Shape);
        Assert.Contains("pixel_values is [1, 3, 30, 10], want [batch, 3, 20, 20]", Assert.Throws<ShapeException>(() => fixedSize.Forward(scope.NewZeros([1, 3, 30, 10], DType.F32))).Message, StringComparison.Ordinal);
        Assert.Contains("want [batch, 3, 5 or more, 5 or more]", Assert.Throws<ShapeException>(() => any.Forward(scope.NewZeros([1, 3, 4, 10], DType.F32))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_encoder_alone_does_not_write()
    {
        using var model = (T5)PretrainedModel.Load(Golden.Need("models/t5_encoder"), device);
        using Scope scope = device.BeginScope();
        Assert.Contains("has no decoder", Assert.Throws<InvalidOperationException>(() => model.Generate(new TextBatch(1, [4, 5]), cancellation: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        Assert.Contains("input_ids[0, 1] is 61, want 0 .. 60", Assert.Throws<ShapeException>(() => model.Encode(new TextBatch(1, [4, 61]))).Message, StringComparison.Ordinal);
        Assert.Contains("model_type is t5, want a model that classifies", Assert.Throws<ModelFormatException>(() => PretrainedModel.Load(Golden.Need("models/t5_encoder"), device, new LoadOptions { Classes = ["a", "b"] })).Message, StringComparison.Ordinal);
    }
}
