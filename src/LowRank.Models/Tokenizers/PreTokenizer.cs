using System.Text;
using System.Text.RegularExpressions;

namespace LowRank.Models.Tokenizers;

/// <summary>The pre_tokenizer of tokenizer.json: cuts normalised text into the pieces that the model sees one by one.</summary>
internal static partial class PreTokenizer
{
    /// <summary>Cuts a list of pieces into smaller ones.</summary>
    public delegate List<AlignedText> Cut(List<AlignedText> pieces);

    /// <summary>What becomes of a match when text is cut at it.</summary>
    private enum Behavior
    {
        Removed,
        Isolated,
        MergedWithPrevious,
        MergedWithNext,
        Contiguous,
    }

    public static Cut Read(JsonPart part)
    {
        if (part.IsNull)
        {
            return pieces => pieces;
        }
        switch (part.Type)
        {
            case "Sequence":
                Cut[] all = [.. part.At("pretokenizers").Items().Select(Read)];
                return pieces => all.Aggregate(pieces, (p, cut) => cut(p));
            case "BertPreTokenizer":
                return pieces => Each(Each(pieces, p => Split(p, Runs(p, Unicode.IsWhiteSpace, single: true), Behavior.Removed)), p => Split(p, Runs(p, Unicode.IsPunctuation, single: true), Behavior.Isolated));
            case "WhitespaceSplit":
                return pieces => Each(pieces, p => Split(p, Runs(p, Unicode.IsWhiteSpace, single: true), Behavior.Removed));
            case "Whitespace":
                return pieces => Each(pieces, p => Split(p, Normalizer.Matches(Words(), p), Behavior.Removed, invert: true));
            case "Punctuation":
                Behavior around = Read(part, Behavior.Isolated);
                return pieces => Each(pieces, p => Split(p, Runs(p, Unicode.IsPunctuation, single: true), around));
            case "Digits":
                bool single = part.Flag("individual_digits");
                return pieces => Each(pieces, p => Split(p, Runs(p, IsNumeric, single), Behavior.Isolated));
            case "Split":
                (Regex pattern, Behavior behavior, bool invert) = (Normalizer.Pattern(part.At("pattern")), Read(part, null), part.Flag("invert"));
                return pieces => Each(pieces, p => Split(p, Normalizer.Matches(pattern, p), behavior, invert));
            case "ByteLevel":
                bool prefix = part.Flag("add_prefix_space", true), regex = part.Flag("use_regex", true);
                return pieces => Bytes(pieces, prefix, regex);
            case "Metaspace":
                string mark = part.Text("replacement"), scheme = part.Text("prepend_scheme", part.Flag("add_prefix_space", true) ? "always" : "never");
                bool cut = part.Flag("split", true);
                return pieces => Each(pieces, p => Metaspace(p, mark, scheme, cut));
            default:
                throw part.UnknownType("Sequence", "BertPreTokenizer", "WhitespaceSplit", "Whitespace", "Punctuation", "Digits", "Split", "ByteLevel", "Metaspace");
        }
    }

    /// <summary>The letter that stands for a byte in a byte-level vocabulary.</summary>
    public static int LetterOf(byte b) => ByteLetters[b];

    /// <summary>The byte that a letter stands for, or null.</summary>
    public static byte? ByteOf(int rune) => LetterBytes.TryGetValue(rune, out byte b) ? b : null;

    private static readonly int[] ByteLetters = MakeLetters();
    private static readonly Dictionary<int, byte> LetterBytes = Enumerable.Range(0, 256).ToDictionary(b => ByteLetters[b], b => (byte)b);

    private static int[] MakeLetters()
    {
        var letters = new int[256];
        for (int b = 0, next = 0x100; b < 256; b++)
        {
            letters[b] = b is (>= 33 and <= 126) or (>= 161 and <= 172) or >= 174 ? b : next++;
        }
        return letters;
    }

    private static List<AlignedText> Bytes(List<AlignedText> pieces, bool prefix, bool regex)
    {
        if (prefix)
        {
            foreach (AlignedText piece in pieces)
            {
                if (piece.Count > 0 && piece[0].Rune != ' ')
                {
                    piece.Prepend(" ");
                }
            }
        }
        if (regex)
        {
            pieces = Each(pieces, p => Split(p, Normalizer.Matches(Gpt2(), p), Behavior.Isolated));
        }
        Span<byte> utf8 = stackalloc byte[4];
        foreach (AlignedText piece in pieces)
        {
            piece.Map(static (rune, to) =>
            {
                Span<byte> bytes = stackalloc byte[4];
                foreach (byte b in bytes[..new Rune(rune).EncodeToUtf8(bytes)])
                {
                    to.Add(ByteLetters[b]);
                }
            });
        }
        return pieces;
    }

    private static List<AlignedText> Metaspace(AlignedText piece, string mark, string scheme, bool cut)
    {
        int rune = char.ConvertToUtf32(mark, 0);
        bool atStart = piece.Count > 0 && piece[0].Start == 0;
        piece.Map((r, to) => to.Add(r == ' ' ? rune : r));
        if (piece.Count > 0 && piece[0].Rune != rune && (scheme == "always" || (scheme == "first" && atStart)))
        {
            piece.Prepend(mark);
        }
        return cut ? Split(piece, Runs(piece, r => r == rune, single: true), Behavior.MergedWithNext) : [piece];
    }

    private static List<AlignedText> Each(List<AlignedText> pieces, Func<AlignedText, List<AlignedText>> cut) => [.. pieces.SelectMany(cut)];

    /// <summary>Stretches of letters for which a test holds; each letter alone where <paramref name="single"/>.</summary>
    private static IEnumerable<(int Start, int End)> Runs(AlignedText text, Func<int, bool> test, bool single)
    {
        for (int i = 0; i < text.Count; i++)
        {
            if (test(text[i].Rune))
            {
                int start = i;
                while (!single && i + 1 < text.Count && test(text[i + 1].Rune))
                {
                    i++;
                }
                yield return (start, i + 1);
            }
        }
    }

    private static List<AlignedText> Split(AlignedText text, IEnumerable<(int Start, int End)> matches, Behavior behavior, bool invert = false)
    {
        List<(int Start, int End, bool Match)> parts = [];
        int done = 0;
        foreach ((int start, int end) in matches)
        {
            if (start > done)
            {
                parts.Add((done, start, invert));
            }
            parts.Add((start, end, !invert));
            done = end;
        }
        if (done < text.Count)
        {
            parts.Add((done, text.Count, invert));
        }
        return [.. Merge(parts, behavior).Where(p => p.End > p.Start).Select(p => text.Slice(p.Start, p.End))];
    }

    private static IEnumerable<(int Start, int End)> Merge(List<(int Start, int End, bool Match)> parts, Behavior behavior)
    {
        switch (behavior)
        {
            case Behavior.Removed:
                return parts.Where(p => !p.Match).Select(p => (p.Start, p.End));
            case Behavior.Isolated:
                return parts.Select(p => (p.Start, p.End));
        }
        List<(int Start, int End)> joined = [];
        bool open = false;      // the last part takes the next one up
        foreach ((int start, int end, bool match) in parts)
        {
            bool joins = behavior switch
            {
                Behavior.MergedWithPrevious => match && open,
                Behavior.MergedWithNext => !match && open,
                _ => match == open && joined.Count > 0,
            };
            if (joins)
            {
                joined[^1] = (joined[^1].Start, end);
            }
            else
            {
                joined.Add((start, end));
            }
            open = behavior == Behavior.MergedWithPrevious ? !match : match;
        }
        return joined;
    }

    private static Behavior Read(JsonPart part, Behavior? missing) => part.Text("behavior", missing?.ToString()) switch
    {
        "Removed" => Behavior.Removed,
        "Isolated" => Behavior.Isolated,
        "MergedWithPrevious" => Behavior.MergedWithPrevious,
        "MergedWithNext" => Behavior.MergedWithNext,
        "Contiguous" => Behavior.Contiguous,
        _ => throw part.At("behavior").Wrong("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous"),
    };

    private static bool IsNumeric(int rune) => Unicode.Category(rune) is System.Globalization.UnicodeCategory.DecimalDigitNumber or System.Globalization.UnicodeCategory.LetterNumber or System.Globalization.UnicodeCategory.OtherNumber;

    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", RegexOptions.CultureInvariant)]
    private static partial Regex Gpt2();

    [GeneratedRegex(@"\w+|[^\w\s]+", RegexOptions.CultureInvariant)]
    private static partial Regex Words();
}
