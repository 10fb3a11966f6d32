namespace LowRank;

/// <summary>A run of tokens with one adapter.</summary>
/// <param name="First">The first token.</param>
/// <param name="Tokens">How many; 0 is allowed.</param>
/// <param name="Adapter">Index into the layer's <see cref="AdapterTable"/>, or <see cref="AdapterChoice.None"/>.</param>
public readonly record struct AdapterSegment(int First, int Tokens, int Adapter);

/// <summary>Which adapter each row of a batch takes. Made once a batch and used by every layer.</summary>
public sealed class AdapterChoice
{
    /// <summary>The index of no adapter: such a row is one of the plain linear layer.</summary>
    public const int None = -1;

    /// <summary>Tokens of a piece at most: a tile of the CUDA kernels.</summary>
    internal const int PieceTokens = 64;

    private readonly DeviceTable<LoraPiece> pieces;

    private AdapterChoice(int tokens, List<AdapterSegment> segments)
    {
        Tokens = tokens;
        Segments = segments;
        List<LoraPiece> cut = [];
        foreach (AdapterSegment s in segments)
        {
            for (int done = 0; done < s.Tokens; done += PieceTokens)
            {
                cut.Add(new LoraPiece { First = s.First + done, Tokens = Math.Min(PieceTokens, s.Tokens - done), Adapter = s.Adapter });
            }
            Adapters = Math.Max(Adapters, s.Adapter + 1);
        }
        pieces = new([.. cut]);
    }

    /// <summary>Rows of the batch.</summary>
    public int Tokens { get; }

    /// <summary>The runs that have an adapter, by token; neighbours with the same adapter are one.</summary>
    public IReadOnlyList<AdapterSegment> Segments { get; }

    /// <summary>The number of adapters that a table needs to have.</summary>
    public int Adapters { get; }

    internal int PieceCount => pieces.Values.Length;

    /// <summary>An adapter for each row, or for each sequence of <paramref name="tokensEach"/> rows.</summary>
    /// <exception cref="ShapeException">An index is below <see cref="None"/>, or <paramref name="tokensEach"/> below 0.</exception>
    public static AdapterChoice PerRow(ReadOnlySpan<int> adapters, int tokensEach = 1)
    {
        if (tokensEach < 0)
        {
            throw new ShapeException($"AdapterChoice: tokensEach is {tokensEach}, want 0 or more");
        }
        var segments = new AdapterSegment[adapters.Length];
        for (int i = 0; i < segments.Length; i++)
        {
            segments[i] = new(checked(i * tokensEach), tokensEach, adapters[i]);
        }
        return Of(checked(adapters.Length * tokensEach), segments);
    }

    /// <summary>Runs of rows, sorted and disjoint; a row in none of them takes no adapter.</summary>
    /// <exception cref="ShapeException">A segment starts before the end of the one before, ends after <paramref name="tokens"/>, has a negative length,
    /// or its adapter is below <see cref="None"/>.</exception>
    public static AdapterChoice Of(int tokens, params ReadOnlySpan<AdapterSegment> segments)
    {
        List<AdapterSegment> runs = [];
        int end = 0;
        for (int i = 0; i < segments.Length; i++)
        {
            AdapterSegment s = segments[i];
            if (s.Tokens < 0 || s.First < end || s.First > tokens - s.Tokens)
            {
                throw new ShapeException($"AdapterChoice: segment {i} is rows {s.First} .. {(long)s.First + s.Tokens - 1}, want a range within {end} .. {tokens - 1}: sorted, without overlap");
            }
            if (s.Adapter < None)
            {
                throw new ShapeException($"AdapterChoice: adapter of segment {i} is {s.Adapter}, want an index, or {None} for none");
            }
            end = s.First + s.Tokens;
            if (s.Adapter == None || s.Tokens == 0)
            {
                continue;
            }
            if (runs.Count > 0 && runs[^1] is var last && last.Adapter == s.Adapter && last.First + last.Tokens == s.First)
            {
                runs[^1] = last with { Tokens = last.Tokens + s.Tokens };
            }
            else
            {
                runs.Add(s);
            }
        }
        return new(tokens, runs);
    }

    /// <summary>How many rows in how many runs.</summary>
    public override string ToString() => $"{Segments.Count} runs in {Tokens} rows";

    internal nint On(Scope scope) => pieces.On(scope);
}
