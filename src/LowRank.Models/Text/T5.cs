using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>T5 (arXiv 1910.10683; gated feed-forwards and a head of its own as in 1.1, 2002.05202): relative positions as a bias that all layers of a stack share,
/// RMSNorm before each sub-layer, scores without a factor, no biases; or its encoder alone.</summary>
public sealed class T5 : EncoderDecoder
{
    private const string WholeClass = "T5ForConditionalGeneration", EncoderClass = "T5EncoderModel";
    private readonly Site words;
    private readonly Site? head;
    private readonly Tensor? headScale;
    private readonly Tower encoder;
    private readonly Tower? decoder;

    private T5(ModelConfig config, Device device, LoadOptions options, FileWeights source)
        : base(config, device, options, source, config.Number("initializer_factor", 1))
    {
        bool alone = config.Architecture == EncoderClass;
        if (!alone && config.Architecture != WholeClass)
        {
            throw config.Wrong("architectures", config.Architecture, $"{WholeClass} or {EncoderClass}");
        }
        TransformersClass = config.Architecture;
        int d = config.Count("d_model", 512);
        words = Embedding(new Place("shared", "shared"), Vocabulary, d);
        encoder = new Tower(this, "encoder", config.Count("num_layers", 6), isDecoder: false);
        if (!alone)
        {
            decoder = new Tower(this, "decoder", config.Count("num_decoder_layers", config.Count("num_layers", 6)), isDecoder: true);
            head = Linear(new Place("lm_head", "lm_head"), Vocabulary, d, bias: false, isOutput: true, tied: source.Has("lm_head.weight") ? null : words.Weight);
            headScale = config.Flag("scale_decoder_outputs", config.Flag("tie_word_embeddings", true)) ? Constant(1 / Math.Sqrt(d)) : null;
        }
        source.Ignore(["encoder.embed_tokens.", "decoder.embed_tokens.", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias."]);     // copies, and what older files hold for nothing
        source.Ignore(alone ? ["decoder.", "lm_head."] : []);
        Built();
    }

    /// <inheritdoc/>
    public override string TransformersClass { get; }

    /// <summary>The bucket of a key <paramref name="r"/> places after the query; a causal one sees no key after it.</summary>
    public static int Bucket(int r, int buckets, int most, bool causal)
    {
        int count = causal ? buckets : buckets / 2, first = !causal && r > 0 ? count : 0, distance = causal ? Math.Max(-r, 0) : Math.Abs(r), exact = count / 2;
        return first + (distance < exact ? distance
            : Math.Min(count - 1, exact + (int)(Math.Log((double)distance / exact) / Math.Log((double)most / exact) * (count - exact))));
    }

    internal static new T5 Load(string folder, Device device, LoadOptions options) => (T5)Load(folder, options, (config, source) => new T5(config, device, options, source));

    /// <summary>Token ids I32 [rows, tokens], all text → the encoder's last hidden state [rows, tokens, d].</summary>
    /// <exception cref="ShapeException">Another type or shape, or an id out of range.</exception>
    public override Tensor Forward(Tensor input) => input.Shape.Rank == 2 && input.DType == DType.I32
        ? Encode(new TextBatch(input.Shape[0], input.ToInts())).Last
        : throw new ShapeException($"T5: input_ids is {input}, want I32 [rows, tokens]");

    /// <summary>The encoder's pass.</summary>
    /// <param name="batch">Token ids and what tells text from padding.</param>
    /// <param name="keepHidden">Keep the embeddings and every layer's output.</param>
    /// <exception cref="ShapeException">An id is out of range.</exception>
    public TextOutput Encode(TextBatch batch, bool keepHidden = false)
    {
        batch.RequireIds(Vocabulary, this, "input_ids");
        return encoder.Read(Words(batch), new AttentionContext(MaskOf(batch)), keepHidden);
    }

    /// <inheritdoc/>
    public override TextOutput Decode(Tensor encoded, Tensor? mask, TextBatch target, bool keepHidden = false)
    {
        if (decoder is null)
        {
            throw new InvalidOperationException($"T5: {TransformersClass} has no decoder, want {WholeClass}");
        }
        target.RequireIds(Vocabulary, this, "decoder_input_ids");
        TextOutput y = decoder.Read(Words(target), new AttentionContext(MaskOf(target)) { Memory = encoded, MemoryMask = mask }, keepHidden);
        return y with { Logits = head!.Forward(headScale is null ? y.Last : new Mul().Apply(y.Last, headScale)) };
    }

    /// <summary>Texts → what the decoder writes for each, greedily, the start token first.</summary>
    /// <param name="batch">What the encoder reads.</param>
    /// <param name="newTokens">Tokens to make at most.</param>
    /// <param name="endIds">Ids that end a text; null: those of config.json.</param>
    /// <param name="observe">Sees the logits [rows, vocabulary] of each step.</param>
    /// <param name="cancellation">Ends the work between two tokens.</param>
    public int[][] Generate(TextBatch batch, int newTokens = 20, IReadOnlyList<int>? endIds = null, Action<float[]>? observe = null, CancellationToken cancellation = default) =>
        Write(() => Encode(batch), batch.Mask, batch.Rows, newTokens, endIds, observe, cancellation);

    /// <summary>U8 [rows, tokens] of a batch in the current scope, or null where all is text.</summary>
    public Tensor? MaskOf(TextBatch batch) => batch.Mask is null ? null : Device.Current!.Of([batch.Rows, batch.Tokens], batch.Mask);

    private Tensor Words(TextBatch batch)
    {
        Scope scope = Device.Current ?? throw new InvalidOperationException("T5: no scope is open; call BeginScope or BeginTape first");
        Tensor h = words.Forward(scope.Of([batch.Rows, batch.Tokens], batch.Ids));
        return h.DType == DType ? h : new Cast(DType).Apply(h);
    }

    /// <summary>Encoder or decoder.</summary>
    private sealed class Tower
    {
        private readonly List<TransformerLayer> layers = [];
        private readonly Norm final;
        private readonly RelativeBias bias;

        public Tower(T5 model, string name, int count, bool isDecoder)
        {
            ModelConfig config = model.Config;
            int d = config.Count("d_model", 512), heads = config.Count("num_heads", 8), headDim = config.Count("d_kv", 64), inner = config.Count("d_ff", 2048);
            var norm = new RmsNorm(config.Number("layer_norm_epsilon", 1e-6));
            string kind = config.Text("feed_forward_proj", "relu");
            bool gated = kind.StartsWith("gated-", StringComparison.Ordinal);
            // gated-gelu has stood for the GELU by tanh since the first files
            Op activation = gated ? Activation.Gated(kind == "gated-gelu" ? "gelu_new" : kind["gated-".Length..], "feed_forward_proj") : Activation.Of(kind, "feed_forward_proj");
            var shape = new AttentionShape(d, heads, Bias: false, Causal: isDecoder) { HeadDim = headDim, OutputBias = false, Scale = 1 };
            var stack = new Place(name, name);
            for (int i = 0; i < count; i++)
            {
                Place block = stack.At($"block.{i}"), self = block.At("layer.0.SelfAttention"), across = block.At("layer.1.EncDecAttention"), last = block.At(isDecoder ? "layer.2" : "layer.1"), mlp = last.At("DenseReluDense");
                SelfAttention Attention(Place at, AttentionShape of) => new(model, new AttentionNames(at.At("q"), at.At("k"), at.At("v"), at.At("o")), of);
                layers.Add(new TransformerLayer(
                    Attention(self, shape),
                    new Norm(model, block.At("layer.0.layer_norm"), d, norm),
                    new FeedForward(model, mlp.At(gated ? "wi_1" : "wi"), mlp.At("wo"), d, inner, activation, bias: false, gate: gated ? mlp.At("wi_0") : null),
                    new Norm(model, last.At("layer_norm"), d, norm))
                {
                    Across = isDecoder ? (Attention(across, shape with { Causal = false }), new Norm(model, block.At("layer.1.layer_norm"), d, norm)) : null,
                });
            }
            bias = new RelativeBias(model, stack.At("block.0.layer.0.SelfAttention.relative_attention_bias"), config.Count("relative_attention_num_buckets", 32), config.Count("relative_attention_max_distance", 128), heads, isDecoder);
            final = new Norm(model, stack.At("final_layer_norm"), d, norm);
        }

        public TextOutput Read(Tensor h, AttentionContext context, bool keepHidden) => Run(layers, h, final, context with { Bias = bias.Of(h.Shape[1]) }, keepHidden);
    }
}
