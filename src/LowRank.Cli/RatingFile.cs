using System.Globalization;
using LowRank.Formats;
using LowRank.Subspaces;

namespace LowRank.Cli;

/// <summary>Ratings by names of rows and columns: tables (.csv, .tsv, .jsonl) with columns of these names, or .npz with arrays of these names.</summary>
internal sealed record RatingFile(string File, string[] Rows, string[] Cols, double[] Values)
{
    private const string Archive = ".npz";

    /// <summary>Reads a file.</summary>
    /// <param name="file">The file.</param>
    /// <param name="columns">Names of row, column and value.</param>
    /// <exception cref="ModelFormatException">A column is missing or a value no number: names file and line.</exception>
    /// <exception cref="IOException">The file is missing or unreadable.</exception>
    public static RatingFile Read(string file, IReadOnlyList<string> columns)
    {
        if (Path.GetExtension(file).Equals(Archive, StringComparison.OrdinalIgnoreCase))
        {
            return ReadArrays(file, columns);
        }
        IReadOnlyList<TextRow> rows = TextTable.Read(file, [.. columns]);
        double Value(TextRow row) => double.TryParse(row[2], NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && double.IsFinite(value)
            ? value
            : throw new ModelFormatException($"{file}: line {row.Line}: {columns[2]} is '{row[2]}', want a number") { File = file, Key = columns[2] };
        return new RatingFile(file, [.. rows.Select(r => r[0])], [.. rows.Select(r => r[1])], [.. rows.Select(Value)]);
    }

    /// <summary>The observations of the file by the places of names; -1 for a name that has none.</summary>
    public Observations At(IReadOnlyDictionary<string, int> rows, IReadOnlyDictionary<string, int> cols) =>
        new(rows.Count, cols.Count, [.. Rows.Select(r => rows.GetValueOrDefault(r, -1))], [.. Cols.Select(c => cols.GetValueOrDefault(c, -1))], Values);

    /// <summary>A share of the entries taken out at random.</summary>
    public (RatingFile Kept, RatingFile Held) Split(double share, ulong seed)
    {
        int[] places = [.. Enumerable.Range(0, Values.Length)];
        (Observations kept, Observations held) = new Observations(1, Values.Length, new int[Values.Length], places, Values).Split(share, seed);
        return (Part(kept.ColOf), Part(held.ColOf));
    }

    private RatingFile Part(int[] places) => new(File, [.. places.Select(t => Rows[t])], [.. places.Select(t => Cols[t])], [.. places.Select(t => Values[t])]);

    private static RatingFile ReadArrays(string file, IReadOnlyList<string> columns)
    {
        using NpzFile archive = NpzFile.Open(file);
        string[] Ids(string name) => [.. archive.ReadInt64(name).Select(id => id.ToString(CultureInfo.InvariantCulture))];
        var read = new RatingFile(file, Ids(columns[0]), Ids(columns[1]), archive.ReadDouble(columns[2]));
        return read.Values.Length > 0 && read.Rows.Length == read.Values.Length && read.Cols.Length == read.Values.Length
            ? read
            : throw new ModelFormatException($"{file}: {string.Join(", ", columns)} have {read.Rows.Length}, {read.Cols.Length} and {read.Values.Length} values, want equally many, at least one") { File = file };
    }
}
