using System.Text.Json;
using LowRank.Formats;
using LowRank.Models.Tokenizers;

namespace LowRank.Models;

/// <summary>Text to token ids and back, as a tokenizer.json of Hugging Face says: WordPiece, byte-level BPE, BPE with byte fallback, Unigram. Safe from several threads.</summary>
public sealed class Tokenizer
{
    /// <summary>Name of the file in a model folder.</summary>
    public const string FileName = "tokenizer.json";

    private const long MostBytes = 512L << 20;
    private readonly Action<AlignedText> normalizer;
    private readonly PreTokenizer.Cut cut;
    private readonly WordModel model;
    private readonly AddedTokens added;
    private readonly PostProcessor processor;
    private readonly Func<List<string>, List<string>> decoder;
    private readonly Dictionary<int, AddedToken> addedById;
    private readonly WordMemo? memo;

    private Tokenizer(string file, JsonElement json)
    {
        JsonPart Part(string name) => new(file, name, json.ValueKind == JsonValueKind.Object && json.TryGetProperty(name, out JsonElement value) ? value : default);
        normalizer = Normalizer.Read(Part("normalizer"));
        cut = PreTokenizer.Read(Part("pre_tokenizer"));
        model = WordModel.Read(Part("model"));
        added = new AddedTokens(Part("added_tokens"), normalizer);
        processor = new PostProcessor(Part("post_processor"));
        decoder = Decoder.Read(Part("decoder"));
        addedById = added.All.GroupBy(t => t.Id).ToDictionary(g => g.Key, g => g.Last());
        memo = WordMemo.Over(Whole, Part("normalizer"), Part("pre_tokenizer"), added);
    }

    /// <summary>Number of ids, added tokens included.</summary>
    public int Count => Math.Max(model.Tokens.Length, addedById.Count == 0 ? 0 : addedById.Keys.Max() + 1);

    /// <summary>Reads tokenizer.json.</summary>
    /// <param name="path">The file, or a model folder.</param>
    /// <exception cref="ModelFormatException">It is damaged or asks for what is not built: names the part and what there is.</exception>
    /// <exception cref="IOException">It is missing or unreadable.</exception>
    public static Tokenizer Load(string path)
    {
        string file = Directory.Exists(path) ? Path.Combine(path, FileName) : path;
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"{file}: there is no such file, want a {FileName} as Hugging Face's tokenizers write it", file);
        }
        long length = new FileInfo(file).Length;
        if (length > MostBytes)
        {
            throw new ModelFormatException($"{file}: the file has {length} bytes, want at most {MostBytes}") { File = file };
        }
        try
        {
            using FileStream stream = File.OpenRead(file);
            using JsonDocument json = JsonDocument.Parse(stream);
            return new(file, json.RootElement);
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"{file}: {error.Message}", error) { File = file, Offset = error.BytePositionInLine };
        }
    }

    /// <summary>The id of a token, or null.</summary>
    public int? IdOf(string token) => added.All.FirstOrDefault(t => t.Content == token)?.Id ?? (model.Vocabulary.TryGetValue(token, out int id) ? id : null);

    /// <summary>The token of an id, or null.</summary>
    public string? TokenOf(int id) => addedById.TryGetValue(id, out AddedToken? token) ? token.Content : id >= 0 && id < model.Tokens.Length ? model.Tokens[id] : null;

    /// <summary>Encodes a text, or a text and its pair.</summary>
    /// <param name="text">Any string; unpaired surrogates count as U+FFFD.</param>
    /// <param name="pair">A second text, or null.</param>
    /// <param name="special">Add the special tokens that the file's template names.</param>
    /// <param name="truncation">Cut to a length, or null.</param>
    /// <param name="padding">Fill up to a length, or null.</param>
    /// <exception cref="ArgumentException">The length cannot be reached by the strategy, or the stride is too large.</exception>
    public TokenEncoding Encode(string text, string? pair = null, bool special = true, Truncation? truncation = null, Padding? padding = null)
    {
        List<Token> first = Tokens(text), second = pair is null ? [] : Tokens(pair);
        processor.Trim(first);
        processor.Trim(second);
        (List<List<Token>> a, List<List<Token>> b) = truncation is null ? ([first], [second]) : Truncate(first, pair is null ? null : second, truncation, special);
        List<Token> Joined(List<Token> x, List<Token> y) => Padded(processor.Join(x, pair is null ? null : y, special), padding);
        IEnumerable<(List<Token>, List<Token>)> windows = a.Skip(1).SelectMany(x => b.Select(y => (x, y))).Concat(b.Skip(1).Select(y => (a[0], y)));
        return new(Joined(a[0], b[0]), [.. windows.Select(w => new TokenEncoding(Joined(w.Item1, w.Item2), [], text, pair))], text, pair);
    }

    /// <summary>Encodes texts side by side.</summary>
    /// <returns>One encoding a text; with a padding that names no length all are as long as the longest.</returns>
    public IReadOnlyList<TokenEncoding> EncodeAll(IReadOnlyList<string> texts, bool special = true, Truncation? truncation = null, Padding? padding = null)
    {
        var all = new TokenEncoding[texts.Count];
        Parallel.For(0, all.Length, i => all[i] = Encode(texts[i], null, special, truncation));
        if (padding is null || all.Length == 0)
        {
            return all;
        }
        Padding to = padding with { Length = padding.Length ?? all.Max(e => e.Ids.Length) };
        return [.. all.Select(e => new TokenEncoding(Padded([.. e.Tokens], to), e.Overflow, e.Text, e.Pair))];
    }

    /// <summary>The text of token ids.</summary>
    /// <param name="ids">Any ids; those that no token has are passed over.</param>
    /// <param name="keepSpecial">Keep special tokens.</param>
    public string Decode(IEnumerable<int> ids, bool keepSpecial = false)
    {
        List<string> tokens = [.. ids.Where(id => keepSpecial || !addedById.TryGetValue(id, out AddedToken? token) || !token.Special).Select(TokenOf).OfType<string>()];
        return string.Concat(decoder(tokens));
    }

    /// <summary>The text after the normalizer alone.</summary>
    public string Normalize(string text)
    {
        AlignedText aligned = AlignedText.Of(text);
        normalizer(aligned);
        return aligned.ToString();
    }

    private List<Token> Tokens(string text) => memo is null || added.ReachAcrossSpaces(text) ? Whole(text).Tokens : memo.Tokens(text);

    private (List<Token> Tokens, int Words) Whole(string text)
    {
        List<Token> tokens = [];
        int word = 0;
        foreach ((AlignedText stretch, AddedToken? token) in added.Cut(AlignedText.Of(text), normalizer))
        {
            if (token is not null)
            {
                tokens.Add(new(token.Id, stretch.ToString(), stretch[0].Start, stretch[stretch.Count - 1].End, word++, 0));
                continue;
            }
            foreach (AlignedText piece in cut([stretch]))
            {
                if (piece.Count == 0)
                {
                    continue;
                }
                foreach (Piece part in model.Encode(piece))
                {
                    tokens.Add(new(part.Id, model.Text(part, piece), piece[part.Start].Start, piece[part.End - 1].End, word, 0));
                }
                word++;
            }
        }
        return (tokens, word);
    }

    private (List<List<Token>> First, List<List<Token>> Second) Truncate(List<Token> first, List<Token>? second, Truncation to, bool special)
    {
        int most = to.MaxTokens - (special ? processor.Added(second is not null) : 0), over = first.Count + (second?.Count ?? 0) - most;
        if (most < 0)
        {
            throw new ArgumentException($"Truncation: MaxTokens is {to.MaxTokens}, want at least the {processor.Added(second is not null)} special tokens", nameof(to));
        }
        if (over <= 0)
        {
            return ([first], [second ?? []]);
        }
        if (second is null)
        {
            return (Windows(first, most, to), [[]]);
        }
        switch (to.Strategy)
        {
            case TruncationStrategy.LongestFirst:
                (int small, int large) = (Math.Min(first.Count, second.Count), Math.Max(first.Count, second.Count));
                large = small > most ? small : Math.Max(small, most - small);
                if (small + large > most)
                {
                    small = most / 2;
                    large = small + (most % 2);
                }
                bool swapped = first.Count > second.Count;
                return (Windows(first, swapped ? large : small, to), Windows(second, swapped ? small : large, to));
            case TruncationStrategy.OnlyFirst when first.Count > over:
                return (Windows(first, first.Count - over, to), [second]);
            case TruncationStrategy.OnlySecond when second.Count > over:
                return ([first], Windows(second, second.Count - over, to));
            default:
                throw new ArgumentException($"Truncation: {to.Strategy} cannot cut {over} tokens from {first.Count} and {second.Count}, want another strategy or more than {to.MaxTokens} tokens", nameof(to));
        }
    }

    private static List<List<Token>> Windows(List<Token> tokens, int most, Truncation to)
    {
        if (tokens.Count <= most)
        {
            return [tokens];
        }
        if (most == 0)
        {
            return [[], tokens];
        }
        int step = most - to.Stride;
        if (to.Stride < 0 || step <= 0)
        {
            throw new ArgumentException($"Truncation: Stride is {to.Stride}, want 0 .. {most - 1} for windows of {most} tokens", nameof(to));
        }
        List<List<Token>> windows = [];
        for (int done = 0; ; done += step)
        {
            int length = Math.Min(most, tokens.Count - done);
            windows.Add(tokens.GetRange(to.FromLeft ? tokens.Count - done - length : done, length));
            if (done + length >= tokens.Count)
            {
                return windows;
            }
        }
    }

    private static List<Token> Padded(List<Token> tokens, Padding? padding)
    {
        if (padding is null)
        {
            return tokens;
        }
        int length = Math.Max(padding.Length ?? tokens.Count, tokens.Count);
        length = (length + padding.MultipleOf - 1) / padding.MultipleOf * padding.MultipleOf;
        IEnumerable<Token> fill = Enumerable.Repeat(new Token(padding.Id, padding.Token, 0, 0, null, 0, IsAdded: true, IsPadding: true), length - tokens.Count);
        return padding.Side == PaddingSide.Right ? [.. tokens, .. fill] : [.. fill, .. tokens];
    }
}
