using System.Buffers;
using System.Collections.Concurrent;

namespace LowRank.Models.Tokenizers;

/// <summary>Tokens of the words met before. Where a tokenizer treats what lies between spaces for itself, a text is cut there first, and a word that comes
/// again costs a look-up. Safe from several threads.</summary>
internal sealed class WordMemo
{
    private const int MostKept = 1 << 16, LongestKept = 64;
    private static readonly SearchValues<char> Spaces = SearchValues.Create(' ', '\n');

    /// <summary>Patterns of published tokenizers (Llama 3, Qwen 2): no piece holds a space behind another character, none depends on what stands before it.</summary>
    private static readonly string[] Leading =
    [
        .. new[] { @"\p{N}{1,3}", @"\p{N}" }.Select(digits => @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + @"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    ];

    private readonly ConcurrentDictionary<string, Word> kept = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, Word>.AlternateLookup<ReadOnlySpan<char>> lookup;
    private readonly Func<string, (List<Token> Tokens, int Words)> encode;
    private readonly bool spacesLead;
    private int count;

    private WordMemo(Func<string, (List<Token> Tokens, int Words)> encode, bool spacesLead)
    {
        (this.encode, this.spacesLead) = (encode, spacesLead);
        lookup = kept.GetAlternateLookup<ReadOnlySpan<char>>();
    }

    /// <summary>The tokens of a stretch, their places counted from its beginning; its pieces and its code points.</summary>
    private sealed record Word(Token[] Tokens, int Pieces, int Letters);

    /// <summary>What a pre-tokenizer does at a single space between other characters.</summary>
    private enum Space
    {
        /// <summary>Nothing.</summary>
        Passes,
        /// <summary>It begins a piece, whatever stands before it.</summary>
        Leads,
        /// <summary>It parts two pieces and belongs to neither; so does the end of a line.</summary>
        Parts,
    }

    /// <summary>A memo over <paramref name="encode"/>, or null where the parts of a tokenizer look across spaces.</summary>
    public static WordMemo? Over(Func<string, (List<Token> Tokens, int Words)> encode, JsonPart normalizer, JsonPart preTokenizer, AddedTokens added) =>
        !added.HideAcrossSpaces && IsWordwise(normalizer) && At(preTokenizer) is { } space and not Space.Passes ? new(encode, space == Space.Leads) : null;

    /// <summary>The tokens of a text.</summary>
    public List<Token> Tokens(string text)
    {
        List<Token> tokens = new(text.Length / 4);
        int letters = 0, pieces = 0;
        for (int at = 0; at < text.Length;)
        {
            if (!spacesLead && Spaces.Contains(text[at]))
            {
                (at, letters) = (at + 1, letters + 1);
                continue;
            }
            int end = spacesLead ? NextSpace(text, at) : text.AsSpan(at).IndexOfAny(Spaces) is >= 0 and var length ? at + length : text.Length;
            Word word = Find(text.AsSpan(at, end - at));
            foreach (Token token in word.Tokens)
            {
                tokens.Add(token with { Start = token.Start + letters, End = token.End + letters, Word = token.Word + pieces });
            }
            (at, letters, pieces) = (end, letters + word.Letters, pieces + word.Pieces);
        }
        return tokens;
    }

    /// <summary>True where a normalizer treats what stands before and after a space alike whether or not the other is there.</summary>
    private static bool IsWordwise(JsonPart normalizer) => normalizer.IsNull || normalizer.Type switch
    {
        "BertNormalizer" or "Lowercase" or "NFC" or "NFD" or "NFKC" or "NFKD" or "StripAccents" or "Nmt" or "Precompiled" => true,
        "Replace" => normalizer.At("pattern").Text("Regex", "") == " {2,}",     // a single space is none of these
        "Sequence" => normalizer.At("normalizers").Items().All(IsWordwise),
        _ => false,
    };

    private static Space? At(JsonPart preTokenizer)
    {
        switch (preTokenizer.IsNull ? "" : preTokenizer.Type)
        {
            case "Sequence":
                Space?[] all = [.. preTokenizer.At("pretokenizers").Items().Select(At)];
                return all.Contains(null) ? null : all.FirstOrDefault(s => s != Space.Passes) ?? Space.Passes;
            case "BertPreTokenizer" or "Whitespace" or "WhitespaceSplit":
                return Space.Parts;
            case "ByteLevel":      // a space put before a text is put before its first word
                return preTokenizer.Flag("use_regex", true) ? Space.Leads : Space.Passes;
            case "Metaspace" when preTokenizer.Flag("split", true) && preTokenizer.Text("prepend_scheme", "always") != "first":     // of pieces the first alone would have a mark
                return Space.Leads;
            case "Digits":
                return Space.Passes;
            case "Split" when preTokenizer.Text("behavior", "") == "Isolated" && !preTokenizer.Flag("invert") && Leading.Contains(preTokenizer.At("pattern").Text("Regex", "")):
                return Space.Leads;
            default:
                return null;
        }
    }

    /// <summary>Where the next word begins whose space is its own: a single one between characters of ASCII that are no space.</summary>
    private static int NextSpace(string text, int from)
    {
        static bool IsPlain(char c) => c is > ' ' and <= '~';
        for (int at = from + 1; at + 1 < text.Length; at++)
        {
            int next = text.AsSpan(at).IndexOf(' ');
            if (next < 0 || at + next + 1 >= text.Length)
            {
                break;
            }
            at += next;
            if (IsPlain(text[at - 1]) && IsPlain(text[at + 1]))
            {
                return at;
            }
        }
        return text.Length;
    }

    private Word Find(ReadOnlySpan<char> text)
    {
        if (text.Length > LongestKept)
        {
            return Encode(text.ToString());
        }
        if (!lookup.TryGetValue(text, out Word? word))
        {
            string key = text.ToString();
            word = Encode(key);
            if (Interlocked.Increment(ref count) > MostKept)
            {
                kept.Clear();
                count = 1;
            }
            kept[key] = word;
        }
        return word;
    }

    private Word Encode(string text)
    {
        (List<Token> tokens, int pieces) = encode(text);
        int letters = 0;
        foreach (System.Text.Rune _ in text.EnumerateRunes())
        {
            letters++;
        }
        return new Word([.. tokens], pieces, letters);
    }
}
