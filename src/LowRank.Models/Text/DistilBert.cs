using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>DistilBERT (arXiv 1910.01108): BERT's layers under names of its own, without sentence types and pooler; epsilon of the norms is 1e-12 in its code.</summary>
public sealed class DistilBert : TextModel
{
    private readonly Site words, positions;
    private readonly Norm norm;
    private readonly Site? dense, classifier;
    private readonly MaskedWordsHead? maskedWords;

    internal DistilBert(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("dim", 768), heads = config.Count("n_heads", 12);
        if (d % heads != 0)
        {
            throw config.Wrong("n_heads", heads, $"a divisor of dim {d}");
        }
        var epsilon = new LayerNorm(1e-12);
        Op activation = Activation.Of(config.Text("activation", "gelu"), "activation");
        Place trunk = Trunk("distilbert"), embeddings = trunk.At("embeddings");
        words = Embedding(embeddings.At("word_embeddings"), Vocabulary, d);
        positions = Embedding(embeddings.At("position_embeddings"), config.Count("max_position_embeddings", 512), d);
        norm = new Norm(this, embeddings.At("LayerNorm"), d, epsilon);
        Stack(trunk.At("transformer.layer"), "n_layers", missing: 6, (layer, _) =>
        {
            Place self = layer.At("attention");
            return new TransformerLayer(
                new SelfAttention(this, new AttentionNames(self.At("q_lin"), self.At("k_lin"), self.At("v_lin"), self.At("out_lin")), new AttentionShape(d, heads, Bias: true)),
                new Norm(this, layer.At("sa_layer_norm"), d, epsilon),
                new FeedForward(this, layer.At("ffn.lin1"), layer.At("ffn.lin2"), d, config.Count("hidden_dim", 4 * d), activation),
                new Norm(this, layer.At("output_layer_norm"), d, epsilon),
                normsAfter: true);
        });
        if (Head == TextHead.Classifier)
        {
            dense = HeadLinear("pre_classifier", d, d, bias: true, isOutput: false);
            classifier = HeadLinear("classifier", config.ClassNames.Count, d, bias: true, isOutput: true);
        }
        if (Head == TextHead.MaskedLanguage)
        {
            static Place Named(string name) => new(name, name);
            maskedWords = new MaskedWordsHead(this, Named("vocab_transform"), Named("vocab_layer_norm"), Named("vocab_projector.bias"), words, epsilon, activation);
        }
        BuiltBut("vocab_transform.", "vocab_layer_norm.", "vocab_projector.");
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 512);

    private protected override string ClassPrefix => "DistilBert";

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) =>
        norm.Forward(new Add().Apply(words.Forward(ids), this.positions.Forward(positions)));

    private protected override Tensor ClassLogits(Tensor last, Tensor? pooled, TextBatch batch) =>
        classifier!.Forward(new Relu().Apply(dense!.Forward(FirstTokens(last))));

    private protected override Tensor LanguageLogits(Tensor hidden) => maskedWords!.Forward(hidden);
}
