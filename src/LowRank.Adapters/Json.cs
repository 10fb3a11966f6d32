using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

internal delegate void ReadItem(ref Utf8JsonReader reader);

/// <summary>JSON as Python writes it: sorted keys, two spaces, floats with a decimal point.</summary>
internal static class Json
{
    public static void ReadList(ref Utf8JsonReader reader, ReadItem item)
    {
        if (reader.TokenType != JsonTokenType.StartArray)
        {
            throw new JsonException("want a list");
        }
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            item(ref reader);
        }
    }

    /// <summary>A copy with the keys of every object in ordinal order.</summary>
    public static JsonNode? Sorted(JsonNode? node)
    {
        switch (node)
        {
            case JsonObject table:
                var sorted = new JsonObject();
                foreach ((string key, JsonNode? value) in table.OrderBy(p => p.Key, StringComparer.Ordinal))
                {
                    sorted.Add(key, Sorted(value));
                }
                return sorted;
            case JsonArray list:
                return new JsonArray([.. list.Select(Sorted)]);
            default:
                return node?.DeepClone();
        }
    }

    /// <summary>A JSON constant.</summary>
    public static JsonElement Element(string json)
    {
        using JsonDocument document = JsonDocument.Parse(json);
        return document.RootElement.Clone();
    }

    /// <summary>A whole value without a point, any other as the shortest text that reads back the same.</summary>
    public static string Number(double value) => value == Math.Floor(value) && Math.Abs(value) < 1e15
        ? ((long)value).ToString(CultureInfo.InvariantCulture)
        : value.ToString("R", CultureInfo.InvariantCulture);

    /// <summary>A finite number of the reader.</summary>
    public static double ReadNumber(ref Utf8JsonReader reader) =>
        reader.TokenType == JsonTokenType.Number && reader.GetDouble() is var value && double.IsFinite(value) ? value : throw new JsonException("want a finite number");
}

/// <summary>Numbers that PEFT holds as int or float: whole ones without a point.</summary>
internal sealed class NumberConverter : JsonConverter<double>
{
    public override double Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => Json.ReadNumber(ref reader);

    public override void Write(Utf8JsonWriter writer, double value, JsonSerializerOptions options) => writer.WriteRawValue(Json.Number(value));
}

/// <summary>Numbers that PEFT holds as float: always with a point.</summary>
internal sealed class FloatConverter : JsonConverter<double>
{
    public override double Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => Json.ReadNumber(ref reader);

    public override void Write(Utf8JsonWriter writer, double value, JsonSerializerOptions options)
    {
        string text = Json.Number(value);
        writer.WriteRawValue(text.AsSpan().ContainsAny('.', 'E') ? text : text + ".0");
    }
}

/// <summary>Patterns and their numbers, whole ones without a point.</summary>
internal sealed class NumberMapConverter : JsonConverter<IReadOnlyDictionary<string, double>>
{
    public override bool HandleNull => true;       // refused as anything else that is no object

    public override IReadOnlyDictionary<string, double> Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            throw new JsonException("want an object of numbers");
        }
        var map = new OrderedDictionary<string, double>(StringComparer.Ordinal);     // the first pattern that matches wins, so order counts
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            map[key] = Json.ReadNumber(ref reader);
        }
        return map;
    }

    public override void Write(Utf8JsonWriter writer, IReadOnlyDictionary<string, double> value, JsonSerializerOptions options)
    {
        writer.WriteStartObject();
        foreach ((string key, double number) in value)
        {
            writer.WritePropertyName(key);
            writer.WriteRawValue(Json.Number(number));
        }
        writer.WriteEndObject();
    }
}
