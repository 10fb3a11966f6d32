using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>BERT (arXiv 1810.04805) as Hugging Face lays it out: words, positions and sentence types, norms after each sub-layer, a pooler on token 0.</summary>
public class Bert : TextModel
{
    private readonly Site words, positions, types;
    private readonly Norm norm;
    private readonly Site? project, pooler, classifier, outputDense;
    private readonly MaskedWordsHead? maskedWords;

    internal Bert(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("hidden_size"), heads = config.Count("num_attention_heads"), width = EmbeddingWidth(config, d);
        if (d % heads != 0)
        {
            throw config.Wrong("num_attention_heads", heads, $"a divisor of hidden_size {d}");
        }
        var epsilon = new LayerNorm(config.Number("layer_norm_eps", 1e-12));
        Op activation = Activation.Of(config.Text("hidden_act", "gelu"), "hidden_act");
        Place trunk = Trunk(Prefix), embeddings = trunk.At("embeddings");
        words = Embedding(embeddings.At("word_embeddings"), Vocabulary, width);
        positions = Embedding(embeddings.At("position_embeddings"), config.Count("max_position_embeddings"), width);
        types = Embedding(embeddings.At("token_type_embeddings"), config.Count("type_vocab_size", 2), width);
        norm = new Norm(this, embeddings.At("LayerNorm"), width, epsilon);
        project = width == d ? null : Linear(trunk.At("embeddings_project"), d, width, bias: true);
        Stack(trunk.At("encoder.layer"), "num_hidden_layers", missing: null, (layer, _) =>
        {
            Place self = layer.At("attention.self");
            return new TransformerLayer(
                new SelfAttention(this, new AttentionNames(self.At("query"), self.At("key"), self.At("value"), layer.At("attention.output.dense")), new AttentionShape(d, heads, Bias: true)),
                new Norm(this, layer.At("attention.output.LayerNorm"), d, epsilon),
                new FeedForward(this, layer.At("intermediate.dense"), layer.At("output.dense"), d, config.Count("intermediate_size"), activation),
                new Norm(this, layer.At("output.LayerNorm"), d, epsilon),
                normsAfter: true);
        });
        if (Head is TextHead.None or TextHead.Classifier && HasPooler && source.Has(trunk.At("pooler.dense.weight").File))
        {
            pooler = Linear(trunk.At("pooler.dense"), d, d, bias: true);
        }
        if (Head == TextHead.Classifier)
        {
            outputDense = HasPooler ? null : HeadLinear("classifier.dense", d, d, bias: true, isOutput: false);
            classifier = HeadLinear(HasPooler ? "classifier" : "classifier.out_proj", config.ClassNames.Count, d, bias: true, isOutput: true);
        }
        if (Head == TextHead.MaskedLanguage)
        {
            var head = new Place(LanguageHead, LanguageHead);
            maskedWords = new MaskedWordsHead(this, head.At(LanguageDense), head.At(LanguageNorm), head.At("bias"), words, epsilon, activation);
        }
        BuiltBut("cls.", "lm_head.", trunk.At("pooler.").File);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings") - FirstPosition;

    private protected override string ClassPrefix => "Bert";

    private protected override int PositionLimit => MostTokens + FirstPosition;

    private protected virtual int FirstPosition => 0;

    private protected virtual string Prefix => "bert";

    private protected virtual bool HasPooler => true;

    private protected virtual Op HeadActivation => new Tanh();

    private protected virtual string LanguageHead => "cls.predictions";

    private protected virtual string LanguageDense => "transform.dense";

    private protected virtual string LanguageNorm => "transform.LayerNorm";

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch)
    {
        Tensor kinds = Device.Current!.Of([batch.Rows, batch.Tokens], batch.Types ?? new int[batch.Ids.Length]);
        Tensor sum = new Add().Apply(words.Forward(ids), types.Forward(kinds));
        sum = norm.Forward(new Add().Apply(sum, this.positions.Forward(positions)));
        return project is null ? sum : project.Forward(sum.DType == DType ? sum : new Cast(DType).Apply(sum));
    }

    private protected override Tensor? Pool(Tensor last) => pooler is null ? null : new Tanh().Apply(pooler.Forward(FirstTokens(last)));

    private protected override Tensor ClassLogits(Tensor last, Tensor? pooled, TextBatch batch) =>
        classifier!.Forward(outputDense is null ? pooled ?? FirstTokens(last) : HeadActivation.Apply(outputDense.Forward(FirstTokens(last))));

    private protected override Tensor LanguageLogits(Tensor hidden) => maskedWords!.Forward(hidden);

    private protected virtual int EmbeddingWidth(ModelConfig config, int d) => d;
}

/// <summary>RoBERTa (arXiv 1907.11692): BERT whose positions count the tokens that are no padding from the padding id on, with heads of its own.</summary>
public sealed class Roberta : Bert
{
    internal Roberta(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
    }

    private protected override string ClassPrefix => "Roberta";

    private protected override int FirstPosition => PadId + 1;

    private protected override string Prefix => "roberta";

    private protected override bool HasPooler => Head == TextHead.None;

    private protected override string LanguageHead => "lm_head";

    private protected override string LanguageDense => "dense";

    private protected override string LanguageNorm => "layer_norm";

    private protected override int[] PositionsOf(TextBatch batch)
    {
        var places = new int[batch.Ids.Length];
        for (int i = 0, seen = 0; i < places.Length; i++)
        {
            seen = (i % batch.Tokens == 0 ? 0 : seen) + (batch.Ids[i] == PadId ? 0 : 1);
            places[i] = PadId + (batch.Ids[i] == PadId ? 0 : seen);
        }
        return places;
    }
}
