using System.Text;
using System.Text.Json;
using LowRank.Formats;
using nietras.SeparatedValues;

namespace LowRank.Cli;

/// <summary>One labelled text of a table.</summary>
/// <param name="Text">The text.</param>
/// <param name="Pair">A second text beside it, or null.</param>
/// <param name="Label">As the file spells it.</param>
/// <param name="Line">Where it begins, from 1.</param>
internal sealed record TextRow(string Text, string? Pair, string Label, int Line);

/// <summary>Reads labelled texts from CSV, TSV or JSONL by the names of their columns. CSV fields may be quoted and then hold separators, quotes and line breaks.</summary>
internal static class TextTable
{
    /// <summary>Every row.</summary>
    /// <exception cref="ModelFormatException">A column or value is missing, or a line cannot be read: names file, line and column.</exception>
    /// <exception cref="IOException">The file is missing or unreadable.</exception>
    public static IReadOnlyList<TextRow> Read(string file, string textColumn, string? pairColumn, string labelColumn)
    {
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"{file}: there is no such file, want labelled texts as .csv, .tsv or .jsonl", file);
        }
        string[] columns = pairColumn is null ? [textColumn, labelColumn] : [textColumn, labelColumn, pairColumn];
        List<TextRow> rows = Path.GetExtension(file).ToUpperInvariant() switch
        {
            ".CSV" => Separated(file, ',', columns),
            ".TSV" => Separated(file, '\t', columns),
            ".JSONL" => Lines(file, columns),
            var other => throw new ModelFormatException($"{file}: the ending is {other}, want .csv, .tsv or .jsonl") { File = file },
        };
        return rows.Count > 0 ? rows : throw new ModelFormatException($"{file}: there is no row, want at least one labelled text") { File = file };
    }

    private static List<TextRow> Separated(string file, char separator, string[] columns)
    {
        RequireUtf8(file);
        List<TextRow> rows = [];
        try
        {
            using SepReader reader = Sep.New(separator).Reader(o => o with { Unescape = true }).FromFile(file);
            foreach (string column in columns)
            {
                if (!reader.Header.ColNames.Contains(column))
                {
                    throw new ModelFormatException($"{file}: line 1: there is no column {column}, want one of {string.Join(", ", reader.Header.ColNames)}") { File = file, Key = column };
                }
            }
            foreach (SepReader.Row row in reader)
            {
                rows.Add(new TextRow(row[columns[0]].ToString(), columns.Length > 2 ? row[columns[2]].ToString() : null, row[columns[1]].ToString(), row.LineNumberFrom));
            }
        }
        catch (Exception error) when (error is InvalidDataException or NotSupportedException or ArgumentException)
        {
            throw new ModelFormatException($"{file}: after line {(rows.Count == 0 ? 1 : rows[^1].Line)}: {error.Message}", error) { File = file };
        }
        return rows;
    }

    private static List<TextRow> Lines(string file, string[] columns)
    {
        RequireUtf8(file);
        List<TextRow> rows = [];
        int number = 0;
        foreach (string line in File.ReadLines(file))
        {
            number++;
            if (string.IsNullOrWhiteSpace(line))
            {
                continue;
            }
            try
            {
                using JsonDocument json = JsonDocument.Parse(line);
                string Value(string column) => json.RootElement.ValueKind == JsonValueKind.Object && json.RootElement.TryGetProperty(column, out JsonElement value) && value.ValueKind is JsonValueKind.String or JsonValueKind.Number or JsonValueKind.True or JsonValueKind.False
                    ? value.ToString()
                    : throw new ModelFormatException($"{file}: line {number}: there is no string or number {column}") { File = file, Key = column };
                rows.Add(new TextRow(Value(columns[0]), columns.Length > 2 ? Value(columns[2]) : null, Value(columns[1]), number));
            }
            catch (JsonException error)
            {
                throw new ModelFormatException($"{file}: line {number}, column {error.BytePositionInLine + 1}: this is no JSON object", error) { File = file };
            }
        }
        return rows;
    }

    /// <summary>Refuses a file with bytes that are no UTF-8.</summary>
    public static void RequireUtf8(string file)
    {
        try
        {
            using var reader = new StreamReader(file, new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true));
            var buffer = new char[1 << 16];
            while (reader.ReadBlock(buffer) > 0)
            {
            }
        }
        catch (DecoderFallbackException error)
        {
            throw new ModelFormatException($"{file}: bytes that are no UTF-8 ({string.Join(' ', (error.BytesUnknown ?? []).Select(b => b.ToString("X2", System.Globalization.CultureInfo.InvariantCulture)))}): convert the file first", error) { File = file };
        }
    }
}
