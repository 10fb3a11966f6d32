namespace LowRank.Models;

/// <summary>One token of an encoded text.</summary>
/// <param name="Id">Its number.</param>
/// <param name="Text">As the vocabulary spells it; the text itself for tokens found as they stand.</param>
/// <param name="Start">First code point of the original that it stands for.</param>
/// <param name="End">Code point after the last; 0, 0 for tokens that no text stands behind.</param>
/// <param name="Word">Which piece of the text it is part of; null for added ones.</param>
/// <param name="Type">Type id: which sentence.</param>
/// <param name="IsAdded">Added by the template or as padding.</param>
/// <param name="IsPadding">Padding, which the model must not look at.</param>
/// <param name="Sequence">0 the text, 1 its pair; null for added ones.</param>
public readonly record struct Token(int Id, string Text, int Start, int End, int? Word, int Type, bool IsAdded = false, bool IsPadding = false, int? Sequence = null);

/// <summary>An encoded text, or pair of texts.</summary>
public sealed class TokenEncoding
{
    internal TokenEncoding(IReadOnlyList<Token> tokens, IReadOnlyList<TokenEncoding> overflow, string text, string? pair)
    {
        (Tokens, Overflow, Text, Pair) = (tokens, overflow, text, pair);
        Ids = [.. tokens.Select(t => t.Id)];
    }

    /// <summary>Token ids.</summary>
    public int[] Ids { get; }

    /// <summary>The tokens one by one.</summary>
    public IReadOnlyList<Token> Tokens { get; }

    /// <summary>Further windows, where truncation cut something off.</summary>
    public IReadOnlyList<TokenEncoding> Overflow { get; }

    /// <summary>The text that was encoded.</summary>
    public string Text { get; }

    /// <summary>The second text, or null.</summary>
    public string? Pair { get; }

    /// <summary>1 for tokens that the model looks at, 0 for padding.</summary>
    public byte[] AttentionMask => [.. Tokens.Select(t => t.IsPadding ? (byte)0 : (byte)1)];

    /// <summary>Type ids.</summary>
    public int[] TypeIds => [.. Tokens.Select(t => t.Type)];

    /// <summary>The tokens' places as units of UTF-16, as .NET strings count, in the text or pair they come from.</summary>
    public (int Start, int End)[] CharOffsets
    {
        get
        {
            int[] first = Units(Text), second = Units(Pair ?? "");
            return [.. Tokens.Select(t => t.Sequence == 1 ? (second[t.Start], second[t.End]) : (first[t.Start], first[t.End]))];
        }
    }

    private static int[] Units(string text)
    {
        List<int> units = [0];
        foreach (System.Text.Rune rune in text.EnumerateRunes())
        {
            units.Add(units[^1] + rune.Utf16SequenceLength);
        }
        return [.. units];
    }
}

/// <summary>Which text gives way when a pair is too long.</summary>
public enum TruncationStrategy
{
    /// <summary>The longer one.</summary>
    LongestFirst,
    /// <summary>The first.</summary>
    OnlyFirst,
    /// <summary>The second.</summary>
    OnlySecond,
}

/// <summary>Cuts encodings to a length.</summary>
/// <param name="MaxTokens">Tokens at most, those of the template included.</param>
/// <param name="Stride">Tokens that a further window shares with the one before.</param>
/// <param name="Strategy">Which of two texts gives way.</param>
/// <param name="FromLeft">Cuts at the beginning and keeps the end.</param>
public sealed record Truncation(int MaxTokens, int Stride = 0, TruncationStrategy Strategy = TruncationStrategy.LongestFirst, bool FromLeft = false);

/// <summary>Fills encodings up.</summary>
/// <param name="Id">Id of the padding token.</param>
/// <param name="Token">Its text.</param>
/// <param name="Length">Length to reach; null: the longest of the batch.</param>
/// <param name="MultipleOf">Rounds the length up.</param>
/// <param name="Side">Where it goes.</param>
public sealed record Padding(int Id, string Token = "[PAD]", int? Length = null, int MultipleOf = 1, PaddingSide Side = PaddingSide.Right);
