using System.Runtime.InteropServices;
using System.Text;

namespace LowRank.Models.Tokenizers;

/// <summary>Byte pair encoding (arXiv 1508.07909): the pair with the lowest rank merges first, the leftmost of equals, until none is left.</summary>
internal sealed class BpeModel : WordModel
{
    private readonly Dictionary<(int, int), (int Rank, int Id)> merges = [];
    private readonly int? unknown;
    private readonly bool fuse, fallback, wholeFirst;
    private readonly string continuing, ending;
    private readonly HashSet<(int, int)>? joints;           // neighbours inside a merged token; null: texts are not parted
    private readonly PieceMemo parts = new();
    private readonly bool[] isLetter = new bool[char.MaxValue + 1];     // tokens of one unit of UTF-16

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
        foreach (string token in Vocabulary.Keys.Where(t => t.Length == 1))
        {
            isLetter[token[0]] = true;
        }
        joints = continuing.Length == 0 && ending.Length == 0 && !merges.Keys.Any(m => IsByte(m.Item1) || IsByte(m.Item2) || m.Item1 == unknown || m.Item2 == unknown) ? Joints() : null;
    }

    protected override Piece[] Cut(string word, int letters)
    {
        if (wholeFirst && Vocabulary.TryGetValue(word, out int whole))
        {
            return [new(whole, 0, letters)];
        }
        return joints is null || word.Length <= PieceMemo.Longest ? Merged(word, letters) : Parted(word, letters);
    }

    /// <summary>A long text part by part: two letters that stand together in no merged token are merged by nothing, so what lies on either side is independent.</summary>
    private Piece[] Parted(string word, int letters)
    {
        var lookup = Vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        List<Piece> pieces = new(letters / 3);
        int at = 0, letter = 0;         // where the part under way began
        int before = -1, count = 0;     // the letter before this one, -1 where it is no token; letters of the part
        for (int i = 0; i < word.Length;)
        {
            int units = char.IsHighSurrogate(word[i]) ? 2 : 1;
            int rune = units == 1 ? (isLetter[word[i]] ? word[i] : -1) : lookup.ContainsKey(word.AsSpan(i, 2)) ? char.ConvertToUtf32(word, i) : -1;
            if (before >= 0 && rune >= 0 && !joints!.Contains((before, rune)))
            {
                Add(i);
            }
            (before, i, count) = (rune, i + units, count + 1);
        }
        Add(word.Length);
        return [.. pieces];

        void Add(int end)
        {
            ReadOnlySpan<char> part = word.AsSpan(at, end - at);
            int of = count;
            Piece[] cut = part.Length > PieceMemo.Longest ? Merged(part.ToString(), of) : parts.Of(part, p => Merged(p.ToString(), of));
            foreach (Piece piece in cut)
            {
                pieces.Add(new(piece.Id, piece.Start + letter, piece.End + letter));
            }
            (at, letter, count) = (end, letter + count, 0);
        }
    }

    private Piece[] Merged(string word, int letters)
    {
        List<Piece> pieces = Letters(word, Units(word, letters), letters);
        var next = new int[pieces.Count];
        var previous = new int[pieces.Count];
        var queue = new MergeQueue();
        for (int i = 0; i < next.Length; i++)
        {
            (previous[i], next[i]) = (i - 1, i + 1 < next.Length ? i + 1 : -1);
        }
        Span<Piece> all = CollectionsMarshal.AsSpan(pieces);
        for (int i = 0; i + 1 < all.Length; i++)
        {
            Offer(all, i, i + 1);
        }
        while (queue.TryTake(out int rank, out int left))
        {
            int right = next[left];
            // Either side may have become something else since.
            if (all[left].Id < 0 || right < 0 || !merges.TryGetValue((all[left].Id, all[right].Id), out var now) || now.Rank != rank)
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
                queue.Add(merge.Rank, left);
            }
        }
    }

    private HashSet<(int, int)> Joints()
    {
        HashSet<(int, int)> found = [];
        foreach ((_, int id) in merges.Values)
        {
            int before = -1;
            foreach (Rune rune in Tokens[id]!.EnumerateRunes())
            {
                found.Add((before, rune.Value));
                before = rune.Value;
            }
        }
        return found;
    }

    private bool IsByte(int id) => fallback && Tokens[id] is ['<', '0', 'x', _, _, '>'];

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

/// <summary>Merges to be made, the lowest rank first and of one rank the leftmost: a list of places a rank. Much the same as a heap, but long texts have far fewer
/// ranks than places.</summary>
internal sealed class MergeQueue
{
    private readonly Dictionary<int, Places> byRank = [];
    private readonly PriorityQueue<Places, int> ranks = new();

    public void Add(int rank, int left)
    {
        if (!byRank.TryGetValue(rank, out Places? places))
        {
            byRank.Add(rank, places = new());
            ranks.Enqueue(places, rank);
        }
        places.Add(left);
    }

    public bool TryTake(out int rank, out int left)
    {
        while (ranks.TryPeek(out Places? places, out rank))
        {
            if (places.TryTake(out left))
            {
                return true;
            }
            ranks.Dequeue();
            byRank.Remove(rank);
        }
        (rank, left) = (-1, -1);
        return false;
    }

    private sealed class Places
    {
        private readonly List<int> places = [];
        private int taken;
        private bool sorted = true;

        public void Add(int left)
        {
            sorted &= places.Count == taken || places[^1] <= left;
            places.Add(left);
        }

        public bool TryTake(out int left)
        {
            if (!sorted)
            {
                places.Sort(taken, places.Count - taken, null);
                sorted = true;
            }
            left = taken < places.Count ? places[taken++] : -1;
            return left >= 0;
        }
    }
}
