namespace LowRank.Subspaces;

/// <summary>Observations that have been checked, sorted by row and, at once, by column.</summary>
internal sealed class Entries
{
    private const string Name = "MatrixCompletion";

    private Entries(int rows, int cols, long[] starts, int[] columns, double[] values)
    {
        (Rows, Cols, Starts, Columns, Values) = (rows, cols, starts, columns, values);
        var rowOf = new int[values.Length];
        for (int i = 0; i < rows; i++)
        {
            rowOf.AsSpan((int)starts[i], (int)(starts[i + 1] - starts[i])).Fill(i);
        }
        (int[] order, TurnedStarts) = Sorted(columns, cols, null);
        Turn = order;
        TurnedRows = [.. order.Select(at => rowOf[at])];
        RowOf = rowOf;
    }

    public int Rows { get; }

    public int Cols { get; }

    /// <summary>Where every row begins, and the number of entries.</summary>
    public long[] Starts { get; }

    /// <summary>Row of each entry in the order of rows.</summary>
    public int[] RowOf { get; }

    /// <summary>Column of each entry in the order of rows.</summary>
    public int[] Columns { get; }

    /// <summary>Value of each entry in the order of rows.</summary>
    public double[] Values { get; }

    /// <summary>Where every column begins, and the number of entries.</summary>
    public long[] TurnedStarts { get; }

    /// <summary>Row of each entry in the order of columns.</summary>
    public int[] TurnedRows { get; }

    /// <summary>Place, in the order of rows, of each entry in the order of columns.</summary>
    public int[] Turn { get; }

    /// <summary>Checks and sorts.</summary>
    /// <param name="data">The observations.</param>
    /// <param name="average">Entries at the same place become one with their mean value; else they are an error.</param>
    /// <exception cref="ShapeException">There is none, arrays differ in length, a place lies outside or occurs twice: names it.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite: names its place.</exception>
    public static Entries Of(Observations data, bool average)
    {
        if (data.Rows < 1 || data.Cols < 1 || data.Count < 1 || data.RowOf.Length != data.Count || data.ColOf.Length != data.Count)
        {
            throw new ShapeException($"{Name}: data is [{data.Rows}, {data.Cols}] with {data.RowOf.Length} rows, {data.ColOf.Length} columns and {data.Count} values, want at least one entry, and a row and a column for each");
        }
        for (int t = 0; t < data.Count; t++)
        {
            (int i, int j) = (data.RowOf[t], data.ColOf[t]);
            if ((uint)i >= (uint)data.Rows || (uint)j >= (uint)data.Cols)
            {
                throw new ShapeException($"{Name}: entry {t} is at ({i}, {j}), want a place in [{data.Rows}, {data.Cols}]");
            }
            if (!double.IsFinite(data.Values[t]))
            {
                throw new NumericException($"{Name}: entry {t} at ({i}, {j}) is {data.Values[t]}, want a finite value");
            }
        }
        int[] order = Sorted(data.RowOf, data.Rows, Sorted(data.ColOf, data.Cols, null).Order).Order;
        var (columns, values, starts) = (new List<int>(data.Count), new List<double>(data.Count), new long[data.Rows + 1]);
        for (int t = 0, end; t < order.Length; t = end)
        {
            (int i, int j) = (data.RowOf[order[t]], data.ColOf[order[t]]);
            double sum = 0;
            for (end = t; end < order.Length && data.RowOf[order[end]] == i && data.ColOf[order[end]] == j; end++)
            {
                sum += data.Values[order[end]];
            }
            if (end > t + 1 && !average)
            {
                throw new ShapeException($"{Name}: there are {end - t} entries at ({i}, {j}), want one; AverageDuplicates takes their mean");
            }
            columns.Add(j);
            values.Add(sum / (end - t));
            starts[i + 1]++;
        }
        for (int i = 0; i < data.Rows; i++)
        {
            starts[i + 1] += starts[i];
        }
        return new Entries(data.Rows, data.Cols, starts, [.. columns], [.. values]);
    }

    /// <summary>Values in the order of columns.</summary>
    public double[] Turned(double[] values) => [.. Turn.Select(at => values[at])];

    public static int CountEmpty(long[] starts)
    {
        int empty = 0;
        for (int i = 0; i + 1 < starts.Length; i++)
        {
            empty += starts[i] == starts[i + 1] ? 1 : 0;
        }
        return empty;
    }

    /// <summary>A stable counting sort: places in the order of their keys, and where each key begins.</summary>
    private static (int[] Order, long[] Starts) Sorted(int[] keys, int count, int[]? before)
    {
        var starts = new long[count + 1];
        foreach (int key in keys)
        {
            starts[key + 1]++;
        }
        for (int i = 0; i < count; i++)
        {
            starts[i + 1] += starts[i];
        }
        long[] next = [.. starts];
        var order = new int[keys.Length];
        for (int t = 0; t < keys.Length; t++)
        {
            int at = before is null ? t : before[t];
            order[next[keys[at]]++] = at;
        }
        return (order, starts);
    }
}
