using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>GPT-NeoX (arXiv 2204.06745), Pythia: one projection that holds query, key and value head by head, the first channels of each head turned by position,
/// attention and feed-forward side by side or after each other, head of its own.</summary>
public sealed class GptNeoX : TextModel
{
    private readonly Site words;

    internal GptNeoX(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        int d = config.Count("hidden_size"), heads = config.Count("num_attention_heads");
        if (d % heads != 0)
        {
            throw config.Wrong("num_attention_heads", heads, $"a divisor of hidden_size {d}");
        }
        bool bias = config.Flag("attention_bias", true), parallel = config.Flag("use_parallel_residual", true);
        var epsilon = new LayerNorm(config.Number("layer_norm_eps", 1e-5));
        Op activation = Activation.Of(config.Text("hidden_act", "gelu"), "hidden_act");
        var angles = new RotaryAngles(config, d / heads, device, DType);
        Place trunk = Trunk("gpt_neox");
        words = Embedding(trunk.At("embed_in"), Vocabulary, d);
        Stack(trunk.At("layers"), "num_hidden_layers", missing: null, (layer, _) =>
        {
            Place attention = layer.At("attention"), mlp = layer.At("mlp");
            return new TransformerLayer(
                new SelfAttention(
                    this,
                    new AttentionNames(default, default, default, attention.At("dense")) { Fused = attention.At("query_key_value"), ByHead = true },
                    new AttentionShape(d, heads, bias, Causal: true) { OutputBias = bias, Rotary = angles }),
                new Norm(this, layer.At("input_layernorm"), d, epsilon),
                new FeedForward(this, mlp.At("dense_h_to_4h"), mlp.At("dense_4h_to_h"), d, config.Count("intermediate_size"), activation),
                new Norm(this, layer.At("post_attention_layernorm"), d, epsilon))
            {
                IsParallel = parallel,
            };
        });
        FinalNorm = new Norm(this, trunk.At("final_layer_norm"), d, epsilon);
        BuiltAsDecoder("embed_out", d, config.Flag("tie_word_embeddings", false) ? words.Weight : null);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 2048);

    private protected override string ClassPrefix => "GPTNeoX";

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) => words.Forward(ids);
}
