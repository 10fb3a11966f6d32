using System.Text.Json;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>Vision transformer (arXiv 2010.11929) as Hugging Face's ViTForImageClassification and ViTModel lay it out: patches, class token, positions,
/// pre-norm layers, final norm, then a classifier on the class token, or a pooler.</summary>
public sealed class VisionTransformer : VisionModel
{
    private const string Head = "classifier", Pooler = "pooler.dense";
    private static readonly AttentionContext AllSeen = new(Mask: null);
    private readonly PatchEmbedding embedding;
    private readonly TransformerLayer[] layers;
    private readonly Norm norm;
    private readonly Site? classifier, pooler;
    private readonly Op poolerActivation;

    /// <summary>A classifier with random weights, to be trained from nothing; the same seed gives the same weights.</summary>
    /// <exception cref="ModelFormatException">The config contradicts itself.</exception>
    public VisionTransformer(VisionTransformerConfig config, Device device, Rng rng, DType type = DType.F32)
        : this(config, device, type, new RandomWeights(rng), pack: false, Form.Classifier)
    {
    }

    private VisionTransformer(VisionTransformerConfig config, Device device, DType type, WeightSource source, bool pack, Form form)
        : base(device, type, source, pack, config.InitializerRange)
    {
        config.Check(ConfigFile.Name);
        Config = config;
        string prefix = form == Form.Classifier ? "vit" : "";
        var trunk = new Place(prefix, prefix);
        Place embeddings = trunk.At("embeddings");
        int d = config.HiddenSize;
        Parameter classToken = Weight(embeddings.At("cls_token"), [1, 1, d]), positions = Weight(embeddings.At("position_embeddings"), [1, config.Tokens, d]);
        embedding = new PatchEmbedding(this, PatchConvolution(embeddings.At("patch_embeddings.projection"), d, config.Channels, config.PatchSize), classToken, positions, config.Channels, config.ImageSize);
        Op activation = Activation.Of(config.Activation, "hidden_act");
        poolerActivation = Activation.Of(config.PoolerActivation, "pooler_act");
        layers = new TransformerLayer[config.Layers];
        for (int i = 0; i < layers.Length; i++)
        {
            Place place = trunk.At($"layers.{i}", $"encoder.layer.{i}");
            var before = new Norm(this, place.At("layernorm_before"), d, new LayerNorm(config.LayerNormEpsilon));
            var attention = new SelfAttention(
                this,
                new AttentionNames(
                    place.At("attention.q_proj", "attention.attention.query"),
                    place.At("attention.k_proj", "attention.attention.key"),
                    place.At("attention.v_proj", "attention.attention.value"),
                    place.At("attention.o_proj", "attention.output.dense")),
                new AttentionShape(d, config.Heads, config.QkvBias));
            var after = new Norm(this, place.At("layernorm_after"), d, new LayerNorm(config.LayerNormEpsilon));
            var mlp = new FeedForward(this, place.At("mlp.fc1", "intermediate.dense"), place.At("mlp.fc2", "output.dense"), d, config.IntermediateSize, activation);
            layers[i] = new TransformerLayer(attention, before, mlp, after);
        }
        norm = new Norm(this, trunk.At("layernorm"), d, new LayerNorm(config.LayerNormEpsilon));
        classifier = form == Form.Classifier ? Linear(new Place(Head, Head), config.Classes, d, bias: true, isOutput: true) : null;
        pooler = form == Form.Pooled ? Linear(trunk.At(Pooler), config.PoolerSize ?? d, d, bias: true) : null;
        Built();
    }

    /// <summary>Sizes and options.</summary>
    public VisionTransformerConfig Config { get; }

    /// <inheritdoc/>
    public override string TransformersClass => classifier is null ? "ViTModel" : "ViTForImageClassification";

    /// <summary>Loads config.json and the weights, one file or shards, of a ViTForImageClassification or a ViTModel.</summary>
    /// <exception cref="ModelFormatException">A tensor is missing, left over or of another shape than the config says; or a file is damaged. The message names it.</exception>
    /// <exception cref="IOException">A file is missing or unreadable.</exception>
    public static new VisionTransformer Load(string folder, Device device, LoadOptions? options = null)
    {
        options ??= new();
        VisionTransformerConfig config = VisionTransformerConfig.Read(folder);
        using TensorSource file = OpenWeights(folder);
        if (options.Classes is { } classes)
        {
            config = config.WithClasses(classes);
        }
        bool bare = options.Classes is null && !file.Contains($"{Head}.weight") && file.Contains("embeddings.cls_token");
        Form form = !bare ? Form.Classifier : file.Contains($"{Pooler}.weight") ? Form.Pooled : Form.Bare;
        var source = new FileWeights(file, new RandomWeights(new Rng(options.Seed)));
        if (options.Classes is not null)
        {
            source.Renew($"{Head}.weight");
            source.Renew($"{Head}.bias");
        }
        var model = new VisionTransformer(config, device, options.Type, source, options.Pack, form);
        model.ReadAgainFrom(folder, source.Renewed);
        return model;
    }

    /// <summary>Loads the model shipped with this library: 28x28 gray images → the ten classes of Fashion-MNIST (<see cref="BaseModel"/>).</summary>
    /// <exception cref="IOException">Its folder is missing beside the program.</exception>
    public static VisionTransformer LoadBase(Device device, LoadOptions? options = null) => Load(BaseModel.Folder(BaseModel.ShippedFolder), device, options);

    /// <summary>Images [batch, channels, height, width] → logits [batch, classes]; without a classifier the pooled output [batch, width], without a
    /// pooler the normed class token [batch, d].</summary>
    /// <exception cref="ShapeException">The images have another size or number of channels than the config says, or there are none.</exception>
    public override Tensor Forward(Tensor input)
    {
        Tensor hidden = embedding.Forward(input);
        foreach (TransformerLayer layer in layers)
        {
            hidden = Through(layer, hidden, AllSeen);
        }
        return Output(norm.Forward(embedding.ClassTokens(hidden)));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Tensor> HiddenStates(Tensor input, out Tensor last, out Tensor output)
    {
        List<Tensor> hidden = [embedding.Forward(input)];
        foreach (TransformerLayer layer in layers)
        {
            hidden.Add(Through(layer, hidden[^1], AllSeen));
        }
        last = norm.Forward(hidden[^1]);
        output = Output(embedding.ClassTokens(last));
        return hidden;
    }

    private protected override string ConfigText(DType type)
    {
        Dictionary<string, JsonElement>? other = Config.Other is null ? null : new(Config.Other);
        other?.Remove("torch_dtype");       // the older name of dtype
        VisionTransformerConfig written = Config with { Architectures = [TransformersClass], StoredType = type switch { DType.BF16 => "bfloat16", DType.F16 => "float16", DType.F64 => "float64", _ => "float32" }, Other = other };
        return JsonSerializer.Serialize(written, ConfigJson.Default.VisionTransformerConfig) + "\n";
    }

    private Tensor Output(Tensor token) => classifier is not null ? classifier.Forward(token)
        : pooler is not null ? poolerActivation.Apply(pooler.Forward(token))
        : token;

    /// <summary>What stands behind the layers: ViTForImageClassification, ViTModel, or ViTModel without its pooler.</summary>
    private enum Form
    {
        Classifier,
        Pooled,
        Bare,
    }
}
