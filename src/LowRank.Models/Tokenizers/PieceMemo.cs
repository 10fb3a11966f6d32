namespace LowRank.Models.Tokenizers;

/// <summary>The pieces of texts met before: words come again. Safe from several threads.</summary>
internal sealed class PieceMemo
{
    /// <summary>Longer texts are not kept (units of UTF-16).</summary>
    public const int Longest = 64;

    private const int Most = 1 << 16;
    private readonly Dictionary<string, Piece[]> kept = new(StringComparer.Ordinal);

    /// <summary>Cuts a text.</summary>
    public delegate Piece[] Cut(ReadOnlySpan<char> text);

    /// <summary>The pieces of a text of at most <see cref="Longest"/> units; <paramref name="cut"/> makes them the first time.</summary>
    public Piece[] Of(ReadOnlySpan<char> text, Cut cut)
    {
        lock (kept)
        {
            if (kept.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(text, out Piece[]? found))
            {
                return found;
            }
        }
        Piece[] pieces = cut(text);
        lock (kept)
        {
            if (kept.Count >= Most)
            {
                kept.Clear();
            }
            kept[text.ToString()] = pieces;
        }
        return pieces;
    }
}
