using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>Llama (arXiv 2302.13971) and the models that differ from it in a few switches: Mistral (every layer windowed), Qwen2 (biases on queries, keys and
/// values; windows from a layer on), Qwen3 (heads of queries and keys normed). Rotary positions, grouped heads, gated feed-forward, RMSNorm before each sub-layer.</summary>
public sealed class Llama : TextModel
{
    private static readonly Dictionary<string, string> ClassPrefixes = new(StringComparer.Ordinal) { ["llama"] = "Llama", ["mistral"] = "Mistral", ["qwen2"] = "Qwen2", ["qwen3"] = "Qwen3" };
    private readonly Site words;
    private readonly Site? head;
    private readonly RotaryAngles angles;

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
        bool bias = kind != "mistral" && config.Flag("attention_bias", false);
        var epsilon = new RmsNorm(config.Number("rms_norm_eps", 1e-6));
        Op activation = Activation.Gated(config.Text("hidden_act", "silu"), "hidden_act");
        angles = new RotaryAngles(config, headDim, device, DType);
        Place trunk = Trunk("model");
        words = Embedding(trunk.At("embed_tokens"), Vocabulary, d);
        Stack(trunk.At("layers"), "num_hidden_layers", missing: null, (layer, i) =>
        {
            Place self = layer.At("self_attn"), mlp = layer.At("mlp");
            return new TransformerLayer(
                new SelfAttention(
                    this,
                    new AttentionNames(self.At("q_proj"), self.At("k_proj"), self.At("v_proj"), self.At("o_proj")) { QueryNorm = self.At("q_norm"), KeyNorm = self.At("k_norm") },
                    new AttentionShape(d, heads, Bias: bias || kind == "qwen2", Causal: true)
                    {
                        HeadDim = headDim,
                        KvHeads = kvHeads,
                        OutputBias = bias && kind != "qwen2",
                        Window = Window(config, i),
                        Rotary = true,
                        HeadNorm = kind == "qwen3" ? epsilon.Epsilon : null,
                    }),
                new Norm(this, layer.At("input_layernorm"), d, epsilon),
                new FeedForward(this, mlp.At("up_proj"), mlp.At("down_proj"), d, config.Count("intermediate_size"), activation, kind == "llama" && config.Flag("mlp_bias", false), gate: mlp.At("gate_proj")),
                new Norm(this, layer.At("post_attention_layernorm"), d, epsilon));
        });
        FinalNorm = new Norm(this, trunk.At("norm"), d, epsilon);
        head = Head switch
        {
            TextHead.Classifier => HeadLinear("score", config.ClassNames.Count, d, bias: false, isOutput: true),
            TextHead.CausalLanguage => Linear(new Place("lm_head", "lm_head"), Vocabulary, d, bias: false, isOutput: true, tied: config.Flag("tie_word_embeddings", false) ? words.Weight : null),
            _ => null,
        };
        BuiltBut("lm_head.");
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 2048);

    private protected override string ClassPrefix => ClassPrefixes[Config.ModelType];

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) => words.Forward(ids);

    private protected override Tensor? Angles(int positions) => angles.Table(positions);

    private protected override Tensor ClassLogits(Tensor last, Tensor? pooled, TextBatch batch) => head!.Forward(LastTokens(last, batch));

    private protected override Tensor LanguageLogits(Tensor hidden) => head!.Forward(hidden);

    private static int Window(ModelConfig config, int layer)
    {
        bool windowed = config.ModelType switch
        {
            "mistral" => true,
            "qwen2" or "qwen3" => config.Texts("layer_types") is { } kinds ? kinds.ElementAtOrDefault(layer) == "sliding_attention"
                : config.Flag("use_sliding_window", false) && layer >= config.Count("max_window_layers", 28, least: 0),
            _ => false,
        };
        return windowed && config.Has("sliding_window") ? config.Count("sliding_window") : 0;
    }
}
