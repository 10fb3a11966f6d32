using System.Collections;
using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Either a list of module names or one regular expression, as PEFT writes them: a JSON list or a string.</summary>
[CollectionBuilder(typeof(Names), nameof(Of))]
[JsonConverter(typeof(NamesConverter))]
public sealed class Names : IEnumerable<string>
{
    private readonly string[] items;

    private Names(string[] items, bool isPattern) => (this.items, IsPattern) = (items, isPattern);

    /// <summary>Every linear layer but the output: <c>all-linear</c>.</summary>
    public static Names AllLinear { get; } = Pattern("all-linear");

    /// <summary>True for a regular expression (or <c>all-linear</c>), false for names.</summary>
    public bool IsPattern { get; }

    /// <summary>The expression, where <see cref="IsPattern"/>.</summary>
    public string Expression => IsPattern ? items[0] : throw new InvalidOperationException("Names: this is a list, not a pattern");

    /// <summary>Number of names; 1 for a pattern.</summary>
    public int Count => items.Length;

    /// <summary>Names, each matched exactly or as a suffix after a dot.</summary>
    public static Names Of(params ReadOnlySpan<string> names) => new(names.ToArray(), false);

    /// <summary>A regular expression that a whole path must match.</summary>
    public static Names Pattern(string expression) => new([expression], true);

    public static implicit operator Names(string expression) => Pattern(expression);

    public static implicit operator Names(string[] names) => Of(names);

    /// <inheritdoc/>
    public IEnumerator<string> GetEnumerator() => ((IEnumerable<string>)items).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>As messages print it.</summary>
    public override string ToString() => IsPattern ? $"\"{items[0]}\"" : $"[{string.Join(", ", items)}]";

    /// <summary>The conversion named, for languages without operators.</summary>
    public static Names ToNames(string expression) => Pattern(expression);
}

/// <summary>Numbers of blocks: one, or a list, as PEFT writes them.</summary>
[CollectionBuilder(typeof(Layers), nameof(Of))]
[JsonConverter(typeof(LayersConverter))]
public sealed class Layers : IEnumerable<int>
{
    private readonly int[] items;

    private Layers(int[] items, bool isSingle) => (this.items, IsSingle) = (items, isSingle);

    /// <summary>True for a bare number, which is written without brackets.</summary>
    public bool IsSingle { get; }

    /// <summary>How many numbers.</summary>
    public int Count => items.Length;

    /// <summary>A list of numbers.</summary>
    public static Layers Of(params ReadOnlySpan<int> numbers) => new(numbers.ToArray(), false);

    /// <summary>One number, written bare.</summary>
    public static Layers One(int number) => new([number], true);

    /// <inheritdoc/>
    public IEnumerator<int> GetEnumerator() => ((IEnumerable<int>)items).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}

internal sealed class NamesConverter : JsonConverter<Names>
{
    public override Names? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType == JsonTokenType.String)
        {
            return Names.Pattern(reader.GetString()!);
        }
        var names = new List<string>();
        Json.ReadList(ref reader, (ref Utf8JsonReader r) => names.Add(r.TokenType == JsonTokenType.String ? r.GetString()! : throw new JsonException("want a string or a list of strings")));
        return Names.Of([.. names]);
    }

    public override void Write(Utf8JsonWriter writer, Names value, JsonSerializerOptions options)
    {
        if (value.IsPattern)
        {
            writer.WriteStringValue(value.Expression);
            return;
        }
        writer.WriteStartArray();
        foreach (string name in value)
        {
            writer.WriteStringValue(name);
        }
        writer.WriteEndArray();
    }
}

internal sealed class LayersConverter : JsonConverter<Layers>
{
    public override Layers? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType == JsonTokenType.Number)
        {
            return Layers.One(reader.GetInt32());
        }
        var numbers = new List<int>();
        Json.ReadList(ref reader, (ref Utf8JsonReader r) => numbers.Add(r.TokenType == JsonTokenType.Number ? r.GetInt32() : throw new JsonException("want a number or a list of numbers")));
        return Layers.Of([.. numbers]);
    }

    public override void Write(Utf8JsonWriter writer, Layers value, JsonSerializerOptions options)
    {
        if (value.IsSingle)
        {
            writer.WriteNumberValue(value.First());
            return;
        }
        writer.WriteStartArray();
        foreach (int number in value)
        {
            writer.WriteNumberValue(number);
        }
        writer.WriteEndArray();
    }
}
