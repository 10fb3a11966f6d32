using System.Runtime.InteropServices;
using System.Text;

namespace LowRank.Models.Tokenizers;

/// <summary>Unigram (arXiv 1804.10959): of all ways to cut a text the one whose tokens have the largest sum of scores.</summary>
internal sealed class UnigramModel : WordModel
{
    private const double Penalty = 10;
    private readonly double[] scores;
    private readonly int unknown;
    private readonly double unknownScore;
    private readonly bool fallback;
    private readonly Dictionary<long, int> steps = [];      // the tokens as a tree of characters, its root 0
    private readonly Dictionary<int, int> ends = [];               // the token that ends at a node

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
        foreach ((string token, int id) in Vocabulary)
        {
            int node = 0;
            foreach (char c in token)
            {
                ref int next = ref CollectionsMarshal.GetValueRefOrAddDefault(steps, Step(node, c), out bool known);
                node = next = known ? next : steps.Count;
            }
            ends[node] = id;
        }
    }

    protected override Piece[] Cut(string word, int letters)
    {
        int[] units = Units(word, letters);
        var best = new (double Score, int From, int Id)[letters + 1];
        Array.Fill(best, (0, -1, -1));
        for (int start = 0; start < letters; start++)
        {
            bool single = false;
            int node = 0;
            for (int end = start + 1; end <= letters && TryStep(ref node, word.AsSpan(units[end - 1], units[end] - units[end - 1])); end++)
            {
                if (ends.TryGetValue(node, out int id))
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

    private static long Step(int node, char c) => ((long)node << 16) | c;

    private bool TryStep(ref int node, ReadOnlySpan<char> letter)
    {
        foreach (char c in letter)
        {
            if (!steps.TryGetValue(Step(node, c), out node))
            {
                return false;
            }
        }
        return true;
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
