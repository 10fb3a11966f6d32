using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>Whisper (arXiv 2212.04356): two convolutions and a transformer read a log-mel spectrogram, a decoder writes its words. Norms before each sub-layer,
/// positions from the file, keys without a bias; epsilon of the norms is 1e-5 in its code.</summary>
public sealed class Whisper : EncoderDecoder
{
    private const string WholeClass = "WhisperForConditionalGeneration";
    private static readonly Gelu Between = new();
    private readonly Site first, second, words, positions, head;
    private readonly Parameter places;
    private readonly Tensor? scale;
    private readonly Norm readerNorm, writerNorm;
    private readonly List<TransformerLayer> reader = [], writer = [];

    private Whisper(ModelConfig config, Device device, LoadOptions options, FileWeights source)
        : base(config, device, options, source, config.Number("init_std", 0.02))
    {
        if (config.Architecture != WholeClass)
        {
            throw config.Wrong("architectures", config.Architecture, WholeClass);
        }
        int d = config.Count("d_model", 256), mels = config.Count("num_mel_bins", 80);
        var model = new Place("model", "model");
        Place encoder = model.At("encoder"), decoder = model.At("decoder");
        first = Convolution1d(encoder.At("conv1"), d, mels, 3, stride: 1);
        second = Convolution1d(encoder.At("conv2"), d, d, 3, stride: 2);
        places = Weight(encoder.At("embed_positions.weight"), [SourcePositions, d]);
        Declare(encoder, reader, "encoder", isDecoder: false);
        readerNorm = NormAt(encoder, "layer_norm");
        words = Embedding(decoder.At("embed_tokens"), Vocabulary, d);
        positions = Embedding(decoder.At("embed_positions"), config.Count("max_target_positions", 448), d);
        Declare(decoder, writer, "decoder", isDecoder: true);
        writerNorm = NormAt(decoder, "layer_norm");
        head = Linear(new Place("proj_out", "proj_out"), Vocabulary, d, bias: false, isOutput: true, tied: words.Weight);
        scale = config.Flag("scale_embedding", false) ? Constant(Math.Sqrt(d)) : null;
        source.Ignore(["proj_out."]);       // a copy of the words
        Built();

        Norm NormAt(Place place, string name) => new(this, place.At(name), d, new LayerNorm(1e-5));

        void Declare(Place place, List<TransformerLayer> layers, string kind, bool isDecoder)
        {
            int heads = config.Count($"{kind}_attention_heads", 4), inner = config.Count($"{kind}_ffn_dim", 1536);
            if (d % heads != 0)
            {
                throw config.Wrong($"{kind}_attention_heads", heads, $"a divisor of d_model {d}");
            }
            Op activation = Activation.Of(config.Text("activation_function", "gelu"), "activation_function");
            SelfAttention Attention(Place at, bool causal) =>
                new(this, new AttentionNames(at.At("q_proj"), at.At("k_proj"), at.At("v_proj"), at.At("out_proj")), new AttentionShape(d, heads, Bias: true, causal) { KeyBias = false });
            for (int i = 0; i < config.Count($"{kind}_layers", 4, least: 0); i++)
            {
                Place layer = place.At($"layers.{i}");
                layers.Add(new TransformerLayer(
                    Attention(layer.At("self_attn"), isDecoder),
                    NormAt(layer, "self_attn_layer_norm"),
                    new FeedForward(this, layer.At("fc1"), layer.At("fc2"), d, inner, activation),
                    NormAt(layer, "final_layer_norm"))
                {
                    Across = isDecoder ? (Attention(layer.At("encoder_attn"), causal: false), NormAt(layer, "encoder_attn_layer_norm")) : null,
                });
            }
        }
    }

    /// <inheritdoc/>
    public override string TransformersClass => WholeClass;

    private int SourcePositions => Config.Count("max_source_positions", 1500);

    internal static new Whisper Load(string folder, Device device, LoadOptions options) => (Whisper)Load(folder, options, (config, source) => new Whisper(config, device, options, source));

    /// <summary>A log-mel spectrogram [rows, mels, frames], two frames a position → the encoder's last hidden state [rows, positions, d].</summary>
    /// <exception cref="ShapeException">Another shape or type.</exception>
    public override Tensor Forward(Tensor input) => Encode(input).Last;

    /// <summary>The encoder's pass.</summary>
    /// <param name="features">As <see cref="Forward"/> takes it.</param>
    /// <param name="keepHidden">Keep the embeddings and every layer's output.</param>
    /// <exception cref="ShapeException">Another shape or type.</exception>
    public TextOutput Encode(Tensor features, bool keepHidden = false)
    {
        if (features.Shape.Rank != 3 || features.Shape[1] != first.Weight.Value.Shape[1] || features.Shape[2] != 2 * SourcePositions || features.DType != DType)
        {
            throw new ShapeException($"Whisper: input_features is {features}, want {DType}[rows, {first.Weight.Value.Shape[1]}, {2 * SourcePositions}]");
        }
        Tensor heard = Between.Apply(second.Forward(Between.Apply(first.Forward(features))));      // [rows, d, positions]
        return Run(reader, new Add().Apply(new Transpose().Apply(heard), places), readerNorm, new AttentionContext(null), keepHidden);
    }

    /// <inheritdoc/>
    public override TextOutput Decode(Tensor encoded, Tensor? mask, TextBatch target, bool keepHidden = false)
    {
        target.RequireIds(Vocabulary, this, "decoder_input_ids");
        if (target.Tokens > positions.Outputs)
        {
            throw new ShapeException($"Whisper: a text of {target.Tokens} tokens, want at most {positions.Outputs}: cut the text");
        }
        Scope scope = Device.Current ?? throw new InvalidOperationException("Whisper: no scope is open; call BeginScope or BeginTape first");
        Shape shape = [target.Rows, target.Tokens];
        Tensor h = words.Forward(scope.Of(shape, target.Ids));
        h = new Add().Apply(scale is null ? h : new Mul().Apply(h, scale), positions.Forward(scope.Of(shape, target.PlainPositions())));
        h = h.DType == DType ? h : new Cast(DType).Apply(h);
        TextOutput y = Run(writer, h, writerNorm, new AttentionContext(null) { Memory = encoded, MemoryMask = mask }, keepHidden);
        return y with { Logits = head.Forward(y.Last) };
    }

    /// <summary>Spectrograms → what the decoder writes for each, greedily, the start token first.</summary>
    /// <param name="features">As <see cref="Forward"/> takes it.</param>
    /// <param name="newTokens">Tokens to make at most.</param>
    /// <param name="endIds">Ids that end a text; null: those of config.json.</param>
    /// <param name="observe">Sees the logits [rows, vocabulary] of each step.</param>
    /// <param name="cancellation">Ends the work between two tokens.</param>
    public int[][] Generate(Tensor features, int newTokens = 20, IReadOnlyList<int>? endIds = null, Action<float[]>? observe = null, CancellationToken cancellation = default) =>
        Write(() => Encode(features), null, features.Shape[0], newTokens, endIds, observe, cancellation);
}
