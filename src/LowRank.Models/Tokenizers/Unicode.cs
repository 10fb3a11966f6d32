using System.Globalization;
using System.IO.Compression;
using System.Runtime.InteropServices;

namespace LowRank.Models.Tokenizers;

/// <summary>Facts about code points, the same on every machine: .NET's own normalisation needs ICU, which a small install lacks.</summary>
internal static class Unicode
{
    private const int HangulBase = 0xAC00, LeadBase = 0x1100, VowelBase = 0x1161, TailBase = 0x11A7, Vowels = 21, Tails = 28, Syllables = 11172;
    private static readonly Lazy<Tables> Data = new(() => new Tables());

    public static UnicodeCategory Category(int rune) => CharUnicodeInfo.GetUnicodeCategory(rune);

    public static bool IsWhiteSpace(int rune) => System.Text.Rune.IsValid(rune) && System.Text.Rune.IsWhiteSpace(new System.Text.Rune(rune));

    /// <summary>Categories C*.</summary>
    public static bool IsOther(int rune) => Category(rune) is UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned;

    /// <summary>Every ASCII character that is neither letter, digit, space nor control, and categories P*.</summary>
    public static bool IsPunctuation(int rune) => rune < 128 ? rune is > 32 and < 127 && !char.IsAsciiLetterOrDigit((char)rune)
        : Category(rune) is UnicodeCategory.ConnectorPunctuation or UnicodeCategory.DashPunctuation or UnicodeCategory.OpenPunctuation or UnicodeCategory.ClosePunctuation
            or UnicodeCategory.InitialQuotePunctuation or UnicodeCategory.FinalQuotePunctuation or UnicodeCategory.OtherPunctuation;

    /// <summary>The blocks of CJK ideographs that BERT sets apart.</summary>
    public static bool IsIdeograph(int rune) => rune is (>= 0x4E00 and <= 0x9FFF) or (>= 0x3400 and <= 0x4DBF) or (>= 0x20000 and <= 0x2A6DF) or (>= 0x2A700 and <= 0x2B73F)
        or (>= 0x2B740 and <= 0x2B81F) or (>= 0x2B920 and <= 0x2CEAF) or (>= 0xF900 and <= 0xFAFF) or (>= 0x2F800 and <= 0x2FA1F);

    /// <summary>Lower case, one code point or two.</summary>
    public static void Lower(int rune, List<int> to)
    {
        if (rune == 0x130)
        {
            to.Add('i');
            to.Add(0x307);
            return;
        }
        to.Add(System.Text.Rune.IsValid(rune) ? System.Text.Rune.ToLowerInvariant(new System.Text.Rune(rune)).Value : rune);
    }

    /// <summary>A character up to U+FFFF of the same category.</summary>
    public static char StandIn(int rune) => Category(rune) switch
    {
        UnicodeCategory.UppercaseLetter => 'Ā',
        UnicodeCategory.LowercaseLetter => 'ā',
        UnicodeCategory.ModifierLetter => 'ʰ',
        UnicodeCategory.OtherLetter => 'ꀀ',
        UnicodeCategory.DecimalDigitNumber => '٠',
        UnicodeCategory.LetterNumber => 'Ⅰ',
        UnicodeCategory.OtherNumber => '②',
        UnicodeCategory.NonSpacingMark => '\u0300',
        UnicodeCategory.SpacingCombiningMark => '\u0903',
        UnicodeCategory.EnclosingMark => '\u20DD',
        UnicodeCategory.OtherPunctuation => '‡',
        UnicodeCategory.DashPunctuation => '‒',
        UnicodeCategory.MathSymbol => '∑',
        UnicodeCategory.Format => '\u200B',
        UnicodeCategory.PrivateUse => '\uE000',
        _ => '☃',
    };

    /// <summary>Normal form D, or KD where <paramref name="compatible"/>; then composed, where <paramref name="compose"/>: C, KC.</summary>
    public static void Normalize(AlignedText text, bool compatible, bool compose)
    {
        Tables tables = Data.Value;
        List<(int, int, IReadOnlyList<Letter>)> ranges = [];
        for (int start = 0; start < text.Count;)
        {
            if (text[start].Rune < 0x80 && (start + 1 == text.Count || text[start + 1].Rune < 0x80))
            {
                start++;
                continue;
            }
            List<Part> parts = [];
            int end = start;
            do
            {
                tables.Decompose(text[end++].Rune, compatible, parts);
            }
            while (end < text.Count && !tables.Begins(text[end].Rune, compatible));
            tables.Order(parts);
            if (compose)
            {
                tables.Compose(parts);
            }
            if (parts.Count != end - start || parts.Where((p, i) => p.Rune != text[start + i].Rune).Any())
            {
                ranges.Add((start, end, Placed(text, start, parts)));
            }
            start = end;
        }
        text.Rewrite(ranges);
    }

    /// <summary>A code point that replaces 1 - Change letters of the text; with Change 1 it stands beside the one before.</summary>
    private readonly record struct Part(int Rune, int Change);

    private static List<Letter> Placed(AlignedText text, int at, List<Part> parts)
    {
        List<Letter> letters = [];
        foreach (Part part in parts)
        {
            letters.Add(text[part.Change > 0 ? at - 1 : at].With(part.Rune));
            at += 1 - part.Change;
        }
        return letters;
    }

    private sealed class Tables
    {
        private readonly Dictionary<int, (bool Canonical, int[] Runes)> decompositions = [];
        private readonly Dictionary<int, int> classes = [];
        private readonly Dictionary<(int, int), int> compositions = [];
        private readonly HashSet<int> seconds = [];

        public Tables()
        {
            using Stream packed = typeof(Unicode).Assembly.GetManifestResourceStream("normalization.bin") ?? throw new InvalidOperationException("normalization.bin is not in the assembly");
            using var stream = new DeflateStream(packed, CompressionMode.Decompress);
            using var bytes = new MemoryStream();
            stream.CopyTo(bytes);
            ReadOnlySpan<uint> words = MemoryMarshal.Cast<byte, uint>(bytes.GetBuffer().AsSpan(0, (int)bytes.Length));
            int at = 1;
            for (uint i = 0; i < words[0]; i++)
            {
                int length = (int)words[at + 2];
                decompositions[(int)words[at]] = (words[at + 1] != 0, [.. MemoryMarshal.Cast<uint, int>(words.Slice(at + 3, length))]);
                at += 3 + length;
            }
            for (uint i = words[at++]; i > 0; i--, at += 2)
            {
                classes[(int)words[at]] = (int)words[at + 1];
            }
            HashSet<int> excluded = [.. MemoryMarshal.Cast<uint, int>(words.Slice(at + 1, (int)words[at]))];
            foreach ((int rune, (bool canonical, int[] runes)) in decompositions)
            {
                if (canonical && runes.Length == 2 && !excluded.Contains(rune))
                {
                    compositions[(runes[0], runes[1])] = rune;
                    seconds.Add(runes[1]);
                }
            }
        }

        public void Decompose(int rune, bool compatible, List<Part> to)
        {
            int first = to.Count;
            Cut(rune, compatible, to);
            for (int i = first + 1; i < to.Count; i++)
            {
                to[i] = to[i] with { Change = 1 };
            }
        }

        /// <summary>True where nothing of a code point can join what stands before it.</summary>
        public bool Begins(int rune, bool compatible)
        {
            List<Part> parts = [];
            Cut(rune, compatible, parts);
            int first = parts[0].Rune;
            return Class(first) == 0 && !seconds.Contains(first) && first is not ((>= VowelBase and < VowelBase + Vowels) or (> TailBase and < TailBase + Tails));
        }

        /// <summary>Marks in the order of their classes, equal ones as they came.</summary>
        public void Order(List<Part> parts)
        {
            for (int i = 1; i < parts.Count; i++)
            {
                for (int j = i; j > 0 && Class(parts[j].Rune) > 0 && Class(parts[j - 1].Rune) > Class(parts[j].Rune); j--)
                {
                    (parts[j - 1], parts[j]) = (parts[j], parts[j - 1]);
                }
            }
        }

        public void Compose(List<Part> parts)
        {
            int starter = -1, last = -1, kept = 0;
            for (int i = 0; i < parts.Count; i++)
            {
                int kind = Class(parts[i].Rune);
                if (starter >= 0 && (last < kind || (last == 0 && kept == starter + 1)) && Pair(parts[starter].Rune, parts[i].Rune) is { } composed)
                {
                    parts[starter] = new(composed, parts[starter].Change + parts[i].Change - 1);
                    continue;
                }
                if (kind == 0)
                {
                    (starter, last) = (kept, 0);
                }
                else
                {
                    last = kind;
                }
                parts[kept++] = parts[i];
            }
            parts.RemoveRange(kept, parts.Count - kept);
        }

        private void Cut(int rune, bool compatible, List<Part> to)
        {
            int syllable = rune - HangulBase;
            if (syllable is >= 0 and < Syllables)
            {
                to.Add(new(LeadBase + (syllable / (Vowels * Tails)), 0));
                to.Add(new(VowelBase + (syllable / Tails % Vowels), 0));
                if (syllable % Tails > 0)
                {
                    to.Add(new(TailBase + (syllable % Tails), 0));
                }
                return;
            }
            if (decompositions.TryGetValue(rune, out var found) && (found.Canonical || compatible))
            {
                foreach (int part in found.Runes)
                {
                    Cut(part, compatible, to);
                }
                return;
            }
            to.Add(new(rune, 0));
        }

        private int? Pair(int first, int second)
        {
            if (first is >= LeadBase and < LeadBase + 19 && second is >= VowelBase and < VowelBase + Vowels)
            {
                return HangulBase + ((((first - LeadBase) * Vowels) + second - VowelBase) * Tails);
            }
            if (first - HangulBase is >= 0 and < Syllables && (first - HangulBase) % Tails == 0 && second is > TailBase and < TailBase + Tails)
            {
                return first + second - TailBase;
            }
            return compositions.TryGetValue((first, second), out int rune) ? rune : null;
        }

        private int Class(int rune) => classes.GetValueOrDefault(rune);
    }
}
