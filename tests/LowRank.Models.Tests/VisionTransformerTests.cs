using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>A vision transformer on disk and in memory: what it refuses, what it takes up, and how bfloat16 compares.</summary>
public sealed class VisionTransformerTests : IDisposable
{
    private const int Images = 6;
    private static readonly LoraConfig Lora = new() { Rank = 3, Alpha = 6, Targets = ".*(q_proj|v_proj|fc1|fc2|projection)" };
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;
    private readonly Device device = Devices.Open("cpu");

    private readonly VisionTransformerConfig config = new VisionTransformerConfig
    {
        HiddenSize = 24,
        Layers = 2,
        Heads = 3,
        IntermediateSize = 40,
        ImageSize = 12,
        PatchSize = 4,
        Channels = 2,
        LayerNormEpsilon = 1e-6,
        InitializerRange = 0.2,
    }.WithClasses(5);

    public VisionTransformerTests()
    {
        using var model = new VisionTransformer(config, device, new Rng(2));
        model.Save(folder);
    }

    public void Dispose()
    {
        device.Dispose();
        Directory.Delete(folder, recursive: true);
    }

    [Theory]
    [InlineData(6, 2, 11, 12)]
    [InlineData(6, 2, 12, 24)]
    [InlineData(6, 3, 12, 12)]
    [InlineData(0, 2, 12, 12)]
    public void Images_of_another_size_and_an_empty_batch_are_refused(int batch, int channels, int height, int width)
    {
        using VisionTransformer model = Load(DType.F32);
        using Scope scope = device.BeginScope();
        Tensor images = scope.NewZeros([batch, channels, height, width], DType.F32);
        string message = Assert.Throws<ShapeException>(() => model.Forward(images)).Message;
        Assert.Equal($"VisionTransformer: pixel_values is [{batch}, {channels}, {height}, {width}], want [batch, 2, 12, 12]", message);
    }

    [Fact]
    public void Images_of_bytes_and_labels_out_of_range_are_refused()
    {
        using VisionTransformer model = Load(DType.F32);
        using Scope scope = device.BeginScope();
        Assert.Contains("pixel_values is U8, want F32", Assert.Throws<ShapeException>(() => model.Forward(scope.New([1, 2, 12, 12], DType.U8))).Message, StringComparison.Ordinal);
        Tensor logits = model.Forward(Pixels(scope, DType.F32));
        Assert.Contains("5, want 0 .. 4", Assert.Throws<ShapeException>(() => Losses.CrossEntropy(logits, [0, 1, 2, 3, 4, 5])).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("vit.layernorm.bias", null, "vit.layernorm.bias")]
    [InlineData(null, "vit.encoder.layer.2.output.dense.bias", "1 tensors belong to no layer that config.json describes, such as 'vit.encoder.layer.2.output.dense.bias'")]
    public void Missing_and_surplus_tensors_are_named(string? lost, string? surplus, string message)
    {
        string path = Path.Combine(folder, PretrainedModel.WeightFile);
        using (Scope scope = device.BeginScope())
        {
            List<TensorData> tensors = [];
            using (SafeTensorsFile file = SafeTensorsFile.Open(path))
            {
                tensors.AddRange(file.Entries.Where(e => e.Name != lost).Select(e => TensorData.Of(e.Name, file.Load(e.Name, scope))));
            }
            tensors.AddRange(surplus is null ? [] : [TensorData.Of(surplus, scope.NewZeros([24], DType.F32))]);
            SafeTensorsFile.Save(path, tensors, new Dictionary<string, string>());
        }
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Load(DType.F32)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("hidden_size", "48", "want [1, 1, 48] as config.json says")]
    [InlineData("num_hidden_layers", "3", "encoder.layer.2")]
    [InlineData("num_hidden_layers", "1", "belong to no layer that config.json describes")]
    [InlineData("intermediate_size", "41", "want [41, 24] as config.json says")]
    [InlineData("image_size", "16", "want [1, 17, 24] as config.json says")]
    [InlineData("num_channels", "3", "want [24, 3, 4, 4] as config.json says")]
    [InlineData("id2label", "{\"0\":\"a\"}", "want [1, 24] as config.json says")]
    [InlineData("num_attention_heads", "5", "num_attention_heads is 5, want a divisor of hidden_size 24")]
    [InlineData("patch_size", "13", "patch_size is 13, want at most image_size 12")]
    [InlineData("patch_size", "0", "patch_size is 0, want 1 ..")]
    [InlineData("hidden_size", "2000000000", "hidden_size is 2000000000, want 1 ..")]
    [InlineData("layer_norm_eps", "0", "layer_norm_eps is 0, want a positive number")]
    [InlineData("hidden_act", "\"swoosh\"", "hidden_act is 'swoosh', want one of gelu")]
    [InlineData("id2label", "{}", "id2label is empty, want at least one class")]
    [InlineData("model_type", "\"resnet\"", "model_type is 'resnet', want one of bert, clip, clip_text_model, clip_vision_model, deberta-v2, deit, dinov2, distilbert, electra, gemma2, gemma3_text, gpt2, gpt_neox, llama, mistral, mixtral, opt, phi3, qwen2, qwen3, roberta, t5, vit, whisper")]
    [InlineData("model_type", "4", "no string model_type")]
    [InlineData("hidden_size", "\"big\"", "config.json")]
    public void A_config_that_contradicts_itself_or_the_weights_is_named(string key, string value, string message)
    {
        string path = Path.Combine(folder, "config.json");
        JsonObject json = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        json[key] = JsonNode.Parse(value);
        File.WriteAllText(path, json.ToJsonString());
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => PretrainedModel.Load(folder, device)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("config.json")]
    [InlineData("model.safetensors")]
    public void A_missing_file_is_named(string name)
    {
        File.Delete(Path.Combine(folder, name));
        Assert.Contains(name, Assert.ThrowsAny<IOException>(() => PretrainedModel.Load(folder, device)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_frozen_matrix_is_in_memory_once()
    {
        long matrices = 0, panels = 0, halves = 0, others = 0;
        using (VisionTransformer plain = Load(DType.F32, pack: false))
        {
            foreach (Parameter p in plain.Parameters.Values)
            {
                bool matrix = p.Value.Shape.Rank == 2;
                (int n, int k) = matrix ? (p.Value.Shape[0], p.Value.Shape[1]) : (0, 0);
                matrices += (long)n * k * 4;
                panels += (long)((n + 31) / 32) * 32 * k * 4;
                halves += (long)((n + 31) / 32) * 32 * ((k + 1) / 2 * 2) * 2;
                others += matrix ? 0 : p.Value.Shape.Count * 4;
            }
            Assert.Equal(new ResidentBytes(others + matrices, 0), plain.ResidentBytes);
        }
        using (VisionTransformer packed = Load(DType.F32))
        {
            Assert.Equal(new ResidentBytes(others, panels), packed.ResidentBytes);
            packed.TrainAll();
            Assert.Equal(new ResidentBytes(others + matrices, 0), packed.ResidentBytes);
        }
        using VisionTransformer small = Load(DType.BF16);
        Assert.Equal(new ResidentBytes(others, halves), small.ResidentBytes);
        Step(small, out _);
        Assert.Equal(new ResidentBytes(others, halves), small.ResidentBytes);      // a backward pass leaves no second layout behind
        Assert.Equal(others + halves, small.ResidentBytes.Total);
    }

    [Fact]
    public void Bfloat16_computes_and_trains_close_to_float32()
    {
        using VisionTransformer wide = Load(DType.F32), small = Load(DType.BF16);
        Close.Check(Logits(small), Logits(wide), Close.ModelBFloat16, "logits");
        Dictionary<string, double[]> want = Step(wide, out double loss), got = Step(small, out double smallLoss);
        Assert.Equal(loss, smallLoss, Close.ModelBFloat16 * loss);
        Assert.Equal(want.Keys, got.Keys);
        Close.Check([.. got.Values.SelectMany(g => g)], [.. want.Values.SelectMany(g => g)], Close.ModelBFloat16, "gradients");
    }

    [Theory]
    [InlineData(DType.F32, true)]
    [InlineData(DType.F32, false)]
    [InlineData(DType.BF16, true)]
    [InlineData(DType.BF16, false)]
    public void A_merge_reads_the_weights_again_from_the_file(DType type, bool pack)
    {
        using VisionTransformer model = Load(type, pack);
        using (Scope scope = device.BeginScope())
        {
            Assert.All(model.Parameters.Values, p => Assert.Equal(p.Value.ToBytes(), model.Original!(p, scope)!.ToBytes()));
        }
        byte[][] before = [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
        using AdaptedModel adapted = model.Attach(Lora);
        Drift(adapted);
        double[] want = Logits(model);
        MergeReport report = adapted.Merge();
        Assert.Equal(type == DType.BF16, report.MaxRounding > 0);
        Close.Check(Logits(model), want, type == DType.BF16 ? Close.ModelBFloat16 : Close.Model, "merged");
        string merged = Path.Combine(folder, "merged");
        model.Save(merged);
        using (VisionTransformer again = VisionTransformer.Load(merged, device, new LoadOptions { Type = type, Pack = pack }))
        {
            Assert.Equal(Logits(model), Logits(again));
        }
        adapted.Unmerge();
        Assert.Equal(before, model.Parameters.Values.Select(p => p.Value.ToBytes()));
        Assert.Equal(want, Logits(model));
    }

    [Fact]
    public void A_renewed_head_and_trained_weights_come_back_from_copies()
    {
        using VisionTransformer model = VisionTransformer.Load(folder, device, new LoadOptions { Classes = ["a", "b", "c", "d", "e", "f", "g"], Seed = 4 });
        using (Scope scope = device.BeginScope())
        {
            Assert.Null(model.Original!(model.Parameters["classifier.weight"], scope));
        }
        Parameter query = model.Parameters["vit.encoder.layer.0.attention.attention.query.weight"];
        model.TrainHead("vit.layers.0.attention.q_proj", "classifier");
        query.Value.Set([.. query.Value.ToDoubles().Select(v => v + 0.125)]);
        byte[][] before = [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
        using AdaptedModel adapted = model.Attach(Lora with { Targets = ["q_proj", "classifier"] });
        Drift(adapted);
        adapted.Merge();
        Assert.NotEqual(before, model.Parameters.Values.Select(p => p.Value.ToBytes()));
        adapted.Unmerge();
        Assert.Equal(before, model.Parameters.Values.Select(p => p.Value.ToBytes()));
    }

    [Fact]
    public void The_same_seed_gives_the_same_head_and_another_a_new_one()
    {
        byte[] Head(ulong seed)
        {
            using VisionTransformer model = VisionTransformer.Load(folder, device, new LoadOptions { Classes = ["a", "b", "c", "d"], Seed = seed });
            return model.Parameters["classifier.weight"].Value.ToBytes();
        }
        Assert.Equal(Head(1), Head(1));
        Assert.NotEqual(Head(1), Head(2));
    }

    [Fact]
    public void A_perceptron_refuses_other_widths()
    {
        Assert.Contains("widths is [3], want at least two", Assert.Throws<ShapeException>(() => new Mlp([3], device, new Rng(1))).Message, StringComparison.Ordinal);
        Assert.Throws<ShapeException>(() => new Mlp([3, 0], device, new Rng(1)));
        using var model = new Mlp([3, 2], device, new Rng(1));
        using Scope scope = device.BeginScope();
        Assert.Contains("x is [4, 5], want [..., 3]", Assert.Throws<ShapeException>(() => model.Forward(scope.NewZeros([4, 5], DType.F32))).Message, StringComparison.Ordinal);
    }

    private VisionTransformer Load(DType type, bool pack = true) => VisionTransformer.Load(folder, device, new LoadOptions { Type = type, Pack = pack });

    private double[] Logits(VisionTransformer model)
    {
        using Scope scope = device.BeginScope();
        return model.Forward(Pixels(scope, model.DType)).ToDoubles();
    }

    /// <summary>One step of LoRA; gives the loss before and the gradients.</summary>
    private Dictionary<string, double[]> Step(VisionTransformer model, out double loss)
    {
        using AdaptedModel adapted = model.Attach(Lora);
        Drift(adapted);
        using var optimizer = new AdamW(adapted.Parameters);
        using Tape tape = device.BeginTape();
        Tensor value = Losses.CrossEntropy(model.Forward(Pixels(tape, model.DType)), [0, 1, 2, 3, 4, 0]);
        loss = value.Item();
        tape.Backward(value);
        Dictionary<string, double[]> gradients = adapted.Parameters.ToDictionary(p => p.Name, p => p.Gradient!.ToDoubles());
        adapted.Step(optimizer);
        return gradients;
    }

    private static void Drift(AdaptedModel adapted)
    {
        foreach (Parameter p in adapted.Parameters)
        {
            var values = new float[p.Value.Shape.Count];
            new Rng(6).Fork(p.Name).FillUniform(values, -0.2f, 0.2f);
            p.Value.Set(values);
        }
    }

    private static Tensor Pixels(Scope scope, DType type)
    {
        var pixels = new float[Images * 2 * 12 * 12];
        new Rng(8).FillUniform(pixels, -1, 1);
        return scope.Of([Images, 2, 12, 12], pixels, type);
    }
}
