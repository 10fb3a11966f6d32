using System.Text.Json;
using LowRank.Formats;

namespace LowRank.Models.Tokenizers;

/// <summary>Reads parts of tokenizer.json: each is an object with a type.</summary>
internal readonly struct JsonPart(string file, string key, JsonElement json)
{
    public string Key => key;

    public JsonElement Json => json;

    /// <summary>The part's type; empty where there is none.</summary>
    public string Type => json.ValueKind == JsonValueKind.Object && json.TryGetProperty("type", out JsonElement type) && type.ValueKind == JsonValueKind.String ? type.GetString()! : "";

    public bool IsNull => json.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined;

    public JsonPart At(string name) => new(file, $"{key}.{name}", json.ValueKind == JsonValueKind.Object && json.TryGetProperty(name, out JsonElement value) ? value : default);

    public IEnumerable<JsonPart> Items()
    {
        if (json.ValueKind != JsonValueKind.Array)
        {
            throw Wrong("a list");
        }
        int i = 0;
        foreach (JsonElement item in json.EnumerateArray())
        {
            yield return new(file, $"{key}[{i++}]", item);
        }
    }

    public bool Flag(string name, bool missing = false) => At(name) is { IsNull: false } part ? part.Json.ValueKind is JsonValueKind.True or JsonValueKind.False ? part.Json.GetBoolean() : throw part.Wrong("true or false") : missing;

    public string Text(string name, string? missing = null) => At(name) is { IsNull: false } part ? part.Text() : missing ?? throw At(name).Wrong("a string");

    public string Text() => json.ValueKind == JsonValueKind.String ? json.GetString()! : throw Wrong("a string");

    public int Number(string name, int? missing = null) => At(name) is { IsNull: false } part ? part.Number() : missing ?? throw At(name).Wrong("an integer");

    public int Number() => json.ValueKind == JsonValueKind.Number && json.TryGetInt32(out int value) ? value : throw Wrong("an integer");

    public ModelFormatException Wrong(string want) => new($"{file}: {key} is {(IsNull ? "missing" : Short(json.GetRawText()))}, want {want}") { File = file, Key = key };

    public ModelFormatException UnknownType(params ReadOnlySpan<string> known) => new($"{file}: {key}.type is '{Short(Type)}', want one of {string.Join(", ", known.ToArray())}") { File = file, Key = key };

    private static string Short(string text) => text.Length > 60 ? text[..60] + "..." : text;
}
