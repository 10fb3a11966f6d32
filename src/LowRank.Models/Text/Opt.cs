using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>OPT (arXiv 2205.01068): learned positions that count the tokens of the text and begin at row 2 of their table, norms before each sub-layer or, in the
/// size of 350 M, after it; where words are narrower than layers, a projection on either side.</summary>
public sealed class Opt : TextModel
{
    private const int FirstPosition = 2;
    private readonly Site words, positions;
    private readonly Site? projectIn, projectOut;

    internal Opt(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("hidden_size"), heads = config.Count("num_attention_heads"), narrow = config.Count("word_embed_proj_dim", d);
        if (d % heads != 0)
        {
            throw config.Wrong("num_attention_heads", heads, $"a divisor of hidden_size {d}");
        }
        if (!config.Flag("layer_norm_elementwise_affine", true))
        {
            throw config.Wrong("layer_norm_elementwise_affine", "false", "true");
        }
        bool bias = config.Flag("enable_bias", true), before = config.Flag("do_layer_norm_before", true);
        var epsilon = new LayerNorm(1e-5);
        Op activation = Activation.Of(config.Text("activation_function", "relu"), "activation_function");
        Place trunk = Trunk("model").At("decoder");
        words = Embedding(trunk.At("embed_tokens"), Vocabulary, narrow);
        positions = Embedding(trunk.At("embed_positions"), MostTokens + FirstPosition, d);
        projectIn = narrow == d ? null : Linear(trunk.At("project_in"), d, narrow, bias: false);
        projectOut = narrow == d ? null : Linear(trunk.At("project_out"), narrow, d, bias: false);
        Stack(trunk.At("layers"), "num_hidden_layers", missing: null, (layer, _) =>
        {
            Place self = layer.At("self_attn");
            return new TransformerLayer(
                new SelfAttention(
                    this,
                    new AttentionNames(self.At("q_proj"), self.At("k_proj"), self.At("v_proj"), self.At("out_proj")),
                    new AttentionShape(d, heads, bias, Causal: true) { OutputBias = bias }),
                new Norm(this, layer.At("self_attn_layer_norm"), d, epsilon),
                new FeedForward(this, layer.At("fc1"), layer.At("fc2"), d, config.Count("ffn_dim"), activation, bias),
                new Norm(this, layer.At("final_layer_norm"), d, epsilon),
                normsAfter: !before);
        });
        FinalNorm = before && !config.Flag("_remove_final_layer_norm", false) ? new Norm(this, trunk.At("final_layer_norm"), d, epsilon) : null;
        BuiltAsDecoder("lm_head", narrow, config.Flag("tie_word_embeddings", true) ? words.Weight : null);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 2048);

    private protected override string ClassPrefix => "OPT";

    private protected override int[] PositionsOf(TextBatch batch) => batch.CountedPositions();

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch)
    {
        int[] rows = [.. (batch.Positions ?? PositionsOf(batch)).Select(p => p + FirstPosition)];
        Tensor x = words.Forward(ids);
        return new Add().Apply(projectIn?.Forward(x) ?? x, this.positions.Forward(Device.Current!.Of(positions.Shape, rows)));
    }

    private protected override Tensor Finish(Tensor h)
    {
        h = base.Finish(h);
        return projectOut?.Forward(h) ?? h;
    }
}
