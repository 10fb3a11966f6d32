using System.Text.Json;
using LowRank.Formats;
using nietras.SeparatedValues;

namespace LowRank.Cli;

/// <summary>One row of a table.</summary>
/// <param name="Fields">Of the columns that were asked for, in their order; null for a column that was not.</param>
/// <param name="Line">Where it begins, from 1.</param>
internal sealed record TextRow(IReadOnlyList<string?> Fields, int Line)
{
    /// <summary>A field that was asked for.</summary>
    public string this[int column] => Fields[column]!;
}

/// <summary>Reads CSV, TSV or JSONL by the names of columns. CSV fields may be quoted and then hold separators, quotes and line breaks.</summary>
internal static class TextTable
{
    /// <summary>What a table may be called.</summary>
    public const string Endings = ".csv, .tsv or .jsonl";

    /// <summary>Every row.</summary>
    /// <param name="file">The file.</param>
    /// <param name="columns">Names; null for one that is not asked for.</param>
    /// <exception cref="ModelFormatException">A column or value is missing, or a line cannot be read: names file, line and column.</exception>
    /// <exception cref="IOException">The file is missing or unreadable.</exception>
    public static IReadOnlyList<TextRow> Read(string file, params IReadOnlyList<string?> columns)
    {
        List<TextRow> rows = TextFile.Read(file, $"texts as {Endings}", reader => Path.GetExtension(file).ToUpperInvariant() switch
        {
            ".CSV" => Separated(file, reader, ',', columns),
            ".TSV" => Separated(file, reader, '\t', columns),
            ".JSONL" => Lines(file, reader, columns),
            var other => throw new ModelFormatException($"{file}: the ending is {other}, want {Endings}") { File = file },
        });
        return rows.Count > 0 ? rows : throw new ModelFormatException($"{file}: there is no row, want at least one") { File = file };
    }

    private static List<TextRow> Separated(string file, StreamReader text, char separator, IReadOnlyList<string?> columns)
    {
        List<TextRow> rows = [];
        try
        {
            using SepReader reader = Sep.New(separator).Reader(o => o with { Unescape = true }).From(text);
            if (columns.OfType<string>().FirstOrDefault(c => !reader.Header.ColNames.Contains(c)) is { } missing)
            {
                throw new ModelFormatException($"{file}: line 1: there is no column {missing}, want one of {string.Join(", ", reader.Header.ColNames)}") { File = file, Key = missing };
            }
            foreach (SepReader.Row row in reader)
            {
                var fields = new string?[columns.Count];
                for (int i = 0; i < fields.Length; i++)
                {
                    fields[i] = columns[i] is { } column ? row[column].ToString() : null;
                }
                rows.Add(new TextRow(fields, row.LineNumberFrom));
            }
        }
        catch (Exception error) when (error is InvalidDataException or NotSupportedException or ArgumentException and not System.Text.DecoderFallbackException)
        {
            throw new ModelFormatException($"{file}: after line {(rows.Count == 0 ? 1 : rows[^1].Line)}: {error.Message}", error) { File = file };
        }
        return rows;
    }

    private static List<TextRow> Lines(string file, StreamReader text, IReadOnlyList<string?> columns)
    {
        List<TextRow> rows = [];
        foreach ((int at, string line) in TextFile.Lines(text).Index())
        {
            if (string.IsNullOrWhiteSpace(line))
            {
                continue;
            }
            try
            {
                using JsonDocument json = JsonDocument.Parse(line);
                string Value(string column) => json.RootElement.ValueKind == JsonValueKind.Object && json.RootElement.TryGetProperty(column, out JsonElement value) && value.ValueKind is JsonValueKind.String or JsonValueKind.Number or JsonValueKind.True or JsonValueKind.False
                    ? value.ToString()
                    : throw new ModelFormatException($"{file}: line {at + 1}: there is no string or number {column}") { File = file, Key = column };
                rows.Add(new TextRow([.. columns.Select(c => c is null ? null : Value(c))], at + 1));
            }
            catch (JsonException error)
            {
                throw new ModelFormatException($"{file}: line {at + 1}, column {error.BytePositionInLine + 1}: this is no JSON object", error) { File = file };
            }
        }
        return rows;
    }
}
