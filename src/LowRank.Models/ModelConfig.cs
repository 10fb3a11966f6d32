using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;

namespace LowRank.Models;

/// <summary>config.json of a text model, read key by key; keys that nobody asks for are kept and written back.</summary>
public sealed class ModelConfig
{
    private const int Most = 1 << 24;
    private static readonly string[] LayerKeys = ["num_hidden_layers", "n_layer", "n_layers"];
    private readonly JsonObject json;

    private ModelConfig(string file, JsonObject json) => (File, this.json) = (file, json);

    /// <summary>The file, as messages name it.</summary>
    public string File { get; }

    /// <summary>The key <c>model_type</c>.</summary>
    public string ModelType => Text("model_type", "");

    /// <summary>First class of <c>architectures</c>, such as BertForMaskedLM; empty where there is none.</summary>
    public string Architecture => json["architectures"] is JsonArray { Count: > 0 } list && list[0] is JsonValue first && first.TryGetValue(out string? name) ? name : "";

    /// <summary>Names of the classes in the order of their numbers; two numbered ones where the file names none, as in transformers.</summary>
    public IReadOnlyList<string> ClassNames => json["id2label"] is JsonObject labels
        ? [.. Enumerable.Range(0, labels.Count).Select(i => labels[$"{i}"]?.GetValue<string>() ?? $"LABEL_{i}")]
        : [.. Enumerable.Range(0, Count("num_labels", 2)).Select(i => $"LABEL_{i}")];

    /// <summary>Reads config.json of a model folder.</summary>
    /// <exception cref="ModelFormatException">It is damaged or holds no object.</exception>
    /// <exception cref="IOException">It is missing or unreadable.</exception>
    public static ModelConfig Read(string folder)
    {
        string file = Path.Combine(folder, ConfigFile.Name);
        return new(file, ConfigFile.Read(folder, ModelConfigJson.Default.JsonObject));
    }

    /// <summary>The config of a part, an object within.</summary>
    /// <exception cref="ModelFormatException">It is missing or no object.</exception>
    public ModelConfig Part(string key) => new(File, Object(key) ?? throw Wrong(key, "missing", "an object"));

    /// <summary>A config that no folder holds yet: for a new model.</summary>
    /// <param name="text">What config.json would say.</param>
    /// <exception cref="ModelFormatException">It is damaged or holds no object.</exception>
    public static ModelConfig Parse(string text) => new(ConfigFile.Name, ConfigFile.Read(ConfigFile.Name, Encoding.UTF8.GetBytes(text), ModelConfigJson.Default.JsonObject));

    /// <summary>This config with other classes.</summary>
    public ModelConfig WithClasses(IReadOnlyList<string> names)
    {
        JsonObject copy = json.DeepClone().AsObject();
        copy.Remove("num_labels");
        copy["id2label"] = new JsonObject(names.Select((name, i) => KeyValuePair.Create($"{i}", (JsonNode?)name)));
        copy["label2id"] = new JsonObject(names.Select((name, i) => (name, i)).DistinctBy(n => n.name).Select(n => KeyValuePair.Create(n.name, (JsonNode?)n.i)));
        return new(File, copy);
    }

    /// <summary>This config with another number of layers, under the key that it has for them.</summary>
    public ModelConfig WithLayers(int count)
    {
        JsonObject copy = json.DeepClone().AsObject();
        foreach (string key in LayerKeys.Where(copy.ContainsKey))
        {
            copy[key] = count;
        }
        return new(File, copy);
    }

    /// <summary>Writes config.json of the same model with weights of another type.</summary>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public void Save(string folder, DType type) => AtomicFile.WriteText(Path.Combine(folder, ConfigFile.Name), Write(Architecture, type, new Dictionary<string, JsonNode?>()));

    /// <summary>The text of the file for a model of the given class and type on disk, with other values for some keys.</summary>
    internal string Write(string architecture, DType type, IReadOnlyDictionary<string, JsonNode?> changed)
    {
        JsonObject copy = json.DeepClone().AsObject();
        foreach ((string key, JsonNode? value) in changed)
        {
            copy[key] = value;
        }
        if (architecture.Length > 0)
        {
            copy["architectures"] = new JsonArray(architecture);
        }
        copy.Remove("torch_dtype");     // the older name of dtype
        copy["dtype"] = type switch { DType.BF16 => "bfloat16", DType.F16 => "float16", DType.F64 => "float64", _ => "float32" };
        return copy.ToJsonString(new JsonSerializerOptions { WriteIndented = true, NewLine = "\n" }) + "\n";
    }

    /// <summary>True where the key has a value other than null.</summary>
    public bool Has(string key) => json[key] is not null;

    /// <summary>A count from <paramref name="least"/> up; without a default the key must be there.</summary>
    /// <exception cref="ModelFormatException">It is missing, no integer, or out of range.</exception>
    public int Count(string key, int? missing = null, int least = 1)
    {
        if (json[key] is not { } node)
        {
            return missing ?? throw Wrong(key, "missing", "an integer");
        }
        return node is JsonValue value && value.TryGetValue(out int number) && number >= least && number <= Most ? number : throw Wrong(key, node, $"an integer in {least} .. {Most}");
    }

    /// <summary>A finite number.</summary>
    /// <exception cref="ModelFormatException">It is missing or no number.</exception>
    public double Number(string key, double? missing = null) => Number(json, key, missing);

    /// <summary>True or false.</summary>
    /// <exception cref="ModelFormatException">It is something else.</exception>
    public bool Flag(string key, bool missing) => json[key] is not { } node ? missing
        : node is JsonValue value && value.TryGetValue(out bool flag) ? flag : throw Wrong(key, node, "true or false");

    /// <summary>A string.</summary>
    /// <exception cref="ModelFormatException">It is something else.</exception>
    public string Text(string key, string missing) => json[key] is not { } node ? missing
        : node is JsonValue value && value.TryGetValue(out string? text) ? text : throw Wrong(key, node, "a string");

    /// <summary>A token id or the first of a list of them; null where there is none.</summary>
    public IReadOnlyList<int> Ids(string key) => json[key] switch
    {
        null => [],
        JsonArray list => [.. list.Select(n => n is JsonValue v && v.TryGetValue(out int id) ? id : throw Wrong(key, list, "a list of integers"))],
        JsonValue value when value.TryGetValue(out int id) => [id],
        var other => throw Wrong(key, other, "an integer or a list of them"),
    };

    /// <summary>A list of strings; null where there is none.</summary>
    public IReadOnlyList<string>? Texts(string key) => json[key] switch
    {
        null => null,
        JsonArray list => [.. list.Select(n => n is JsonValue v && v.TryGetValue(out string? text) ? text : throw Wrong(key, list, "a list of strings"))],
        var other => throw Wrong(key, other, "a list of strings"),
    };

    /// <summary>An object within; null where there is none.</summary>
    internal JsonObject? Object(string key) => json[key] switch
    {
        null => null,
        JsonObject found => found,
        var other => throw Wrong(key, other, "an object"),
    };

    /// <summary>A number of an object within.</summary>
    internal double Number(JsonObject from, string key, double? missing = null) => from[key] is not { } node ? missing ?? throw Wrong(key, "missing", "a number")
        : node is JsonValue value && value.TryGetValue(out double number) && double.IsFinite(number) ? number : throw Wrong(key, node, "a finite number");

    /// <summary>The error for a key: what it is and what is wanted.</summary>
    internal ModelFormatException Wrong(string key, object value, string want) =>
        new(string.Create(CultureInfo.InvariantCulture, $"{File}: {key} is {(value is JsonNode node ? node.ToJsonString() : value)}, want {want}")) { File = File, Key = key };
}

[System.Text.Json.Serialization.JsonSourceGenerationOptions(AllowDuplicateProperties = false)]
[System.Text.Json.Serialization.JsonSerializable(typeof(JsonObject))]
internal sealed partial class ModelConfigJson : System.Text.Json.Serialization.JsonSerializerContext;
