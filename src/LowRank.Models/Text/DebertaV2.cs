using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>DeBERTa, second and third version (arXiv 2006.03654, 2111.09543), as Hugging Face lays it out: BERT's layers with disentangled attention over plain
/// or logarithmic distances, embeddings zero at padding, perhaps a convolution beside the first layer.</summary>
public sealed class DebertaV2 : TextModel
{
    private readonly Site words;
    private readonly Site? positions, types, project, pooler, classifier;
    private readonly Parameter table;
    private readonly Norm norm;
    private readonly Norm? tableNorm;
    private readonly MaskedWordsHead? maskedWords;
    private readonly Op poolerActivation;
    private readonly int heads, span;

    internal DebertaV2(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("hidden_size"), narrow = config.Count("embedding_size", d);
        heads = config.Count("num_attention_heads");
        if (d % heads != 0)
        {
            throw config.Wrong("num_attention_heads", heads, $"a divisor of hidden_size {d}");
        }
        IReadOnlyList<string> terms = Terms(config);
        if (!config.Flag("relative_attention", false) || terms.Count == 0 || terms.Except(["c2p", "p2c"]).Any())
        {
            throw config.Wrong("pos_att_type", string.Join('|', terms), "c2p, p2c or both, with relative_attention true");
        }
        var epsilon = new LayerNorm(config.Number("layer_norm_eps", 1e-7));
        Op activation = Activation.Of(config.Text("hidden_act", "gelu"), "hidden_act");
        poolerActivation = Activation.Of(config.Text("pooler_hidden_act", "gelu"), "pooler_hidden_act");
        Place trunk = Trunk("deberta"), embeddings = trunk.At("embeddings"), encoder = trunk.At("encoder");
        words = Embedding(embeddings.At("word_embeddings"), Vocabulary, narrow);
        positions = config.Flag("position_biased_input", true) ? Embedding(embeddings.At("position_embeddings"), MostTokens, narrow) : null;
        int kinds = config.Count("type_vocab_size", 0, least: 0);
        types = kinds > 0 ? Embedding(embeddings.At("token_type_embeddings"), kinds, narrow) : null;
        project = narrow == d ? null : Linear(embeddings.At("embed_proj"), d, narrow, bias: false);
        norm = new Norm(this, embeddings.At("LayerNorm"), d, epsilon);
        int buckets = Whole(config, "position_buckets", -1);
        span = buckets > 0 ? buckets : Farthest(config);
        table = Weight(encoder.At("rel_embeddings.weight"), [2 * span, d]);
        tableNorm = config.Text("norm_rel_ebd", "none").Contains("layer_norm", StringComparison.Ordinal) ? new Norm(this, encoder.At("LayerNorm"), d, epsilon) : null;
        Stack(encoder.At("layer"), "num_hidden_layers", missing: null, (layer, i) => new TransformerLayer(
            new DisentangledAttention(this, layer.At("attention"), d, heads, config.Flag("share_att_key", false), terms.Contains("c2p"), terms.Contains("p2c")),
            new Norm(this, layer.At("attention.output.LayerNorm"), d, epsilon),
            new FeedForward(this, layer.At("intermediate.dense"), layer.At("output.dense"), d, config.Count("intermediate_size"), activation),
            new Norm(this, layer.At("output.LayerNorm"), d, epsilon),
            normsAfter: true)
        {
            Beside = i == 0 && config.Count("conv_kernel_size", 0, least: 0) is > 0 and var size ? Convolution(encoder.At("conv"), d, size, epsilon) : null,
        });
        if (Head == TextHead.Classifier)
        {
            pooler = HeadLinear("pooler.dense", config.Count("pooler_hidden_size", d), d, bias: true, isOutput: false);
            classifier = HeadLinear("classifier", config.ClassNames.Count, pooler.Outputs, bias: true, isOutput: true);
        }
        if (Head == TextHead.MaskedLanguage)
        {
            var head = new Place("cls.predictions", "cls.predictions");
            maskedWords = config.Flag("legacy", true) && narrow == d ? new MaskedWordsHead(this, head.At("transform.dense"), head.At("transform.LayerNorm"), head.At("bias"), words, epsilon, activation)
                : throw config.Wrong("legacy", "false, or embedding_size unlike hidden_size", "the head of the first files for masked words: legacy true and both sizes one");
        }
        BuiltBut("cls.", "lm_predictions.", "mask_predictions.", "pooler.");
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 512);

    private protected override string ClassPrefix => "DebertaV2";

    /// <summary>The bucket of a distance: itself up to half the buckets, then by its logarithm, the sign kept.</summary>
    public static int Bucket(int distance, int buckets, int farthest)
    {
        int half = buckets / 2, size = Math.Abs(distance);
        return size <= half ? distance : Math.Sign(distance) * (half + (int)Math.Ceiling(Math.Log((double)size / half) / Math.Log((double)(farthest - 1) / half) * (half - 1)));
    }

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch)
    {
        Scope scope = Device.Current!;
        Tensor sum = words.Forward(ids);
        sum = this.positions is null ? sum : new Add().Apply(sum, this.positions.Forward(positions));
        sum = types is null ? sum : new Add().Apply(sum, types.Forward(scope.Of([batch.Rows, batch.Tokens], batch.Types ?? new int[batch.Ids.Length])));
        sum = project is null ? sum : project.Forward(Typed(sum));
        return RelativePlaces.Masked(norm.Forward(sum), RelativePlaces.TextOf(scope, batch, DType.ForParameters()));
    }

    private protected override AttentionContext Prepared(AttentionContext context, TextBatch batch)
    {
        int buckets = Whole(Config, "position_buckets", -1), farthest = Farthest(Config);
        int Place(int distance) => Math.Clamp((buckets > 0 ? Bucket(distance, buckets, farthest) : distance) + span, 0, (2 * span) - 1);
        Tensor rows = Typed(tableNorm is null ? table.Value : tableNorm.Forward(table));
        return context with { Relative = RelativePlaces.Of(Device.Current!, rows, batch, heads, Place) };
    }

    private protected override Tensor ClassLogits(Tensor last, Tensor? pooled, TextBatch batch) => classifier!.Forward(poolerActivation.Apply(pooler!.Forward(FirstTokens(last))));

    private protected override Tensor LanguageLogits(Tensor hidden) => maskedWords!.Forward(hidden);

    private ConvolutionBranch Convolution(Place place, int d, int size, LayerNorm epsilon) => size % 2 == 1 && Config.Count("conv_groups", 1) == 1
        ? new(this, place, d, size, Activation.Of(Config.Text("conv_act", "tanh"), "conv_act"), epsilon)
        : throw Config.Wrong("conv_kernel_size", size, "an odd number, with conv_groups 1");

    private Tensor Typed(Tensor x) => x.DType == DType ? x : new Cast(DType).Apply(x);

    private static int Whole(ModelConfig config, string key, int missing) => (int)config.Number(key, missing);

    private static int Farthest(ModelConfig config) => Whole(config, "max_relative_positions", -1) is >= 1 and var most ? most : config.Count("max_position_embeddings", 512);

    // A list, or "c2p|p2c" in older files
    private static IReadOnlyList<string> Terms(ModelConfig config)
    {
        try
        {
            return config.Texts("pos_att_type") ?? [];
        }
        catch (Formats.ModelFormatException)
        {
            return config.Text("pos_att_type", "").Split('|', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        }
    }
}
