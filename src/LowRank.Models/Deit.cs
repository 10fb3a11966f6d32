using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>The layers that DeiT and DINOv2 share: patches, a class token, positions, norms before each sub-layer, a final norm; their heads are their own.</summary>
public abstract class PatchModel : VisionModel
{
    private static readonly AttentionContext AllSeen = new(Mask: null);
    private readonly List<TransformerLayer> layers = [];

    private protected PatchModel(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(device, options.Type, source, options.Pack, config.Number("initializer_range", 0.02))
    {
        Config = config;
        Width = config.Count("hidden_size", 768);
        Heads = config.Count("num_attention_heads", 12);
        if (Width % Heads != 0)
        {
            throw config.Wrong("num_attention_heads", Heads, $"a divisor of hidden_size {Width}");
        }
        Channels = config.Count("num_channels", 3);
        PatchSize = config.Count("patch_size", 16);
        ImageSize = config.Count("image_size", 224);
        if (PatchSize > ImageSize)
        {
            throw config.Wrong("patch_size", PatchSize, $"at most image_size {ImageSize}");
        }
        int side = ImageSize / PatchSize;
        Patches = side <= 4095 ? side * side : throw config.Wrong("image_size", ImageSize, $"at most {4095L * PatchSize} with patch_size {PatchSize}");
    }

    /// <summary>config.json.</summary>
    public ModelConfig Config { get; }

    /// <inheritdoc/>
    public abstract override string TransformersClass { get; }

    private protected int Width { get; }

    private protected int Heads { get; }

    private protected int Channels { get; }

    private protected int PatchSize { get; }

    private protected int ImageSize { get; }

    /// <summary>Patches of an image of <see cref="ImageSize"/>.</summary>
    private protected int Patches { get; }

    /// <summary>Set by the architecture.</summary>
    private protected PatchEmbedding? Tokens { get; set; }

    private protected Norm? FinalNorm { get; set; }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor input)
    {
        HiddenStates(input, out _, out Tensor output);
        return output;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Tensor> HiddenStates(Tensor input, out Tensor last, out Tensor output)
    {
        List<Tensor> hidden = [Tokens!.Forward(input)];
        foreach (TransformerLayer layer in layers)
        {
            hidden.Add(Through(layer, hidden[^1], AllSeen));
        }
        last = FinalNorm!.Forward(hidden[^1]);
        output = Output(last);
        return hidden;
    }

    /// <summary>Main output for the last hidden state.</summary>
    private protected abstract Tensor Output(Tensor last);

    private protected static PretrainedModel Load(string folder, Device device, LoadOptions options, string head, Func<ModelConfig, WeightSource, PatchModel> create)
    {
        ModelConfig config = ModelConfig.Read(folder);
        using TensorSource file = OpenWeights(folder);
        var source = new FileWeights(file, new RandomWeights(new Rng(options.Seed)));
        if (options.Classes is { } classes)
        {
            config = config.WithClasses(classes);
            source.Renew($"{head}.weight");
            source.Renew($"{head}.bias");
            source.Ignore([.. file.Entries.Select(e => e.Name.Split('.')[0] + ".").Where(n => n.EndsWith("classifier.", StringComparison.Ordinal) && n != head + ".")]);
        }
        PatchModel model = create(config, source);
        model.ReadAgainFrom(folder, source.Renewed);
        return model;
    }

    private protected SelfAttention Attention(Place layer)
    {
        Place self = layer.At("attention.attention");
        return new SelfAttention(this, new AttentionNames(self.At("query"), self.At("key"), self.At("value"), layer.At("attention.output.dense")), new AttentionShape(Width, Heads, Config.Flag("qkv_bias", true)));
    }

    private protected void Stack(Place place, Func<Place, TransformerLayer> declare)
    {
        for (int i = 0; i < Config.Count("num_hidden_layers", 12, least: 0); i++)
        {
            layers.Add(declare(place.At($"{i}")));
        }
    }

    /// <inheritdoc/>
    private protected override string ConfigText(DType type) => Config.Write(TransformersClass, type, new Dictionary<string, System.Text.Json.Nodes.JsonNode?>());
}

/// <summary>DeiT (arXiv 2012.12877): a vision transformer with a distillation token beside the class token; a classifier on the class token, or the mean of
/// one on either.</summary>
public sealed class Deit : PatchModel
{
    private const string One = "classifier", OfClass = "cls_classifier", OfTeacher = "distillation_classifier";
    private readonly Site? classifier, teacher, pooler;
    private readonly Op poolerActivation;
    private readonly Tensor half;

    private Deit(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        string name = options.Classes is null ? config.Architecture : "DeiTForImageClassification";
        bool both = name == "DeiTForImageClassificationWithTeacher";
        if (!both && name is not ("DeiTForImageClassification" or "DeiTModel" or ""))
        {
            throw config.Wrong("architectures", name, "DeiTModel, DeiTForImageClassification or DeiTForImageClassificationWithTeacher");
        }
        bool bare = name is "DeiTModel" or "";
        Place trunk = bare ? new("", "") : new("deit", "deit"), embeddings = trunk.At("embeddings");
        var norm = new LayerNorm(config.Number("layer_norm_eps", 1e-12));
        Op activation = Activation.Of(config.Text("hidden_act", "gelu"), "hidden_act");
        poolerActivation = Activation.Of(config.Text("pooler_act", "tanh"), "pooler_act");
        Parameter first = Weight(embeddings.At("cls_token"), [1, 1, Width]), second = Weight(embeddings.At("distillation_token"), [1, 1, Width]), positions = Weight(embeddings.At("position_embeddings"), [1, Patches + 2, Width]);
        Tokens = new PatchEmbedding(this, PatchConvolution(embeddings.At("patch_embeddings.projection"), Width, Channels, PatchSize), first, positions, Channels, ImageSize) { Second = second };
        Stack(trunk.At("encoder.layer"), layer => new TransformerLayer(
            Attention(layer),
            new Norm(this, layer.At("layernorm_before"), Width, norm),
            new FeedForward(this, layer.At("intermediate.dense"), layer.At("output.dense"), Width, config.Count("intermediate_size", 3072), activation),
            new Norm(this, layer.At("layernorm_after"), Width, norm)));
        FinalNorm = new Norm(this, trunk.At("layernorm"), Width, norm);
        Site Head(string path) => Linear(new Place(path, path), config.ClassNames.Count, Width, bias: true, isOutput: true);
        classifier = bare ? null : Head(both ? OfClass : One);
        teacher = both ? Head(OfTeacher) : null;
        pooler = bare && source.Has("pooler.dense.weight") ? Linear(trunk.At("pooler.dense"), config.Count("pooler_output_size", Width), Width, bias: true) : null;
        half = Constant(0.5);
        TransformersClass = bare ? "DeiTModel" : both ? "DeiTForImageClassificationWithTeacher" : "DeiTForImageClassification";
        Built();
    }

    /// <inheritdoc/>
    public override string TransformersClass { get; }

    /// <summary>Logits [batch, classes] of the class token and, with a teacher's head, of the distillation token, for the last hidden state.</summary>
    /// <exception cref="InvalidOperationException">The model has no head.</exception>
    public (Tensor OfClass, Tensor? OfTeacher) Logits(Tensor last) =>
        ((classifier ?? throw new InvalidOperationException($"Deit: {TransformersClass} has no head")).Forward(Tokens!.Tokens(last, 0)), teacher?.Forward(Tokens.Tokens(last, 1)));

    internal static new Deit Load(string folder, Device device, LoadOptions options) => (Deit)Load(folder, device, options, One, (config, source) => new Deit(config, device, options, source));

    /// <inheritdoc/>
    private protected override Tensor Output(Tensor last)
    {
        if (classifier is null)
        {
            Tensor token = Tokens!.Tokens(last, 0);
            return pooler is null ? token : poolerActivation.Apply(pooler.Forward(token));
        }
        (Tensor first, Tensor? second) = Logits(last);
        return second is null ? first : new Mul().Apply(new Add().Apply(first, second), half);
    }
}
