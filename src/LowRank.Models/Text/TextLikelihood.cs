namespace LowRank.Models;

/// <summary>How well a decoder foretells a text.</summary>
public static class TextLikelihood
{
    private const int Rows = 16;
    private static readonly int Ignored = new CrossEntropy().Ignore;

    /// <summary>Mean of -log₂ p(token | the tokens before it) over all tokens but the first: bits a token, bits a byte where a token is one. The text is read in
    /// windows that overlap by half, and a token counts in the first that holds it, so that all but the first window's see half a window or more.</summary>
    /// <param name="model">A decoder with a language head.</param>
    /// <param name="ids">The text.</param>
    /// <param name="window">Tokens that the model sees at once; 0: as many as it can.</param>
    /// <param name="cancellation">Ends the work between two batches.</param>
    /// <exception cref="ShapeException">There are fewer than two tokens, the window is too long, or an id is out of range.</exception>
    /// <exception cref="InvalidOperationException">The model has no language head.</exception>
    public static double BitsPerToken(this TextModel model, ReadOnlySpan<int> ids, int window = 0, CancellationToken cancellation = default)
    {
        model.RequireLanguageHead("BitsPerToken");
        window = window == 0 ? model.MostTokens : window;
        if (ids.Length < 2 || window < 2 || window > model.MostTokens)
        {
            throw new ShapeException($"BitsPerToken: ids has {ids.Length} tokens and window is {window}, want at least 2 and 2 .. {model.MostTokens}");
        }
        int tokens = Math.Min(window, ids.Length - 1), step = Math.Max(1, tokens / 2), last = ids.Length - 1 - tokens;
        int[] starts = [.. Enumerable.Range(0, ((last + step - 1) / step) + 1).Select(i => Math.Min(i * step, last))];
        double nats = 0;
        for (int first = 0, done = 0; first < starts.Length; first += Rows)
        {
            cancellation.ThrowIfCancellationRequested();
            int rows = Math.Min(Rows, starts.Length - first), counted = 0;
            var inputs = new int[rows * tokens];
            var labels = new int[inputs.Length];
            for (int row = 0; row < rows; row++)
            {
                int start = starts[first + row];
                ids.Slice(start, tokens).CopyTo(inputs.AsSpan(row * tokens));
                for (int t = 0; t < tokens; t++)
                {
                    bool isNew = start + t >= done;
                    labels[(row * tokens) + t] = isNew ? ids[start + t + 1] : Ignored;
                    counted += isNew ? 1 : 0;
                }
                done = start + tokens;
            }
            using Scope scope = model.Device.BeginScope();
            nats += counted * model.NextWordLoss(new TextBatch(rows, inputs), labels).Item();
        }
        return nats / (ids.Length - 1) / Math.Log(2);
    }
}
