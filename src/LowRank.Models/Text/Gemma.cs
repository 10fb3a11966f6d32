using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>Gemma 2 (arXiv 2408.00118) and the text part of Gemma 3 (2503.19786): norms that multiply by 1 + weight before each sub-layer and of what it adds,
/// embeddings times √d, scores over √query_pre_attn_scalar, layers with and without a window in turn. Gemma 2 caps scores and logits softly; Gemma 3 norms the
/// heads of queries and keys and has rotary frequencies of its own for windowed layers.</summary>
public sealed class Gemma : TextModel
{
    private readonly Site words;
    private readonly Tensor scale;

    internal Gemma(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        if (config.Flag("use_bidirectional_attention", false))
        {
            throw config.Wrong("use_bidirectional_attention", "true", "false");
        }
        int d = config.Count("hidden_size"), heads = config.Count("num_attention_heads"), kvHeads = config.Count("num_key_value_heads", heads), headDim = config.Count("head_dim", 256);
        if (heads % kvHeads != 0)
        {
            throw config.Wrong("num_key_value_heads", kvHeads, $"a divisor of num_attention_heads {heads}");
        }
        bool bias = config.Flag("attention_bias", false);
        var epsilon = new RmsNorm(config.Number("rms_norm_eps", 1e-6));
        Op activation = Activation.Gated(config.Text("hidden_activation", "gelu_pytorch_tanh"), "hidden_activation");
        (RotaryAngles whole, RotaryAngles windowed) = Angles(config, headDim, device);
        Place trunk = Trunk("model");
        words = Embedding(trunk.At("embed_tokens"), Vocabulary, d);
        scale = Constant(Math.Sqrt(d));
        Stack(trunk.At("layers"), "num_hidden_layers", missing: null, (layer, i) =>
        {
            Place self = layer.At("self_attn"), mlp = layer.At("mlp");
            int window = IsWindowed(config, i) ? config.Count("sliding_window", 4096) : 0;
            return new TransformerLayer(
                new SelfAttention(
                    this,
                    new AttentionNames(self.At("q_proj"), self.At("k_proj"), self.At("v_proj"), self.At("o_proj")) { QueryNorm = self.At("q_norm"), KeyNorm = self.At("k_norm") },
                    new AttentionShape(d, heads, bias, Causal: true)
                    {
                        HeadDim = headDim,
                        KvHeads = kvHeads,
                        OutputBias = bias,
                        Window = window,
                        Rotary = window > 0 ? windowed : whole,
                        HeadNorm = IsThird(config) ? epsilon.Epsilon : null,
                        HeadNormFromOne = true,
                        Scale = 1 / Math.Sqrt(config.Number("query_pre_attn_scalar", 256)),
                        SoftCap = Cap(config, "attn_logit_softcapping"),
                    }),
                NormAt(layer, "input_layernorm"),
                new FeedForward(this, mlp.At("up_proj"), mlp.At("down_proj"), d, config.Count("intermediate_size"), activation, bias: false, gate: mlp.At("gate_proj")),
                NormAt(layer, "pre_feedforward_layernorm"))
            {
                AfterAttention = NormAt(layer, "post_attention_layernorm"),
                AfterMlp = NormAt(layer, "post_feedforward_layernorm"),
            };
        });
        FinalNorm = NormAt(trunk, "norm");
        BuiltAsDecoder("lm_head", d, config.Flag("tie_word_embeddings", true) ? words.Weight : null);

        Norm NormAt(Place place, string name) => new(this, place.At(name), d, epsilon, fromOne: true);
    }

    /// <inheritdoc/>
    public override int MostTokens => Config.Count("max_position_embeddings", 8192);

    private protected override string ClassPrefix => !IsThird(Config) ? "Gemma2" : Head == TextHead.CausalLanguage ? "Gemma3" : "Gemma3Text";

    private protected override double LogitCap => Cap(Config, "final_logit_softcapping");

    private protected override Tensor Embed(Tensor ids, Tensor positions, TextBatch batch) => new Mul().Apply(words.Forward(ids), scale);

    private static bool IsThird(ModelConfig config) => config.ModelType == "gemma3_text";

    private static double Cap(ModelConfig config, string key) => config.Has(key) ? config.Number(key) : 0;

    private static bool IsWindowed(ModelConfig config, int layer) => config.Texts("layer_types") is { } kinds
        ? kinds.ElementAtOrDefault(layer) == "sliding_attention"
        : (layer + 1) % (IsThird(config) ? config.Count("sliding_window_pattern", 6) : 2) != 0;

    private (RotaryAngles Whole, RotaryAngles Windowed) Angles(ModelConfig config, int headDim, Device device)
    {
        RotaryAngles Of(JsonObject? parameters) => new(config, headDim, device, DType, parameters);
        if (!IsThird(config))
        {
            RotaryAngles all = Of(null);
            return (all, all);
        }
        return config.Object("rope_parameters") is { } kinds
            ? (Of(kinds["full_attention"] as JsonObject), Of(kinds["sliding_attention"] as JsonObject))
            : (Of(null), Of(new JsonObject { ["rope_theta"] = config.Number("rope_local_base_freq", 10000) }));
    }
}
