using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;

namespace LowRank.Models.Tokenizers;

/// <summary>The normalizer of tokenizer.json: rewrites text before it is cut.</summary>
internal static class Normalizer
{
    public static Action<AlignedText> Read(JsonPart part)
    {
        if (part.IsNull)
        {
            return _ => { };
        }
        switch (part.Type)
        {
            case "Sequence":
                Action<AlignedText>[] all = [.. part.At("normalizers").Items().Select(Read)];
                return text => Array.ForEach(all, one => one(text));
            case "BertNormalizer":
                bool clean = part.Flag("clean_text", true), ideographs = part.Flag("handle_chinese_chars", true), lower = part.Flag("lowercase", true), strip = part.Flag("strip_accents", lower);
                return text => Bert(text, clean, ideographs, strip, lower);
            case "Lowercase":
                return text => text.Map(Unicode.Lower);
            case "NFC":
                return text => Unicode.Normalize(text, compatible: false, compose: true);
            case "NFD":
                return text => Unicode.Normalize(text, compatible: false, compose: false);
            case "NFKC":
                return text => Unicode.Normalize(text, compatible: true, compose: true);
            case "NFKD":
                return text => Unicode.Normalize(text, compatible: true, compose: false);
            case "StripAccents":
                return text => text.Filter(rune => Unicode.Category(rune) != UnicodeCategory.NonSpacingMark);
            case "Strip":
                return text => Strip(text, part.Flag("strip_left", true), part.Flag("strip_right", true));
            case "Prepend":
                string front = part.Text("prepend");
                return text => text.Prepend(front);
            case "Replace":
                (Regex pattern, string content) = (Pattern(part.At("pattern")), part.Text("content"));
                return text => text.Replace(Matches(pattern, text), content);
            case "Nmt":
                return Nmt;
            case "Precompiled":
                return new CharacterMap(part.Text("precompiled_charsmap"), part).Apply;
            default:
                throw part.UnknownType("Sequence", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "Prepend", "Replace", "Nmt", "Precompiled");
        }
    }

    /// <summary>A pattern of the file: a string to be found as it is, or a regular expression.</summary>
    public static Regex Pattern(JsonPart part)
    {
        string source = part.At("String").IsNull ? part.Text("Regex") : Regex.Escape(part.Text("String"));
        try
        {
            return new Regex(source, RegexOptions.CultureInvariant | RegexOptions.Compiled);
        }
        catch (ArgumentException)
        {
            throw part.Wrong("a regular expression that .NET can read");
        }
    }

    /// <summary>Where a pattern is found, as letters [start, end).</summary>
    public static IEnumerable<(int Start, int End)> Matches(Regex pattern, AlignedText text)
    {
        string flat = text.ForPatterns(pattern.ToString().Contains("(?i", StringComparison.Ordinal));
        for (Match match = pattern.Match(flat); match.Success; match = match.NextMatch())
        {
            if (match.Length > 0)
            {
                yield return (match.Index, match.Index + match.Length);
            }
        }
    }

    private static void Bert(AlignedText text, bool clean, bool ideographs, bool strip, bool lower)
    {
        if (clean)
        {
            text.Filter(rune => rune is not (0 or 0xFFFD) && (rune is '\t' or '\n' or '\r' || !Unicode.IsOther(rune)));
            text.Map((rune, to) => to.Add(Unicode.IsWhiteSpace(rune) ? ' ' : rune));
        }
        if (ideographs)
        {
            text.Map((rune, to) => to.AddRange(Unicode.IsIdeograph(rune) ? [' ', rune, ' '] : [rune]));
        }
        if (strip)
        {
            Unicode.Normalize(text, compatible: false, compose: false);
            text.Filter(rune => Unicode.Category(rune) != UnicodeCategory.NonSpacingMark);
        }
        if (lower)
        {
            text.Map(Unicode.Lower);
        }
    }

    private static void Strip(AlignedText text, bool left, bool right)
    {
        int start = 0, end = text.Count;
        while (left && start < end && Unicode.IsWhiteSpace(text[start].Rune))
        {
            start++;
        }
        while (right && end > start && Unicode.IsWhiteSpace(text[end - 1].Rune))
        {
            end--;
        }
        text.Rewrite(new (int, int, IReadOnlyList<Letter>)[] { (0, start, []), (end, text.Count, []) }.Where(r => r.Item2 > r.Item1));
    }

    /// <summary>What SentencePiece's nmt rules do to control characters and unusual spaces.</summary>
    private static void Nmt(AlignedText text)
    {
        text.Filter(rune => rune is not ((>= 1 and <= 8) or 0xB or (>= 0xE and <= 0x1F) or 0x7F or 0x8F or 0x9F));
        text.Map((rune, to) => to.Add(rune is 9 or 0xA or 0xC or 0xD or 0x1680 or (>= 0x200B and <= 0x200F) or 0x2028 or 0x2029 or 0x2581 or 0xFEFF or 0xFFFD ? ' ' : rune));
    }

    /// <summary>SentencePiece's table of replacements: a double-array trie over UTF-8 bytes, then the target strings.</summary>
    private sealed class CharacterMap
    {
        private const int LongCluster = 6;
        private readonly uint[] trie;
        private readonly byte[] targets;
        private readonly int[]?[] ofAscii;

        public CharacterMap(string base64, JsonPart part)
        {
            byte[] bytes;
            try
            {
                bytes = Convert.FromBase64String(base64);
            }
            catch (FormatException)
            {
                throw part.Wrong("base64");
            }
            int size = bytes.Length < 4 ? -1 : BinaryPrimitives.ReadInt32LittleEndian(bytes);
            if (size < 0 || size % 4 != 0 || size > bytes.Length - 4)
            {
                throw part.Wrong("a table whose first number is the size of its trie");
            }
            trie = MemoryMarshal.Cast<byte, uint>(bytes.AsSpan(4, size)).ToArray();
            targets = bytes[(4 + size)..];
            ofAscii = [.. Enumerable.Range(0, 128).Select(c => Find([(char)c]))];
        }

        public void Apply(AlignedText text)
        {
            List<(int, int, IReadOnlyList<Letter>)> ranges = [];
            string whole = text.ToString();
            for (int at = 0, start = 0; at < whole.Length;)
            {
                // No mark follows: the character is a cluster by itself.
                if (char.IsAscii(whole[at]) && whole[at] != '\r' && (at + 1 == whole.Length || char.IsAscii(whole[at + 1])))
                {
                    if (ofAscii[whole[at]] is { } plain)
                    {
                        ranges.Add((start, start + 1, text.InPlace(start, start + 1, plain)));
                    }
                    (at, start) = (at + 1, start + 1);
                    continue;
                }
                int length = StringInfo.GetNextTextElementLength(whole, at);
                ReadOnlySpan<char> cluster = whole.AsSpan(at, length);
                int count = Runes(cluster).Length;
                if (Encoding.UTF8.GetByteCount(cluster) < LongCluster && Find(cluster) is { } replaced)
                {
                    ranges.Add((start, start + count, text.InPlace(start, start + count, replaced)));
                }
                else
                {
                    for (int i = 0, unit = at; i < count; i++)
                    {
                        int units = char.IsSurrogatePair(whole, unit) ? 2 : 1;
                        if (Find(whole.AsSpan(unit, units)) is { } one)
                        {
                            ranges.Add((start + i, start + i + 1, text.InPlace(start + i, start + i + 1, one)));
                        }
                        unit += units;
                    }
                }
                (at, start) = (at + length, start + count);
            }
            text.Rewrite(ranges);
        }

        /// <summary>The target of the shortest rule that begins the text.</summary>
        private int[]? Find(ReadOnlySpan<char> text)
        {
            Span<byte> utf8 = stackalloc byte[text.Length * 3];
            utf8 = utf8[..Encoding.UTF8.GetBytes(text, utf8)];
            uint at = 0;
            if (trie.Length == 0)
            {
                return null;
            }
            at ^= Offset(trie[0]);
            foreach (byte b in utf8)
            {
                at ^= b;
                if (at >= trie.Length || (trie[at] & 0x800000FF) != b)
                {
                    return null;
                }
                uint unit = trie[at];
                at ^= Offset(unit);
                if ((unit & 0x100) != 0 && at < trie.Length)
                {
                    int from = (int)(trie[at] & 0x7FFFFFFF), end = from <= targets.Length ? Array.IndexOf(targets, (byte)0, from) : -1;
                    return end < 0 ? null : Runes(Encoding.UTF8.GetString(targets, from, end - from));
                }
            }
            return null;
        }

        private static int[] Runes(ReadOnlySpan<char> text)
        {
            List<int> runes = [];
            foreach (Rune rune in text.EnumerateRunes())
            {
                runes.Add(rune.Value);
            }
            return [.. runes];
        }

        private static uint Offset(uint unit) => (unit >> 10) << (int)((unit & 0x200) >> 6);
    }
}
