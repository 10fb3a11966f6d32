using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>What a tower of CLIP makes of texts or images.</summary>
/// <param name="Last">Last hidden state [rows, tokens, d]: of texts after the final norm, of images before it.</param>
/// <param name="Pooled">The end token of a text or the class token of an image, normed [rows, d].</param>
/// <param name="Projected">That in the space both share [rows, projection], of any length; null where the model has no projection.</param>
/// <param name="Hidden">Input and output of every layer where asked for.</param>
public sealed record ClipFeatures(Tensor Last, Tensor Pooled, Tensor? Projected, IReadOnlyList<Tensor> Hidden);

/// <summary>CLIP (arXiv 2103.00020): a causal text transformer and a vision transformer that meet in one space, or either of them alone.</summary>
public sealed class Clip : PretrainedModel
{
    private readonly TextTower? text;
    private readonly VisionTower? vision;
    private readonly Parameter? logitScale;
    private readonly Tensor half;

    private Clip(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(device, options.Type, source, options.Pack, config.Number("initializer_range", 0.02))
    {
        Config = config;
        bool both = config.ModelType == "clip";
        int? projection = both || config.Architecture.EndsWith("WithProjection", StringComparison.Ordinal) ? config.Count("projection_dim", 512) : null;
        text = config.ModelType == "clip_vision_model" ? null : new TextTower(this, both ? config.Part("text_config") : config, projection);
        vision = config.ModelType == "clip_text_model" ? null : new VisionTower(this, both ? config.Part("vision_config") : config, projection);
        logitScale = both ? Weight(new Place("logit_scale", "logit_scale"), [], Init.Zeros) : null;
        half = Constant(0.5);
        Built();
    }

    /// <summary>config.json.</summary>
    public ModelConfig Config { get; }

    /// <inheritdoc/>
    public override string TransformersClass => Config.Architecture;

    internal static new Clip Load(string folder, Device device, LoadOptions options)
    {
        ModelConfig config = ModelConfig.Read(folder);
        if (options.Classes is not null)
        {
            throw config.Wrong("model_type", config.ModelType, "a model that classifies, where classes are given");
        }
        using TensorSource file = OpenWeights(folder);
        var source = new FileWeights(file, new RandomWeights(new Rng(options.Seed)));
        var model = new Clip(config, device, options, source);
        model.ReadAgainFrom(folder, source.Renewed);
        return model;
    }

    /// <summary>Token ids I32 [rows, tokens], all text, or pixels [rows, channels, size, size] → projected features, pooled ones where there is no projection.</summary>
    /// <exception cref="ShapeException">Another shape, an id out of range, or too many tokens.</exception>
    public override Tensor Forward(Tensor input)
    {
        ClipFeatures features = input.DType == DType.I32 && input.Shape.Rank == 2 ? Texts(new TextBatch(input.Shape[0], input.ToInts())) : Images(input);
        return features.Projected ?? features.Pooled;
    }

    /// <summary>Features of texts.</summary>
    /// <param name="batch">Token ids and what tells text from padding.</param>
    /// <param name="keepHidden">Keep input and output of every layer.</param>
    /// <exception cref="InvalidOperationException">The model has no text tower.</exception>
    /// <exception cref="ShapeException">An id is out of range, or a text has too many tokens.</exception>
    public ClipFeatures Texts(TextBatch batch, bool keepHidden = false) =>
        (text ?? throw new InvalidOperationException($"Clip: {TransformersClass} has no text tower")).Forward(batch, keepHidden);

    /// <summary>Features of images.</summary>
    /// <param name="pixels">[rows, channels, size, size], normalised as the model was trained with.</param>
    /// <param name="keepHidden">Keep input and output of every layer.</param>
    /// <exception cref="InvalidOperationException">The model has no vision tower.</exception>
    /// <exception cref="ShapeException">Another shape than the config says.</exception>
    public ClipFeatures Images(Tensor pixels, bool keepHidden = false) =>
        (vision ?? throw new InvalidOperationException($"Clip: {TransformersClass} has no vision tower")).Forward(pixels, keepHidden);

    /// <summary>x / |x| by rows: what the two towers are compared by.</summary>
    public Tensor Unit(Tensor x) => new Mul().Apply(new RmsNorm(0).Apply(x), Device.Current!.Of([1], [1 / Math.Sqrt(x.Shape.Cols)], DType.ForParameters()));

    /// <summary>e^logit_scale t·vᵀ of unit features, texts [n, p] and images [m, p] → [n, m].</summary>
    /// <exception cref="InvalidOperationException">The model has one tower only.</exception>
    public Tensor Similarity(Tensor texts, Tensor images)
    {
        Parameter scale = logitScale ?? throw new InvalidOperationException($"Clip: {TransformersClass} has one tower, want both to compare");
        return new Mul().Apply(new MatMul(TransposeB: true).Apply(texts, images), new Exp().Apply(scale.Value.Reshape([1])));
    }

    /// <summary>Mean of the cross-entropies of finding the image of each text and the text of each image; similarities [n, n], pairs on the diagonal → [1].</summary>
    public Tensor Loss(Tensor similarities)
    {
        int pairs = similarities.Shape[0];
        Tensor own = Device.Current!.Of([pairs], [.. Enumerable.Range(0, pairs)]);
        Tensor images = new Transpose().Apply(similarities.Reshape([1, pairs, pairs])).Reshape([pairs, pairs]);
        return new Mul().Apply(new Add().Apply(new CrossEntropy().Apply(similarities, own), new CrossEntropy().Apply(images, own)), half);
    }

    /// <inheritdoc/>
    private protected override string ConfigText(DType type) => Config.Write(TransformersClass, type, new Dictionary<string, JsonNode?>());

    private List<TransformerLayer> LayersAt(Place place, ModelConfig config, int d, int heads, int inner, LayerNorm norm, bool causal)
    {
        int count = config.Count("num_attention_heads", heads);
        if (d % count != 0)
        {
            throw config.Wrong("num_attention_heads", count, $"a divisor of hidden_size {d}");
        }
        Op activation = Activation.Of(config.Text("hidden_act", "quick_gelu"), "hidden_act");
        var layers = new List<TransformerLayer>();
        for (int i = 0; i < config.Count("num_hidden_layers", 12, least: 0); i++)
        {
            Place layer = place.At($"encoder.layers.{i}"), self = layer.At("self_attn");
            layers.Add(new TransformerLayer(
                new SelfAttention(this, new AttentionNames(self.At("q_proj"), self.At("k_proj"), self.At("v_proj"), self.At("out_proj")), new AttentionShape(d, count, Bias: true, causal)),
                new Norm(this, layer.At("layer_norm1"), d, norm),
                new FeedForward(this, layer.At("mlp.fc1"), layer.At("mlp.fc2"), d, config.Count("intermediate_size", inner), activation),
                new Norm(this, layer.At("layer_norm2"), d, norm)));
        }
        return layers;
    }

    private Tensor Through(List<TransformerLayer> layers, Tensor h, Tensor? mask, List<Tensor>? hidden)
    {
        var context = new AttentionContext(mask);
        hidden?.Add(h);
        foreach (TransformerLayer layer in layers)
        {
            h = Through(layer, h, context);
            hidden?.Add(h);
        }
        return h;
    }

    private Site? Projection(string name, int d, int? projection) => projection is { } p ? Linear(new Place(name, name), p, d, bias: false) : null;

    private sealed class TextTower
    {
        private readonly Clip model;
        private readonly Site words, positions;
        private readonly Site? projection;
        private readonly List<TransformerLayer> layers;
        private readonly Norm final;
        private readonly int endId;

        public TextTower(Clip model, ModelConfig config, int? projected)
        {
            this.model = model;
            int d = config.Count("hidden_size", 512);
            var norm = new LayerNorm(config.Number("layer_norm_eps", 1e-5));
            var place = new Place("text_model", "text_model");
            words = model.Embedding(place.At("embeddings.token_embedding"), config.Count("vocab_size", 49408), d);
            positions = model.Embedding(place.At("embeddings.position_embedding"), config.Count("max_position_embeddings", 77), d);
            layers = model.LayersAt(place, config, d, 8, 2048, norm, causal: true);
            final = new Norm(model, place.At("final_layer_norm"), d, norm);
            projection = model.Projection("text_projection", d, projected);
            endId = config.Ids("eos_token_id") is [var id, ..] ? id : 49407;
        }

        public ClipFeatures Forward(TextBatch batch, bool keepHidden)
        {
            Scope scope = model.Device.Current ?? throw new InvalidOperationException("Clip: no scope is open; call BeginScope or BeginTape first");
            if (batch.Tokens > positions.Outputs)
            {
                throw new ShapeException($"Clip: a text of {batch.Tokens} tokens, want at most {positions.Outputs}: cut the text");
            }
            Shape shape = [batch.Rows, batch.Tokens];
            Tensor h = new Add().Apply(words.Forward(scope.Of(shape, batch.Ids)), positions.Forward(scope.Of(shape, batch.Positions ?? batch.PlainPositions())));
            List<Tensor>? hidden = keepHidden ? [] : null;
            h = h.DType == model.DType ? h : new Cast(model.DType).Apply(h);
            Tensor last = final.Forward(model.Through(layers, h, batch.Mask is null ? null : scope.Of(shape, batch.Mask), hidden));
            Tensor pooled = model.RowsAt(last, [.. Enumerable.Range(0, batch.Rows).Select(row => (row * batch.Tokens) + End(batch.Ids.AsSpan(row * batch.Tokens, batch.Tokens)))]);
            return new ClipFeatures(last, pooled, projection?.Forward(pooled), hidden ?? []);
        }

        // Configs from before transformers knew the end token say 2 for it: there it is the largest id.
        private int End(ReadOnlySpan<int> ids)
        {
            int end = endId;
            if (end == 2)
            {
                foreach (int id in ids)
                {
                    end = Math.Max(end, id);
                }
            }
            return Math.Max(0, ids.IndexOf(end));
        }
    }

    private sealed class VisionTower
    {
        private readonly Clip model;
        private readonly PatchEmbedding embedding;
        private readonly Site? projection;
        private readonly List<TransformerLayer> layers;
        private readonly Norm before, after;

        public VisionTower(Clip model, ModelConfig config, int? projected)
        {
            this.model = model;
            int d = config.Count("hidden_size", 768), patch = config.Count("patch_size", 32), channels = config.Count("num_channels", 3), size = config.Count("image_size", 224);
            var norm = new LayerNorm(config.Number("layer_norm_eps", 1e-5));
            var place = new Place("vision_model", "vision_model");
            embedding = new PatchEmbedding(
                model,
                model.PatchConvolution(place.At("embeddings.patch_embedding"), d, channels, patch, bias: false),
                model.Weight(place.At("embeddings.class_embedding"), [d]),
                model.Weight(place.At("embeddings.position_embedding.weight"), [(size / patch * (size / patch)) + 1, d]),
                channels,
                size);
            before = new Norm(model, place.At("pre_layrnorm"), d, norm);     // spelled so in the files
            layers = model.LayersAt(place, config, d, 12, 3072, norm, causal: false);
            after = new Norm(model, place.At("post_layernorm"), d, norm);
            projection = model.Projection("visual_projection", d, projected);
        }

        public ClipFeatures Forward(Tensor pixels, bool keepHidden)
        {
            List<Tensor>? hidden = keepHidden ? [] : null;
            Tensor h = before.Forward(embedding.Forward(pixels));
            Tensor last = model.Through(layers, h, null, hidden), pooled = after.Forward(embedding.ClassTokens(last));
            return new ClipFeatures(last, pooled, projection?.Forward(pooled), hidden ?? []);
        }
    }
}
