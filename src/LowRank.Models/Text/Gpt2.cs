using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>GPT-2 as Hugging Face lays it out: learned positions, norms before each sub-layer, one projection for queries, keys and values, matrices stored
/// as [in, out], head tied to the words unless the config says otherwise.</summary>
public sealed class Gpt2 : TextModel
{
    private readonly Site words, positions;

    internal Gpt2(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("n_embd", 768), heads = config.Count("n_head", 12), inner = config.Count("n_inner", 4 * d);
        if (d % heads != 0)
        {
            throw config.Wrong("n_head", heads, $"a divisor of n_embd {d}");
        }
        var epsilon = new LayerNorm(config.Number("layer_norm_epsilon", 1e-5));
        Op activation = Activation.Of(config.Text("activation_function", "gelu_new"), "activation_function");
        Place trunk = Trunk("transformer");
        words = Embedding(trunk.At("wte"), Vocabulary, d);
        positions = Embedding(trunk.At("wpe"), MostTokens, d);
        Stack(trunk.At("h"), "n_layer", missing: 12, (layer, i) =>
        {
            double scale = (config.Flag("scale_attn_weights", true) ? 1 / Math.Sqrt(d / heads) : 1) / (config.Flag("scale_attn_by_inverse_layer_idx", false) ? i + 1 : 1);
            return new TransformerLayer(
                new SelfAttention(this, new AttentionNames(default, default, default, layer.At("attn.c_proj")) { Fused = layer.At("attn.c_attn") }, new AttentionShape(d, heads, Bias: true, Causal: true) { Scale = scale }, transposed: true),
                new Norm(this, layer.At("ln_1"), d, epsilon),
                new FeedForward(this, layer.At("mlp.c_fc"), layer.At("mlp.c_proj"), d, inner, activation, transposed: true),
                new Norm(this, layer.At("ln_2"), d, epsilon));
        });
        FinalNorm = new Norm(this, trunk.At("ln_f"), d, epsilon);
        BuiltAsDecoder("lm_head", d, config.Flag("tie_word_embeddings", true) ? words.Weight : null);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("n_positions", 1024);

    private protected override string ClassPrefix => "GPT2";

    private protected override string CausalSuffix => "LMHeadModel";

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) => new Add().Apply(words.Forward(ids), this.positions.Forward(positions));
}
