using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>How new tokens are chosen.</summary>
public sealed record GenerationOptions
{
    /// <summary>Tokens to make at most.</summary>
    public int MaxNewTokens { get; init; } = 20;

    /// <summary>0 takes the best token; above, tokens are drawn from softmax(logits / Temperature).</summary>
    public double Temperature { get; init; }

    /// <summary>Draw among the K best only; 0: all.</summary>
    public int TopK { get; init; }

    /// <summary>Draw among the best tokens that together have this probability; 1: all (arXiv 1904.09751).</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Ids that end a text; null: those of config.json; empty: none.</summary>
    public IReadOnlyList<int>? EndIds { get; init; }

    /// <summary>Seed of the draws.</summary>
    public ulong Seed { get; init; }
}

/// <summary>Text after text: a decoder continues prompts, token by token, with a cache of keys and values.</summary>
public static class TextGeneration
{
    /// <summary>Continues every prompt. Rows of different length are padded on the left.</summary>
    /// <param name="model">A decoder with a language head.</param>
    /// <param name="prompts">Token ids of each text.</param>
    /// <param name="options">How tokens are chosen.</param>
    /// <param name="observe">Sees the logits [rows, vocabulary] of each step, row by row, before a token is chosen.</param>
    /// <param name="cancellation">Ends the work between two tokens.</param>
    /// <returns>The new tokens of each row; a row that met an end id is filled with the padding id until all have ended.</returns>
    /// <exception cref="ShapeException">A prompt is empty, or prompt and new tokens pass the model's limit.</exception>
    /// <exception cref="InvalidOperationException">The model has no language head.</exception>
    public static int[][] Generate(this TextModel model, IReadOnlyList<int[]> prompts, GenerationOptions? options = null, Action<float[]>? observe = null, CancellationToken cancellation = default)
    {
        options ??= new();
        model.RequireLanguageHead("Generate");
        TextBatch batch = TextBatch.Pad(prompts, model.PadId, PaddingSide.Left);
        if (options.MaxNewTokens < 0 || batch.Tokens + options.MaxNewTokens > model.MostTokens)
        {
            throw new ShapeException($"Generate: {batch.Tokens} prompt tokens and {options.MaxNewTokens} new ones, want at most {model.MostTokens} together");
        }
        if (options.Temperature < 0 || options.TopK < 0 || options.TopP is <= 0 or > 1)
        {
            throw new ShapeException($"Generate: Temperature {options.Temperature}, TopK {options.TopK}, TopP {options.TopP}, want 0 or more, 0 or more, and above 0 to 1");
        }
        IReadOnlyList<int> ends = options.EndIds ?? model.Config.Ids("eos_token_id");
        var made = new List<int>[batch.Rows];
        for (int row = 0; row < made.Length; row++)
        {
            made[row] = [];
        }
        var ended = new bool[batch.Rows];
        var rng = new Rng(options.Seed);
        int[] positions = batch.CountedPositions();
        int[] next = [.. Enumerable.Range(1, batch.Rows).Select(row => positions[(row * batch.Tokens) - 1])];
        batch = new TextBatch(batch.Rows, batch.Ids, batch.Mask, positions: positions);
        using var cache = new KeyValueCache(model.Device, batch.Rows, batch.Tokens + Math.Max(1, options.MaxNewTokens));
        for (int step = 0; step < options.MaxNewTokens && !ended.All(e => e); step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            float[] logits = model.NextLogits(batch, cache).ToArray();
            observe?.Invoke(logits);
            var ids = new int[batch.Rows];
            for (int row = 0; row < batch.Rows; row++)
            {
                ids[row] = ended[row] ? model.PadId : Choose(logits.AsSpan(row * model.Vocabulary, model.Vocabulary), options, rng);
                made[row].Add(ids[row]);
                ended[row] |= ends.Contains(ids[row]);
                next[row]++;
            }
            batch = new TextBatch(batch.Rows, ids, positions: [.. next]);
        }
        return [.. made.Select(m => m.ToArray())];
    }

    /// <summary>The first of the largest logits.</summary>
    internal static int Best(ReadOnlySpan<float> logits)
    {
        int best = 0;
        for (int i = 1; i < logits.Length; i++)
        {
            best = logits[i] > logits[best] ? i : best;
        }
        return best;
    }

    private static int Choose(ReadOnlySpan<float> logits, GenerationOptions options, Rng rng)
    {
        int best = Best(logits);
        if (options.Temperature == 0)
        {
            return best;
        }
        var order = new int[logits.Length];
        var weights = new double[logits.Length];
        for (int i = 0; i < order.Length; i++)
        {
            order[i] = i;
            weights[i] = -Math.Exp((logits[i] - logits[best]) / options.Temperature);   // negative: the sort ascends
        }
        Array.Sort(weights, order);
        int kept = options.TopK > 0 ? Math.Min(options.TopK, order.Length) : order.Length;
        double total = 0, all = -weights.AsSpan(0, kept).ToArray().Sum();
        for (int i = 0; i < kept; i++)
        {
            total -= weights[i];
            if (total >= options.TopP * all)
            {
                kept = i + 1;
            }
        }
        Span<double> draw = [0];
        rng.FillUniform(draw, 0, total);
        double at = draw[0];
        for (int i = 0; i < kept; i++)
        {
            at += weights[i];
            if (at < 0)
            {
                return order[i];
            }
        }
        return order[kept - 1];
    }
}
