namespace LowRank.Models.Tokenizers;

/// <summary>A piece of a word: its id and how many letters of the word it takes; the letters of pieces may overlap where a letter is cut into bytes.</summary>
internal readonly record struct Piece(int Id, int Start, int End);

/// <summary>The model of tokenizer.json: turns the letters of one piece of text into ids.</summary>
internal abstract class WordModel
{
    private readonly PieceMemo kept = new();

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
        return word.Length > PieceMemo.Longest ? Cut(word, text.Count) : kept.Of(word, w => Cut(w.ToString(), text.Count));
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
    private readonly int longest, unknown, longestToken;

    public WordPieceModel(JsonPart part) : base(ReadVocabulary(part.At("vocab")))
    {
        prefix = part.Text("continuing_subword_prefix", "##");
        longest = part.Number("max_input_chars_per_word", 100);
        longestToken = Vocabulary.Keys.Select(k => k.Length).DefaultIfEmpty().Max();
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
            int end = Math.Min(letters, start + longestToken), id = -1;     // a letter is one unit of UTF-16 at least
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
