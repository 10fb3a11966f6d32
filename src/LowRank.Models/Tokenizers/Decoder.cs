using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace LowRank.Models.Tokenizers;

/// <summary>The decoder of tokenizer.json: rewrites tokens so that they join to a text.</summary>
internal static class Decoder
{
    private static readonly (string From, string To)[] Cleanups =
        [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")];

    public static Func<List<string>, List<string>> Read(JsonPart part)
    {
        if (part.IsNull)
        {
            return tokens => [string.Join(' ', tokens)];
        }
        switch (part.Type)
        {
            case "Sequence":
                Func<List<string>, List<string>>[] all = [.. part.At("decoders").Items().Select(Read)];
                return tokens => all.Aggregate(tokens, (t, decode) => decode(t));
            case "WordPiece":
                (string prefix, bool cleanup) = (part.Text("prefix", "##"), part.Flag("cleanup", true));
                return tokens => [.. tokens.Select((token, i) => Clean(i == 0 ? token : token.StartsWith(prefix, StringComparison.Ordinal) ? token[prefix.Length..] : " " + token, cleanup))];
            case "ByteLevel":
                return tokens => [Encoding.UTF8.GetString([.. tokens.SelectMany(Bytes)])];
            case "Metaspace":
                (string mark, bool drops) = (part.Text("replacement"), part.Text("prepend_scheme", "always") != "never");
                return tokens => [.. tokens.Select((token, i) => token.Replace(mark, i == 0 && drops ? "" : " ", StringComparison.Ordinal))];
            case "Replace":
                (Regex pattern, string content) = (Normalizer.Pattern(part.At("pattern")), part.Text("content").Replace("$", "$$", StringComparison.Ordinal));
                return tokens => [.. tokens.Select(token => pattern.Replace(token, content))];
            case "ByteFallback":
                return Fallback;
            case "Fuse":
                return tokens => [string.Concat(tokens)];
            case "Strip":
                (char letter, int start, int stop) = (part.Text("content")[0], part.Number("start", 0), part.Number("stop", 0));
                return tokens => [.. tokens.Select(token => Strip(token, letter, start, stop))];
            default:
                throw part.UnknownType("Sequence", "WordPiece", "ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip");
        }
    }

    private static string Clean(string text, bool cleanup)
    {
        foreach ((string from, string to) in cleanup ? Cleanups : [])
        {
            text = text.Replace(from, to, StringComparison.Ordinal);
        }
        return text;
    }

    private static byte[] Bytes(string token)
    {
        List<byte> bytes = [];
        foreach (Rune rune in token.EnumerateRunes())
        {
            if (PreTokenizer.ByteOf(rune.Value) is not { } b)
            {
                return Encoding.UTF8.GetBytes(token);
            }
            bytes.Add(b);
        }
        return [.. bytes];
    }

    // Runs of <0x..> that are no UTF-8 become one replacement character a byte.
    private static List<string> Fallback(List<string> tokens)
    {
        List<string> result = [];
        List<byte> run = [];
        void Flush()
        {
            if (run.Count > 0)
            {
                byte[] bytes = [.. run];
                string text = Encoding.UTF8.GetString(bytes);
                if (Encoding.UTF8.GetBytes(text).AsSpan().SequenceEqual(bytes))
                {
                    result.Add(text);
                }
                else
                {
                    result.AddRange(bytes.Select(_ => "\uFFFD"));
                }
                run.Clear();
            }
        }
        foreach (string token in tokens)
        {
            if (token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>' && byte.TryParse(token.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte b))
            {
                run.Add(b);
                continue;
            }
            Flush();
            result.Add(token);
        }
        Flush();
        return result;
    }

    private static string Strip(string token, char letter, int start, int stop)
    {
        int from = 0, end = token.Length;
        while (from < start && from < end && token[from] == letter)
        {
            from++;
        }
        for (int i = 0; i < stop && end > from && token[end - 1] == letter; i++)
        {
            end--;
        }
        return token[from..end];
    }
}
