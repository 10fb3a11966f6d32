using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary>Results go to standard output, as a table or as JSON; progress goes to standard error.</summary>
internal static class Output
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes rows as JSON objects, or as an aligned table with their keys as headings.</summary>
    public static void Rows(IReadOnlyList<JsonObject> rows, bool json)
    {
        if (json)
        {
            Json(new JsonArray([.. rows.Select(r => r.DeepClone())]));
            return;
        }
        if (rows.Count == 0)
        {
            return;
        }
        string[] keys = [.. rows[0].Select(p => p.Key)];
        string[][] cells = [keys, .. rows.Select(r => keys.Select(k => Cell(r[k])).ToArray())];
        int[] widths = [.. keys.Select((_, i) => cells.Max(c => c[i].Length))];
        foreach (string[] line in cells)
        {
            Console.Out.WriteLine(string.Join("  ", line.Select((c, i) => c.PadRight(widths[i]))).TrimEnd());
        }
    }

    /// <summary>Writes one object: as JSON, or as a line a key.</summary>
    public static void Facts(JsonObject facts, bool json)
    {
        if (json)
        {
            Json(facts);
            return;
        }
        int width = facts.Max(p => p.Key.Length);
        foreach ((string key, JsonNode? value) in facts)
        {
            Console.Out.WriteLine($"{key.PadRight(width)}  {Cell(value)}");
        }
    }

    /// <summary>Writes one JSON value, indented.</summary>
    public static void Json(JsonNode value) => Console.Out.WriteLine(value.ToJsonString(Indented));

    /// <summary>Writes a line of text.</summary>
    public static void Line(string text = "") => Console.Out.WriteLine(text);

    /// <summary>Writes text that ends its lines itself.</summary>
    public static void Text(string text) => Console.Out.Write(text);

    /// <summary>Tells a user what the work met, on standard error.</summary>
    public static void Warn(IEnumerable<string> warnings)
    {
        foreach (string warning in warnings)
        {
            Console.Error.WriteLine($"lowrank: {warning}");
        }
    }

    /// <summary>A value of a table as JSON; NaN, which it has not, becomes null.</summary>
    public static JsonNode? Value(object cell) => cell switch
    {
        string text => text,
        int number => number,
        double number => double.IsFinite(number) ? number : null,
        _ => throw new ArgumentException($"Output: a cell is {cell.GetType().Name}, want string, int or double", nameof(cell)),
    };

    private static string Cell(JsonNode? value) => value is null ? "-" : value is JsonArray list ? string.Join(",", list) : value.ToString();
}
