using System.Runtime.InteropServices;
using System.Text;

namespace LowRank.Models.Tokenizers;

/// <summary>A piece of a word: its id and how many letters of the word it takes; the letters of pieces may overlap where a letter is cut into bytes.</summary>
internal readonly record struct Piece(int Id, int Start, int End);

/// <summary>The model of tokenizer.json: turns the letters of one piece of text into ids.</summary>
internal abstract class WordModel
{
    private const int MostKept = 1 << 16, LongestKept = 64;
    private readonly Dictionary<string, Piece[]> kept = new(StringComparer.Ordinal);

    protected WordModel(Dictionary<string, int> vocabulary)
    {
        Vocabulary = vocabulary;
        Tokens = new string[vocabulary.Count == 0 ? 0 : vocabulary.Values.Max() + 1];
        foreach ((string token, int id) in vocabulary)
        {
            Tokens[id] = token;
        }
    }

    /// <summary>Ids by token.</summary>
    public Dictionary<string, int> Vocabulary { get; }

    /// <summary>Tokens by id; null where an id is not taken.</summary>
    public string?[] Tokens { get; }

    public static WordModel Read(JsonPart part) => part.Type switch
    {
        "WordPiece" => new WordPieceModel(part),
        "BPE" => new BpeModel(part),
        "Unigram" => new UnigramModel(part),
        // The oldest files name no type.
        "" when !part.At("merges").IsNull => new BpeModel(part),
        _ => throw part.UnknownType("WordPiece", "BPE", "Unigram"),
    };

    /// <summary>The pieces of a text, in order. Short texts are kept: words come again.</summary>
    public Piece[] Encode(AlignedText text)
    {
        string word = text.ToString();
        if (word.Length > LongestKept)
        {
            return Cut(word, text.Count);
        }
        lock (kept)
        {
            if (kept.TryGetValue(word, out Piece[]? found))
            {
                return found;
            }
        }
        Piece[] pieces = Cut(word, text.Count);
        lock (kept)
        {
            if (kept.Count >= MostKept)
            {
                kept.Clear();
            }
            kept[word] = pieces;
        }
        return pieces;
    }

    /// <summary>A piece as the vocabulary spells it.</summary>
    public virtual string Text(Piece piece, AlignedText of) => Tokens[piece.Id]!;

    /// <summary>Cuts a text of so many letters.</summary>
    protected abstract Piece[] Cut(string word, int letters);

    /// <summary>Where each letter begins in UTF-16, and the end.</summary>
    protected static int[] Units(string word, int letters)
    {
        var units = new int[letters + 1];
        for (int i = 0; i < letters; i++)
        {
            units[i + 1] = units[i] + (char.IsHighSurrogate(word[units[i]]) ? 2 : 1);
        }
        return units;
    }

    protected static Dictionary<string, int> ReadVocabulary(JsonPart part)
    {
        if (part.Json.ValueKind != System.Text.Json.JsonValueKind.Object)
        {
            throw part.Wrong("an object of ids by token");
        }
        var vocabulary = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (System.Text.Json.JsonProperty token in part.Json.EnumerateObject())
        {
            vocabulary[token.Name] = token.Value.TryGetInt32(out int id) && id is >= 0 and < 1 << 24 ? id : throw part.Wrong($"an id of 0 .. {(1 << 24) - 1} for {token.Name}");
        }
        return vocabulary;
    }
}

/// <summary>WordPiece: the longest token that begins the rest of the word, again and again; a word that cannot be covered becomes one unknown.</summary>
internal sealed class WordPieceModel : WordModel
{
    private readonly string prefix;
    private readonly int longest, unknown;

    public WordPieceModel(JsonPart part) : base(ReadVocabulary(part.At("vocab")))
    {
        prefix = part.Text("continuing_subword_prefix", "##");
        longest = part.Number("max_input_chars_per_word", 100);
        unknown = Vocabulary.TryGetValue(part.Text("unk_token", "[UNK]"), out int id) ? id : throw part.At("unk_token").Wrong("a token of the vocabulary");
    }

    protected override Piece[] Cut(string word, int letters)
    {
        int[] units = Units(word, letters);
        var lookup = Vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        List<Piece> pieces = [];
        Span<char> buffer = new char[prefix.Length + word.Length];
        prefix.CopyTo(buffer);
        for (int start = 0; start < letters;)
        {
            if (letters > longest)
            {
                return [new(unknown, 0, letters)];
            }
            int end = letters, id = -1;
            for (; end > start; end--)
            {
                ReadOnlySpan<char> part = word.AsSpan(units[start], units[end] - units[start]);
                if (start > 0)
                {
                    part.CopyTo(buffer[prefix.Length..]);
                    part = buffer[..(prefix.Length + part.Length)];
                }
                if (lookup.TryGetValue(part, out id))
                {
                    break;
                }
            }
            if (end == start)
            {
                return [new(unknown, 0, letters)];
            }
            pieces.Add(new(id, start, end));
            start = end;
        }
        return [.. pieces];
    }
}

/// <summary>Byte pair encoding (arXiv 1508.07909): the pair with the lowest rank merges first, the leftmost of equals, until none is left.</summary>
internal sealed class BpeModel : WordModel
{
    private readonly Dictionary<(int, int), (int Rank, int Id)> merges = [];
    private readonly int? unknown;
    private readonly bool fuse, fallback, wholeFirst;
    private readonly string continuing, ending;

    public BpeModel(JsonPart part) : base(ReadVocabulary(part.At("vocab")))
    {
        fuse = part.Flag("fuse_unk");
        fallback = part.Flag("byte_fallback");
        wholeFirst = part.Flag("ignore_merges");
        continuing = part.Text("continuing_subword_prefix", "");
        ending = part.Text("end_of_word_suffix", "");
        unknown = part.At("unk_token").IsNull ? null : Id(part.Text("unk_token"), part.At("unk_token"));
        int rank = 0;
        foreach (JsonPart merge in part.At("merges").Items())
        {
            // ["a", "b"], or "a b" in older files
            string[] pair = merge.Json.ValueKind == System.Text.Json.JsonValueKind.Array ? [.. merge.Items().Select(i => i.Text())] : merge.Text().Split(' ');
            if (pair.Length != 2)
            {
                throw merge.Wrong("two tokens");
            }
            string joined = pair[0] + (continuing.Length > 0 && pair[1].StartsWith(continuing, StringComparison.Ordinal) ? pair[1][continuing.Length..] : pair[1]);
            merges[(Id(pair[0], merge), Id(pair[1], merge))] = (rank++, Id(joined, merge));
        }
    }

    protected override Piece[] Cut(string word, int letters)
    {
        if (wholeFirst && Vocabulary.TryGetValue(word, out int whole))
        {
            return [new(whole, 0, letters)];
        }
        List<Piece> pieces = Letters(word, Units(word, letters), letters);
        var next = new int[pieces.Count];
        var previous = new int[pieces.Count];
        var queue = new PriorityQueue<(int Left, int Right, int Id), (int Rank, int Left)>();
        for (int i = 0; i < next.Length; i++)
        {
            (previous[i], next[i]) = (i - 1, i + 1 < next.Length ? i + 1 : -1);
        }
        Span<Piece> all = CollectionsMarshal.AsSpan(pieces);
        for (int i = 0; i + 1 < all.Length; i++)
        {
            Offer(all, i, i + 1);
        }
        while (queue.TryDequeue(out (int Left, int Right, int Id) merge, out (int Rank, int Left) at))
        {
            (int left, int right, _) = merge;
            // Either side may have become something else since.
            if (all[left].Id < 0 || next[left] != right || !merges.TryGetValue((all[left].Id, all[right].Id), out var now) || now.Rank != at.Rank)
            {
                continue;
            }
            all[left] = new(now.Id, all[left].Start, all[right].End);
            all[right] = all[right] with { Id = -1 };
            next[left] = next[right];
            if (next[right] >= 0)
            {
                previous[next[right]] = left;
                Offer(all, left, next[left]);
            }
            if (previous[left] >= 0)
            {
                Offer(all, previous[left], left);
            }
        }
        pieces.RemoveAll(p => p.Id < 0);
        return [.. pieces];

        void Offer(Span<Piece> of, int left, int right)
        {
            if (merges.TryGetValue((of[left].Id, of[right].Id), out var merge))
            {
                queue.Enqueue((left, right, merge.Id), (merge.Rank, left));
            }
        }
    }

    private List<Piece> Letters(string word, int[] units, int letters)
    {
        var lookup = Vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        var pieces = new List<Piece>(letters);
        Span<byte> utf8 = stackalloc byte[4];
        bool afterUnknown = false;
        for (int i = 0; i < letters; i++)
        {
            ReadOnlySpan<char> letter = word.AsSpan(units[i], units[i + 1] - units[i]);
            bool marked = (continuing.Length > 0 && i > 0) || (ending.Length > 0 && i == letters - 1);
            if (marked ? Vocabulary.TryGetValue((i > 0 ? continuing : "") + letter.ToString() + (i == letters - 1 ? ending : ""), out int id) : lookup.TryGetValue(letter, out id))
            {
                pieces.Add(new(id, i, i + 1));
                afterUnknown = false;
                continue;
            }
            int count = Encoding.UTF8.GetBytes(letter, utf8);
            if (fallback && Bytes(utf8[..count]) is { } ids)
            {
                pieces.AddRange(ids.Select(b => new Piece(b, i, i + 1)));
                afterUnknown = false;
            }
            else if (unknown is { } unk)
            {
                if (fuse && afterUnknown)
                {
                    pieces[^1] = pieces[^1] with { End = i + 1 };
                }
                else
                {
                    pieces.Add(new(unk, i, i + 1));
                }
                afterUnknown = true;
            }
        }
        return pieces;
    }

    private int[]? Bytes(ReadOnlySpan<byte> utf8)
    {
        var ids = new int[utf8.Length];
        for (int i = 0; i < ids.Length; i++)
        {
            if (!Vocabulary.TryGetValue($"<0x{utf8[i]:X2}>", out ids[i]))
            {
                return null;
            }
        }
        return ids;
    }

    private int Id(string token, JsonPart part) => Vocabulary.TryGetValue(token, out int id) ? id : throw part.Wrong($"tokens of the vocabulary, which lacks {token}");
}

/// <summary>Unigram (arXiv 1804.10959): of all ways to cut a text the one whose tokens have the largest sum of scores.</summary>
internal sealed class UnigramModel : WordModel
{
    private const double Penalty = 10;
    private readonly double[] scores;
    private readonly int unknown, longest;
    private readonly double unknownScore;
    private readonly bool fallback;

    public UnigramModel(JsonPart part) : base(Read(part.At("vocab"), out double[] scores))
    {
        this.scores = scores;
        unknown = part.Number("unk_id", -1);
        fallback = part.Flag("byte_fallback");
        if (unknown >= scores.Length || scores.Length == 0)
        {
            throw part.At("unk_id").Wrong("an id of the vocabulary");
        }
        unknownScore = scores.Min() - Penalty;
        longest = Vocabulary.Keys.Max(k => k.Length);
    }

    protected override Piece[] Cut(string word, int letters)
    {
        int[] units = Units(word, letters);
        var lookup = Vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        var best = new (double Score, int From, int Id)[letters + 1];
        Array.Fill(best, (0, -1, -1));
        for (int start = 0; start < letters; start++)
        {
            bool single = false;
            for (int end = start + 1; end <= letters && units[end] - units[start] <= longest; end++)
            {
                if (lookup.TryGetValue(word.AsSpan(units[start], units[end] - units[start]), out int id) && scores.Length > id)
                {
                    Take(ref best[end], best[start].Score + scores[id], start, id);
                    single |= end == start + 1;
                }
            }
            if (!single)
            {
                Take(ref best[start + 1], best[start].Score + unknownScore, start, unknown);
            }
        }
        List<Piece> pieces = [];
        for (int end = letters; end > 0; end = best[end].From)
        {
            Piece piece = new(best[end].Id, best[end].From, end);
            if (piece.Id == unknown && pieces.Count > 0 && pieces[^1].Id == unknown)
            {
                pieces[^1] = piece with { End = pieces[^1].End };
            }
            else
            {
                pieces.Add(piece);
            }
        }
        pieces.Reverse();
        return fallback ? [.. pieces.SelectMany(p => p.Id == unknown && Bytes(word.AsSpan(units[p.Start], units[p.End] - units[p.Start])) is { } ids ? ids.Select(id => p with { Id = id }) : [p])] : [.. pieces];
    }

    /// <summary>An unknown stretch is spelled as it stands in the text.</summary>
    public override string Text(Piece piece, AlignedText of) => piece.Id == unknown ? of.Text(piece.Start, piece.End) : base.Text(piece, of);

    private static void Take(ref (double Score, int From, int Id) place, double score, int from, int id)
    {
        if (place.From < 0 || score > place.Score)
        {
            place = (score, from, id);
        }
    }

    private int[]? Bytes(ReadOnlySpan<char> text)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(text.ToString());
        int[] ids = [.. utf8.Select(b => Vocabulary.GetValueOrDefault($"<0x{b:X2}>", -1))];
        return ids.Contains(-1) ? null : ids;
    }

    private static Dictionary<string, int> Read(JsonPart part, out double[] scores)
    {
        var vocabulary = new Dictionary<string, int>(StringComparer.Ordinal);
        List<double> read = [];
        foreach (JsonPart entry in part.Items())
        {
            JsonPart[] pair = [.. entry.Items()];
            if (pair.Length != 2 || !pair[1].Json.TryGetDouble(out double score))
            {
                throw entry.Wrong("a token and its score");
            }
            vocabulary.TryAdd(pair[0].Text(), read.Count);
            read.Add(score);
        }
        scores = [.. read];
        return vocabulary;
    }
}
