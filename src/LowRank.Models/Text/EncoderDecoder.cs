using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>An encoder that reads and a decoder that writes what the encoder's last hidden state asks for.</summary>
public abstract class EncoderDecoder : PretrainedModel
{
    private protected EncoderDecoder(ModelConfig config, Device device, LoadOptions options, WeightSource source, double initializerRange)
        : base(device, options.Type, source, options.Pack, initializerRange)
    {
        Config = config;
    }

    /// <summary>config.json.</summary>
    public ModelConfig Config { get; }

    /// <inheritdoc/>
    public abstract override string TransformersClass { get; }

    /// <summary>Number of token ids.</summary>
    public int Vocabulary => Config.Count("vocab_size");

    /// <summary>Id that fills short rows.</summary>
    public int PadId => Config.Ids("pad_token_id") is [var id, ..] ? id : 0;

    /// <summary>Id that a decoder's text begins with.</summary>
    public int StartId => Config.Ids("decoder_start_token_id") is [var id, ..] ? id : PadId;

    /// <summary>What the decoder sees so that it writes <paramref name="labels"/> [rows, tokens]: the start, then all but the last label; -100 becomes padding.</summary>
    /// <exception cref="ShapeException">Labels do not fill the rows.</exception>
    public TextBatch Shifted(ReadOnlySpan<int> labels, int rows)
    {
        if (rows < 1 || labels.Length == 0 || labels.Length % rows != 0)
        {
            throw new ShapeException($"{GetType().Name}: labels has {labels.Length} entries for {rows} rows, want as many in each row and at least one");
        }
        int tokens = labels.Length / rows;
        var ids = new int[labels.Length];
        for (int i = 0; i < ids.Length; i++)
        {
            ids[i] = i % tokens == 0 ? StartId : labels[i - 1] == -100 ? PadId : labels[i - 1];
        }
        return new TextBatch(rows, ids);
    }

    /// <summary>The decoder's pass over texts that begin with <see cref="StartId"/> → logits [rows, tokens, vocabulary], hidden states where asked for.</summary>
    /// <param name="encoded">The encoder's last hidden state [rows, other tokens, d].</param>
    /// <param name="mask">U8 [rows, other tokens], 0 bars a token; or null.</param>
    /// <param name="target">Token ids.</param>
    /// <param name="keepHidden">Keep the embeddings and every layer's output.</param>
    /// <exception cref="ShapeException">An id is out of range, or the rows differ.</exception>
    public abstract TextOutput Decode(Tensor encoded, Tensor? mask, TextBatch target, bool keepHidden = false);

    /// <summary>Writes greedily: the best token each time; a row that met an end id is filled with padding until all have ended.</summary>
    private protected int[][] Write(Func<TextOutput> encode, byte[]? mask, int rows, int newTokens, IReadOnlyList<int>? endIds, Action<float[]>? observe, CancellationToken cancellation)
    {
        IReadOnlyList<int> ends = endIds ?? Config.Ids("eos_token_id");
        using Scope kept = Device.NewStore();
        Tensor encoded;
        using (Device.BeginScope())
        {
            encoded = encode().Last.CopyTo(kept);
        }
        Tensor? seen = mask is null ? null : kept.Of([rows, mask.Length / rows], mask);
        List<int>[] made = [.. Enumerable.Range(0, rows).Select(_ => new List<int> { StartId })];
        var ended = new bool[rows];
        for (int step = 0; step < newTokens && ended.Contains(false); step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = Device.BeginScope();
            Tensor logits = Decode(encoded, seen, new TextBatch(rows, [.. made.SelectMany(m => m)])).Logits!;
            float[] last = RowsAt(logits, [.. Enumerable.Range(1, rows).Select(row => (row * (step + 1)) - 1)]).ToArray();
            observe?.Invoke(last);
            for (int row = 0; row < rows; row++)
            {
                made[row].Add(ended[row] ? PadId : TextGeneration.Best(last.AsSpan(row * Vocabulary, Vocabulary)));
                ended[row] |= ends.Contains(made[row][^1]);
            }
        }
        return [.. made.Select(m => m.ToArray())];
    }

    private protected static PretrainedModel Load(string folder, LoadOptions options, Func<ModelConfig, FileWeights, EncoderDecoder> create)
    {
        ModelConfig config = ModelConfig.Read(folder);
        if (options.Classes is not null)
        {
            throw config.Wrong("model_type", config.ModelType, "a model that classifies, where classes are given");
        }
        using TensorSource file = OpenWeights(folder);
        var source = new FileWeights(file, new RandomWeights(new Rng(options.Seed)));
        EncoderDecoder model = create(config, source);
        model.ReadAgainFrom(folder, source.Renewed);
        return model;
    }

    /// <summary>Runs layers and their final norm. Where hidden states are kept, the last is that after the norm, as transformers counts it.</summary>
    private protected static TextOutput Run(List<TransformerLayer> layers, Tensor h, Norm norm, AttentionContext context, bool keepHidden)
    {
        List<Tensor> hidden = keepHidden ? [h] : [];
        foreach (TransformerLayer layer in layers)
        {
            h = layer.Forward(h, context);
            if (keepHidden)
            {
                hidden.Add(h);
            }
        }
        Tensor last = norm.Forward(h);
        if (keepHidden)
        {
            hidden[^1] = last;
        }
        return new TextOutput(last, null, null, hidden);
    }

    /// <inheritdoc/>
    private protected override string ConfigText(DType type) => Config.Write(TransformersClass, type, new Dictionary<string, System.Text.Json.Nodes.JsonNode?>());
}
