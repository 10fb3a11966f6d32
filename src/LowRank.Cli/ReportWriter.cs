using System.Globalization;
using System.Text;
using System.Text.Json;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary>What a run leaves for people and programs: facts, one table, charts.</summary>
/// <param name="Title">First line of report.md.</param>
/// <param name="Facts">Name and value, in order: model, data, seeds, machine, command line.</param>
/// <param name="Columns">Heads of the table.</param>
/// <param name="Rows">A cell a column: a string, a number or a bool; numbers are written as they are into report.json.</param>
/// <param name="Charts">Each becomes NAME.png, its points go into report.json.</param>
internal sealed record Report(
    string Title, IReadOnlyList<(string Name, string Value)> Facts, IReadOnlyList<string> Columns, IReadOnlyList<IReadOnlyList<object>> Rows, IReadOnlyList<ReportChart> Charts);

/// <summary>Writes report.md, report.json and a PNG a chart into a folder; each file appears whole or not at all.</summary>
internal static class ReportWriter
{
    private static readonly JsonWriterOptions Indented = new() { Indented = true, NewLine = "\n" };

    /// <summary>Writes the report; existing files of the same names are replaced.</summary>
    /// <returns>The paths written; report.md comes last, so whoever finds it finds the pictures it shows.</returns>
    /// <exception cref="ShapeException">A row has not one cell a column.</exception>
    /// <exception cref="IOException">The folder cannot be written.</exception>
    public static IReadOnlyList<string> Write(string folder, Report report)
    {
        foreach (IReadOnlyList<object> row in report.Rows)
        {
            if (row.Count != report.Columns.Count)
            {
                throw new ShapeException($"Report: row {string.Join(" | ", row)} has {row.Count} cells, want {report.Columns.Count}");
            }
        }
        (string File, byte[] Bytes)[] files =
        [
            .. report.Charts.Select(chart => (chart.Name + ".png", chart.ToPng())),
            ("report.json", Json(report)),
            ("report.md", Encoding.UTF8.GetBytes(Markdown(report))),
        ];
        Directory.CreateDirectory(folder);
        foreach ((string file, byte[] bytes) in files)
        {
            AtomicFile.WriteBytes(Path.Combine(folder, file), bytes);
        }
        return [.. files.Select(f => Path.Combine(folder, f.File))];
    }

    /// <summary>The report as GitHub Markdown; the charts are pictures beside it.</summary>
    public static string Markdown(Report report)
    {
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"# {report.Title}\n\n");
        foreach ((string name, string value) in report.Facts)
        {
            text.Append(CultureInfo.InvariantCulture, $"- {name}: {value}\n");
        }
        text.Append(CultureInfo.InvariantCulture, $"\n| {string.Join(" | ", report.Columns.Select(Cell))} |\n");
        text.Append(CultureInfo.InvariantCulture, $"|{string.Concat(report.Columns.Select((_, i) => report.Rows.Count > 0 && report.Rows[0][i] is string ? "---|" : "---:|"))}\n");
        foreach (IReadOnlyList<object> row in report.Rows)
        {
            text.Append(CultureInfo.InvariantCulture, $"| {string.Join(" | ", row.Select(Cell))} |\n");
        }
        foreach (ReportChart chart in report.Charts)
        {
            text.Append(CultureInfo.InvariantCulture, $"\n![{chart.Title}]({chart.Name}.png)\n");
        }
        return text.ToString();
    }

    /// <summary>{title, facts: {name: value}, rows: [{column: cell}], charts: {name: {x, y, curves: [{label, x, y, deviation?}]}}} as UTF-8.</summary>
    public static byte[] Json(Report report)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter json = new(stream, Indented))
        {
            json.WriteStartObject();
            json.WriteString("title", report.Title);
            json.WriteStartObject("facts");
            foreach ((string name, string value) in report.Facts)
            {
                json.WriteString(name, value);
            }
            json.WriteEndObject();
            json.WriteStartArray("rows");
            foreach (IReadOnlyList<object> row in report.Rows)
            {
                json.WriteStartObject();
                for (int i = 0; i < row.Count; i++)
                {
                    json.WritePropertyName(report.Columns[i]);
                    WriteCell(json, row[i]);
                }
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteStartObject("charts");
            foreach (ReportChart chart in report.Charts)
            {
                WriteChart(json, chart);
            }
            json.WriteEndObject();
            json.WriteEndObject();
        }
        return stream.ToArray();
    }

    private static void WriteChart(Utf8JsonWriter json, ReportChart chart)
    {
        json.WriteStartObject(chart.Name);
        json.WriteString("x", chart.XLabel);
        json.WriteString("y", chart.YLabel);
        json.WriteStartArray("curves");
        foreach (Curve curve in chart.Curves)
        {
            json.WriteStartObject();
            json.WriteString("label", curve.Label);
            WriteNumbers(json, "x", curve.X);
            WriteNumbers(json, "y", curve.Y);
            if (curve.Deviation is not null)
            {
                WriteNumbers(json, "deviation", curve.Deviation);
            }
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, double[] values)
    {
        json.WriteStartArray(name);
        foreach (double value in values)
        {
            WriteCell(json, value);
        }
        json.WriteEndArray();
    }

    // JSON has no NaN and no infinity: they become null.
    private static void WriteCell(Utf8JsonWriter json, object cell)
    {
        switch (cell)
        {
            case bool fact:
                json.WriteBooleanValue(fact);
                break;
            case int or long:
                json.WriteNumberValue(Convert.ToInt64(cell, CultureInfo.InvariantCulture));
                break;
            case float or double when double.IsFinite(Convert.ToDouble(cell, CultureInfo.InvariantCulture)):
                json.WriteNumberValue(Convert.ToDouble(cell, CultureInfo.InvariantCulture));
                break;
            case float or double:
                json.WriteNullValue();
                break;
            default:
                json.WriteStringValue(cell.ToString());
                break;
        }
    }

    private static string Cell(object cell) => cell switch
    {
        float or double => Convert.ToDouble(cell, CultureInfo.InvariantCulture).ToString("0.####", CultureInfo.InvariantCulture),
        int or long => Convert.ToInt64(cell, CultureInfo.InvariantCulture).ToString("N0", CultureInfo.InvariantCulture),
        bool fact => fact ? "yes" : "no",
        _ => cell.ToString()!.Replace("|", "\\|", StringComparison.Ordinal),
    };
}
