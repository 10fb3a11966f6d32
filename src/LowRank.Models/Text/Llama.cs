using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>Llama (arXiv 2302.13971) and the models that differ from it in a few switches: Mistral (every layer windowed), Qwen2 (biases on queries, keys and
/// values; windows from a layer on), Qwen3 (heads of queries and keys normed), Phi-3 (one projection for queries, keys and values, one for gate and up; every layer
/// windowed), Mixtral (a mixture of feed-forwards). Rotary positions, grouped heads, gated feed-forward, RMSNorm before each sub-layer.</summary>
public sealed class Llama : TextModel
{
    private static readonly Dictionary<string, string> ClassPrefixes = new(StringComparer.Ordinal) { ["llama"] = "Llama", ["mistral"] = "Mistral", ["qwen2"] = "Qwen2", ["qwen3"] = "Qwen3", ["phi3"] = "Phi3", ["mixtral"] = "Mixtral" };
    private readonly Site words;

    internal Llama(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        string kind = config.ModelType;
        int d = config.Count("hidden_size"), heads = config.Count("num_attention_heads"), kvHeads = config.Count("num_key_value_heads", heads);
        if (heads % kvHeads != 0)
        {
            throw config.Wrong("num_key_value_heads", kvHeads, $"a divisor of num_attention_heads {heads}");
        }
        if (!config.Has("head_dim") && d % heads != 0)
        {
            throw config.Wrong("num_attention_heads", heads, $"a divisor of hidden_size {d}");
        }
        int headDim = config.Count("head_dim", d / heads);
        bool bias = kind is not ("mistral" or "phi3" or "mixtral") && config.Flag("attention_bias", false);
        var epsilon = new RmsNorm(config.Number("rms_norm_eps", 1e-6));
        Op activation = Activation.Gated(config.Text("hidden_act", "silu"), "hidden_act");
        bool fused = kind == "phi3";
        var angles = new RotaryAngles(config, headDim, device, DType);
        Place trunk = Trunk("model");
        words = Embedding(trunk.At("embed_tokens"), Vocabulary, d);
        Stack(trunk.At("layers"), "num_hidden_layers", missing: null, (layer, i) =>
        {
            Place self = layer.At("self_attn"), mlp = layer.At("mlp");
            return new TransformerLayer(
                new SelfAttention(
                    this,
                    new AttentionNames(self.At("q_proj"), self.At("k_proj"), self.At("v_proj"), self.At("o_proj")) { Fused = fused ? self.At("qkv_proj") : null, QueryNorm = self.At("q_norm"), KeyNorm = self.At("k_norm") },
                    new AttentionShape(d, heads, Bias: bias || kind == "qwen2", Causal: true)
                    {
                        HeadDim = headDim,
                        KvHeads = kvHeads,
                        OutputBias = bias && kind != "qwen2",
                        Window = Window(config, i),
                        Rotary = angles,
                        HeadNorm = kind == "qwen3" ? epsilon.Epsilon : null,
                    }),
                new Norm(this, layer.At("input_layernorm"), d, epsilon),
                kind == "mixtral" ? Experts(layer.At("block_sparse_moe"), d, activation) : new FeedForward(
                    this,
                    mlp.At(fused ? "gate_up_proj" : "up_proj"),
                    mlp.At("down_proj"),
                    d,
                    config.Count("intermediate_size"),
                    activation,
                    kind == "llama" && config.Flag("mlp_bias", false),
                    gate: fused ? null : mlp.At("gate_proj"),
                    fused: fused),
                new Norm(this, layer.At("post_attention_layernorm"), d, epsilon));
        });
        FinalNorm = new Norm(this, trunk.At("norm"), d, epsilon);
        BuiltAsDecoder("lm_head", d, config.Flag("tie_word_embeddings", false) ? words.Weight : null);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 2048);

    private protected override string ClassPrefix => ClassPrefixes[Config.ModelType];

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) => words.Forward(ids);

    private MixtureOfExperts Experts(Place place, int d, Op activation)
    {
        int count = Config.Count("num_local_experts", 8), active = Config.Count("num_experts_per_tok", 2);
        return active <= count ? new(this, place, d, Config.Count("intermediate_size"), count, active, activation)
            : throw Config.Wrong("num_experts_per_tok", active, $"at most num_local_experts {count}");
    }

    private static int Window(ModelConfig config, int layer)
    {
        bool windowed = config.ModelType switch
        {
            "mistral" or "phi3" or "mixtral" => true,
            "qwen2" or "qwen3" => config.Texts("layer_types") is { } kinds ? kinds.ElementAtOrDefault(layer) == "sliding_attention"
                : config.Flag("use_sliding_window", false) && layer >= config.Count("max_window_layers", 28, least: 0),
            _ => false,
        };
        return windowed && config.Has("sliding_window") ? config.Count("sliding_window") : 0;
    }
}
