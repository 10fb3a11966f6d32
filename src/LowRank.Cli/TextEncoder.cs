using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>A tokenizer for one model: cuts what is too long and counts it, refuses what the model has no place for.</summary>
/// <param name="tokenizer">Text to ids.</param>
/// <param name="model">Its limits.</param>
/// <param name="asked">Tokens a text may have, as the user says; the model may take fewer.</param>
internal sealed class TextEncoder(Tokenizer tokenizer, TextModel model, int asked)
{
    private int texts, cut;

    /// <summary>Tokens a text may have.</summary>
    public int MaxTokens { get; } = Math.Min(asked, model.MostTokens);

    /// <summary>Ids that end a text of a language model.</summary>
    public IReadOnlyList<int> EndIds { get; } = model.Config.Ids("eos_token_id");

    /// <summary>A limit that the model sets, and how many texts were cut.</summary>
    public IReadOnlyList<string> Warnings =>
    [
        .. asked > MaxTokens ? [$"max-tokens is {asked}; the model takes {MaxTokens}"] : (string[])[],
        .. cut > 0 ? [$"{cut} of {texts} texts have more than {MaxTokens} tokens and were cut"] : (string[])[],
    ];

    /// <summary>Encodes every row, side by side; of several that are wrong the first is named.</summary>
    public static TSample[] All<TSample>(IReadOnlyList<TextRow> rows, Func<TextRow, TSample> encode)
    {
        var samples = new TSample[rows.Count];
        var errors = new ModelFormatException?[rows.Count];
        Parallel.For(0, rows.Count, i =>
        {
            try
            {
                samples[i] = encode(rows[i]);
            }
            catch (ModelFormatException error)
            {
                errors[i] = error;
            }
        });
        if (errors.FirstOrDefault(e => e is not null) is { } first)
        {
            throw new ModelFormatException(first.Message, first) { File = first.File, Key = first.Key };
        }
        return samples;
    }

    /// <summary>A text, or a text and its pair, with the special tokens, cut to the limit.</summary>
    /// <exception cref="ModelFormatException">There is no token, or the model does not know one.</exception>
    public Encoded Encode(string file, TextRow row, string text, string? pair = null)
    {
        TokenEncoding tokens = tokenizer.Encode(text, pair, truncation: new Truncation(MaxTokens));
        Count(tokens.Overflow.Count > 0);
        return new Encoded(Checked(file, row, tokens), tokens.TypeIds);
    }

    /// <summary>Ids of a text at its whole length.</summary>
    /// <exception cref="ModelFormatException">There is no token, or the model does not know one.</exception>
    public int[] Ids(string file, TextRow row, string text, bool special) => Checked(file, row, tokenizer.Encode(text, special: special));

    /// <summary>Counts a text, cut or whole.</summary>
    public void Count(bool isCut)
    {
        Interlocked.Increment(ref texts);
        if (isCut)
        {
            Interlocked.Increment(ref cut);
        }
    }

    /// <summary>The error for a row.</summary>
    public static ModelFormatException Bad(string file, TextRow row, string? column, string what) =>
        new($"{file}: line {row.Line}{(column is null ? "" : $", column {column}")}: {what}") { File = file, Key = column };

    private int[] Checked(string file, TextRow row, TokenEncoding tokens)
    {
        int[] ids = tokens.Ids;
        if (tokens.Tokens.All(t => t.IsAdded))
        {
            throw Bad(file, row, null, "the text has no token, want some text in every row");
        }
        int wrong = Array.FindIndex(ids, id => (uint)id >= (uint)model.Vocabulary);
        return wrong < 0 ? ids : throw Bad(file, row, null, $"the tokenizer gives id {ids[wrong]}, want 0 .. {model.Vocabulary - 1} as the model has: tokenizer and model belong to different models");
    }
}

/// <summary>An encoded text.</summary>
/// <param name="Ids">Token ids.</param>
/// <param name="Types">Which of two texts each belongs to.</param>
internal sealed record Encoded(int[] Ids, int[] Types)
{
    /// <summary>Texts side by side.</summary>
    public static TextBatch Batch(IEnumerable<Encoded> texts, TextModel model) =>
        TextBatch.Pad([.. texts.Select(t => t.Ids)], model.PadId, types: [.. texts.Select(t => t.Types)]);
}
