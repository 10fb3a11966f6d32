using System.Text.Json;
using System.Text.Json.Serialization;
using LowRank.Formats;

namespace LowRank.Models;

/// <summary>config.json of a vision transformer (model_type vit); defaults are those of transformers. Unknown keys are kept and written back.</summary>
public sealed record VisionTransformerConfig
{
    internal const string ModelTypeName = "vit";
    private const int Most = 1 << 24;

    /// <summary>Always <c>vit</c>.</summary>
    [JsonPropertyName("model_type")]
    public string ModelType { get; init; } = ModelTypeName;

    /// <summary>Class names of transformers, as written.</summary>
    [JsonPropertyName("architectures")]
    public IReadOnlyList<string>? Architectures { get; init; }

    /// <summary>Width d of a token.</summary>
    [JsonPropertyName("hidden_size")]
    public int HiddenSize { get; init; } = 768;

    /// <summary>Number of layers.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public int Layers { get; init; } = 12;

    /// <summary>Attention heads; divides <see cref="HiddenSize"/>.</summary>
    [JsonPropertyName("num_attention_heads")]
    public int Heads { get; init; } = 12;

    /// <summary>Width between the two linear layers of a feed-forward block.</summary>
    [JsonPropertyName("intermediate_size")]
    public int IntermediateSize { get; init; } = 3072;

    /// <summary>Activation of the feed-forward blocks.</summary>
    [JsonPropertyName("hidden_act")]
    public string Activation { get; init; } = "gelu";

    /// <summary>ε of every LayerNorm.</summary>
    [JsonPropertyName("layer_norm_eps")]
    public double LayerNormEpsilon { get; init; } = 1e-12;

    /// <summary>Rows and columns of an image.</summary>
    [JsonPropertyName("image_size")]
    public int ImageSize { get; init; } = 224;

    /// <summary>Rows and columns of a patch.</summary>
    [JsonPropertyName("patch_size")]
    public int PatchSize { get; init; } = 16;

    /// <summary>Channels of an image.</summary>
    [JsonPropertyName("num_channels")]
    public int Channels { get; init; } = 3;

    /// <summary>Whether the query, key and value layers have biases.</summary>
    [JsonPropertyName("qkv_bias")]
    public bool QkvBias { get; init; } = true;

    /// <summary>Activation of the pooler.</summary>
    [JsonPropertyName("pooler_act")]
    public string PoolerActivation { get; init; } = "tanh";

    /// <summary>Width of the pooler; null: <see cref="HiddenSize"/>.</summary>
    [JsonPropertyName("pooler_output_size")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? PoolerSize { get; init; }

    /// <summary>Standard deviation of new weights.</summary>
    [JsonPropertyName("initializer_range")]
    public double InitializerRange { get; init; } = 0.02;

    /// <summary>Names of the classes by number, as text.</summary>
    [JsonPropertyName("id2label")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? Labels { get; init; }

    /// <summary>Numbers of the classes by name.</summary>
    [JsonPropertyName("label2id")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, int>? LabelIds { get; init; }

    /// <summary>Type of the weights on disk, as transformers spells it.</summary>
    [JsonPropertyName("dtype")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? StoredType { get; init; }

    /// <summary>Keys that no property claims.</summary>
    [JsonExtensionData]
    public Dictionary<string, JsonElement>? Other { get; set; }

    /// <summary>Number of classes; 2 where the file names none, as in transformers.</summary>
    [JsonIgnore]
    public int Classes => Labels?.Count ?? 2;

    /// <summary>Tokens of an image, the class token included.</summary>
    [JsonIgnore]
    public int Tokens => (ImageSize / PatchSize * (ImageSize / PatchSize)) + 1;

    /// <summary>Names of the classes in the order of their numbers; numbered as transformers does where the file names none.</summary>
    [JsonIgnore]
    public IReadOnlyList<string> ClassNames => [.. Enumerable.Range(0, Classes).Select(i => Labels?.GetValueOrDefault($"{i}") ?? $"LABEL_{i}")];

    /// <summary>Reads and checks config.json of a model folder.</summary>
    /// <exception cref="ModelFormatException">It is damaged, contradicts itself, or describes another kind of model: names the key.</exception>
    /// <exception cref="IOException">It is missing or unreadable.</exception>
    public static VisionTransformerConfig Read(string folder)
    {
        VisionTransformerConfig config = ConfigFile.Read(folder, ConfigJson.Default.VisionTransformerConfig);
        config.Check(Path.Combine(folder, ConfigFile.Name));
        return config;
    }

    /// <summary>This config with classes of the given names.</summary>
    public VisionTransformerConfig WithClasses(IReadOnlyList<string> names) => this with
    {
        Labels = new SortedDictionary<string, string>(Enumerable.Range(0, names.Count).ToDictionary(i => $"{i}", i => names[i]), ByNumber),
        LabelIds = Enumerable.Range(0, names.Count).GroupBy(i => names[i]).ToDictionary(g => g.Key, g => g.First()),
    };

    /// <summary>This config with numbered classes, named as transformers names them.</summary>
    public VisionTransformerConfig WithClasses(int count) => count is > 0 and <= Most
        ? WithClasses([.. Enumerable.Range(0, count).Select(i => $"LABEL_{i}")])
        : throw new ShapeException($"VisionTransformerConfig: classes is {count}, want 1 .. {Most}");

    /// <summary>Checks what any model needs.</summary>
    /// <exception cref="ModelFormatException">A value is out of range or contradicts another: names the key.</exception>
    internal void Check(string file)
    {
        ModelFormatException Wrong(string key, object value, string want) => new($"{file}: {key} is {value}, want {want}") { File = file, Key = key };
        foreach ((string key, int value) in (ReadOnlySpan<(string, int)>)
            [("hidden_size", HiddenSize), ("num_attention_heads", Heads), ("intermediate_size", IntermediateSize), ("image_size", ImageSize),
             ("patch_size", PatchSize), ("num_channels", Channels), ("pooler_output_size", PoolerSize ?? 1), ("num_hidden_layers", Layers)])
        {
            if (value is < 1 or > Most)
            {
                throw Wrong(key, value, $"1 .. {Most}");
            }
        }
        if (HiddenSize % Heads != 0)
        {
            throw Wrong("num_attention_heads", Heads, $"a divisor of hidden_size {HiddenSize}");
        }
        if (PatchSize > ImageSize)
        {
            throw Wrong("patch_size", PatchSize, $"at most image_size {ImageSize}");
        }
        long side = ImageSize / PatchSize;
        if (side * side >= Most || (long)Channels * PatchSize * PatchSize > int.MaxValue)
        {
            throw Wrong("image_size", $"{ImageSize} with patch_size {PatchSize} and num_channels {Channels}", $"at most {Most} patches of at most {int.MaxValue} values");
        }
        if (!(LayerNormEpsilon > 0) || !double.IsFinite(LayerNormEpsilon))
        {
            throw Wrong("layer_norm_eps", LayerNormEpsilon, "a positive number");
        }
        if (Labels is { Count: 0 })
        {
            throw Wrong("id2label", "empty", "at least one class");
        }
        if (ModelType != ModelTypeName)
        {
            throw Wrong("model_type", ModelType, ModelTypeName);
        }
    }

    private static readonly Comparer<string> ByNumber = Comparer<string>.Create((a, b) => a.Length != b.Length ? a.Length - b.Length : string.CompareOrdinal(a, b));
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", AllowDuplicateProperties = false)]
[JsonSerializable(typeof(VisionTransformerConfig))]
internal sealed partial class ConfigJson : JsonSerializerContext;
