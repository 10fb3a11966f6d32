namespace LowRank.Models;

/// <summary>On which side short rows are filled up.</summary>
public enum PaddingSide
{
    /// <summary>After the text: training, encoders.</summary>
    Right,
    /// <summary>Before the text: generation, so that every row ends at its last token.</summary>
    Left,
}

/// <summary>Rows of token ids of one length, with what tells text from padding.</summary>
public sealed class TextBatch
{
    /// <summary>Wraps ids [rows, tokens].</summary>
    /// <param name="rows">Number of texts.</param>
    /// <param name="ids">Row after row.</param>
    /// <param name="mask">1 for text, 0 for padding, as ids; null: all is text.</param>
    /// <param name="types">Which sentence a token belongs to, as ids; null: the first.</param>
    /// <param name="positions">Positions as ids, where they are not what the model makes of the mask.</param>
    /// <exception cref="ShapeException">Lengths differ, or there is nothing.</exception>
    public TextBatch(int rows, int[] ids, byte[]? mask = null, int[]? types = null, int[]? positions = null)
    {
        if (rows < 1 || ids.Length == 0 || ids.Length % rows != 0)
        {
            throw new ShapeException($"TextBatch: ids has {ids.Length} entries for {rows} rows, want as many in each row and at least one");
        }
        foreach ((string name, int? length) in (ReadOnlySpan<(string, int?)>)[("mask", mask?.Length), ("types", types?.Length), ("positions", positions?.Length)])
        {
            if (length is { } l && l != ids.Length)
            {
                throw new ShapeException($"TextBatch: {name} has {l} entries, want {ids.Length} as ids");
            }
        }
        (Rows, Ids, Mask, Types, Positions) = (rows, ids, mask, types, positions);
    }

    /// <summary>Number of texts.</summary>
    public int Rows { get; }

    /// <summary>Tokens a row.</summary>
    public int Tokens => Ids.Length / Rows;

    /// <summary>Token ids [rows, tokens].</summary>
    public int[] Ids { get; }

    /// <summary>1 for text, 0 for padding; null: all is text.</summary>
    public byte[]? Mask { get; }

    /// <summary>Sentence numbers; null: the first.</summary>
    public int[]? Types { get; }

    /// <summary>Positions where given.</summary>
    public int[]? Positions { get; }

    /// <summary>Texts of different lengths filled up to the longest.</summary>
    /// <param name="texts">Token ids of each.</param>
    /// <param name="padId">Fills short rows.</param>
    /// <param name="side">Where.</param>
    /// <param name="types">Sentence numbers of each text's tokens; null: the first.</param>
    /// <exception cref="ShapeException">There is no text, or one is empty.</exception>
    public static TextBatch Pad(IReadOnlyList<int[]> texts, int padId, PaddingSide side = PaddingSide.Right, IReadOnlyList<int[]>? types = null)
    {
        if (texts.Count == 0 || texts.Any(t => t.Length == 0))
        {
            throw new ShapeException($"TextBatch: {(texts.Count == 0 ? "there is no text" : "a text is empty")}, want at least one token each");
        }
        int tokens = texts.Max(t => t.Length);
        var ids = new int[texts.Count * tokens];
        var mask = new byte[ids.Length];
        int[]? kinds = types is null ? null : new int[ids.Length];
        Array.Fill(ids, padId);
        for (int row = 0; row < texts.Count; row++)
        {
            int start = (row * tokens) + (side == PaddingSide.Left ? tokens - texts[row].Length : 0);
            texts[row].CopyTo(ids, start);
            types?[row].CopyTo(kinds!, start);
            Array.Fill(mask, (byte)1, start, texts[row].Length);
        }
        return new(texts.Count, ids, mask.Contains((byte)0) ? mask : null, kinds);
    }

    /// <summary>True where a token is text.</summary>
    public bool IsText(int at) => Mask is null || Mask[at] != 0;

    /// <summary>Running count of text tokens minus one, at least 0, in each row: what generation counts positions by.</summary>
    public int[] CountedPositions()
    {
        var positions = new int[Ids.Length];
        for (int row = 0, at = 0; row < Rows; row++)
        {
            for (int t = 0, seen = 0; t < Tokens; t++, at++)
            {
                seen += IsText(at) ? 1 : 0;
                positions[at] = Math.Max(0, seen - 1);
            }
        }
        return positions;
    }

    /// <summary>0 .. tokens-1 in each row.</summary>
    public int[] PlainPositions() => [.. Enumerable.Range(0, Ids.Length).Select(i => i % Tokens)];

    /// <summary>Every id lies below <paramref name="vocabulary"/>.</summary>
    /// <exception cref="ShapeException">One does not: names its place in <paramref name="operand"/>.</exception>
    internal void RequireIds(int vocabulary, PretrainedModel model, string operand)
    {
        int wrong = Array.FindIndex(Ids, id => (uint)id >= (uint)vocabulary);
        if (wrong >= 0)
        {
            throw new ShapeException($"{model.GetType().Name}: {operand}[{wrong / Tokens}, {wrong % Tokens}] is {Ids[wrong]}, want 0 .. {vocabulary - 1}");
        }
    }
}
