using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization.Metadata;
using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>One method: PEFT's type name, a config at its defaults, and what it is.</summary>
/// <param name="PeftType">peft_type in adapter_config.json.</param>
/// <param name="Summary">One line for lists.</param>
/// <param name="Default">The config at its defaults.</param>
/// <param name="Json">Its serializer.</param>
/// <param name="Facts">A row of the status table for each form that has a name of its own.</param>
public sealed record AdapterMethod(string PeftType, string Summary, AdapterConfig Default, JsonTypeInfo Json, IReadOnlyList<MethodFacts> Facts);

/// <summary>The list of methods, and how their settings look on disk. It is explicit, so it survives trimming.</summary>
public static class AdapterCatalog
{
    private const int MostBytes = 16 << 20;     // a config has a few KB; some list every layer
    private const string TypeKey = "peft_type";

    private static readonly string[] Unbuilt =
    [
        "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "BONE", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA",
        "LILY", "MISS", "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "P_TUNING", "PEANUT", "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT",
        "PVERA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "WAVEFT", "XLORA",
    ];

    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false, MaxDepth = 32 };

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, IndentSize = 2, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, TypeInfoResolver = AdapterJson.Default };

    /// <summary>Every method that is built.</summary>
    public static IReadOnlyList<AdapterMethod> Methods { get; } =
    [
        new("LORA", "W + s·B·A; with rsLoRA, DoRA, PiSSA, OLoRA, LoftQ and EVA by switch", new LoraConfig(), AdapterJson.Default.LoraConfig,
        [
            new("LoRA", MethodKind.Adapter, "lora-core", ["lora-core", "peft", "training"], "differences, golden") { Merge = true, Peft = "read, write" },
            new("rsLoRA", MethodKind.Adapter, "lora-core", ["peft"], "differences, golden") { Merge = true, Peft = "read, write" },
            new("DoRA", MethodKind.Adapter, "lora-core", ["lora-core", "peft", "training"], "differences, golden") { Merge = true, Peft = "read, write" },
            new("PiSSA", MethodKind.Adapter, "lora-core", ["lora-core", "peft"], "differences, golden") { Merge = true, Peft = "read, write" },
            new("OLoRA", MethodKind.Adapter, "lora-core", ["lora-core", "peft"], "differences, golden") { Merge = true, Peft = "read, write" },
            new("LoftQ", MethodKind.Adapter, "lora-core", ["lora-core"], "differences") { Merge = true, Peft = "read, write" },
            new("EVA", MethodKind.Adapter, "lora-core", ["lora-core", "training"], "differences, golden") { Merge = true, Peft = "read, write" },
        ]),
        New("LOHA", "LoHa", "W + s·(w1a·w1b) ⊙ (w2a·w2b)", new LohaConfig(), AdapterJson.Default.LohaConfig, inCore: true),
        New("LOKR", "LoKr", "W + s·kron(w1, w2)", new LokrConfig(), AdapterJson.Default.LokrConfig, inCore: true),
        New("VERA", "VeRA", "W + diag(b)·B·diag(d)·A, A and B random and frozen", new VeraConfig(), AdapterJson.Default.VeraConfig, inCore: true),
        New("IA3", "IA3", "W·diag(l) or diag(l)·W", new Ia3Config(), AdapterJson.Default.Ia3Config),
        New("LN_TUNING", "LN tuning", "weights and biases of norms", new LnTuningConfig(), AdapterJson.Default.LnTuningConfig),
        New("TRAINABLE_TOKENS", "trainable tokens", "rows of an embedding", new TrainableTokensConfig(), AdapterJson.Default.TrainableTokensConfig),
        new("RANDLORA", "W + s·B·S, S the trained scales of a random basis; full rank", new RandLoraConfig(), AdapterJson.Default.RandLoraConfig,
            [new("RandLoRA", MethodKind.Adapter, "randlora", ["randlora", "peft", "training"], "differences, golden") { Merge = true, Peft = "read, write" }]),
        new("LOCA", "W + s·Cᵀ·S·C, S of k coefficients of a cosine transform at trained places", new LocaConfig(), AdapterJson.Default.LocaConfig,
            [new("LoCA", MethodKind.Adapter, "loca", ["loca"], "differences, golden") { Merge = true }]),
        new("WARA", "W + s·H_outᵀ·C·H_in, C low-rank bands of a wavelet transform", new WaraConfig(), AdapterJson.Default.WaraConfig,
            [new("WaRA", MethodKind.Adapter, "wara", ["wara"], "differences, golden") { Merge = true }]),
        new("SALT", "U·relu(C)·Vᵀ: the largest singular values scaled and shifted, a low-rank change among the others", new SaltConfig(), AdapterJson.Default.SaltConfig,
            [new("SALT", MethodKind.Adapter, "salt", ["salt"], "differences, golden") { Merge = true }]),
        new("SLTRAIN", "s·B·A + sparse values in the place of W, for pre-training", new SlTrainConfig(), AdapterJson.Default.SlTrainConfig,
            [new("SLTrain", MethodKind.Adapter, "sltrain", ["sltrain"], "differences, golden") { Merge = true }]),
        new("SNELL", "W + Sᵀ, S the largest of the distances between two tables of low rank", new SnellConfig(), AdapterJson.Default.SnellConfig,
            [new("SNELL", MethodKind.Adapter, "snell", ["snell"], "differences, golden") { Merge = true }]),
        new("SORA", "W + s·B·diag(g)·A with gates that become 0", new SoraConfig(), AdapterJson.Default.SoraConfig,
            [new("SoRA", MethodKind.Adapter, "sora", ["sora"], "differences, golden") { Merge = true }]),
    ];

    /// <summary>Types of PEFT's that are known by name only.</summary>
    public static IReadOnlyList<string> NotBuilt => Unbuilt;

    /// <summary>Settings from the text of an adapter_config.json. Unknown keys are kept; missing ones take PEFT's defaults.</summary>
    /// <param name="json">UTF-8 text.</param>
    /// <param name="name">The file, for messages.</param>
    /// <exception cref="ModelFormatException">It is no JSON object, a value has the wrong type or range, or it asks for what is not built: names the key.</exception>
    public static AdapterConfig Read(ReadOnlySpan<byte> json, string name = "adapter_config.json")
    {
        if (json.Length > MostBytes)
        {
            throw Bad(name, null, $"the file has {json.Length} bytes, want at most {MostBytes}");
        }
        try
        {
            // A mark at the start is tolerated, as Python's utf-8-sig writers leave it.
            JsonNode? root = JsonNode.Parse(json.StartsWith("\uFEFF"u8) ? json[3..] : json, null, Strict);
            if (root is not JsonObject table)
            {
                throw Bad(name, null, $"the text is {(root is null ? "null" : root.GetValueKind().ToString())}, want a JSON object");
            }
            AdapterMethod method = Find(table[TypeKey], name);
            var config = (AdapterConfig)OverDefaults(method, table).Deserialize(method.Json)!;
            config.Validate();
            return config;
        }
        catch (JsonException error)
        {
            throw Bad(name, error.Path?.TrimStart('$', '.'), error.Message, error);
        }
        catch (Exception error) when (error is AdapterConfigException or InvalidOperationException or ArgumentException)     // the last two: text that is no valid UTF-16
        {
            throw Bad(name, null, error.Message, error);
        }
    }

    /// <summary>The text of adapter_config.json as PEFT writes it: every key of the method, sorted, two spaces.</summary>
    public static string Write(AdapterConfig config)
    {
        AdapterMethod method = Methods.FirstOrDefault(m => m.Default.GetType() == config.GetType())
            ?? throw new AdapterConfigException($"AdapterCatalog: {config.GetType().Name} is no method of the catalogue");
        JsonObject table = JsonSerializer.SerializeToNode(config, method.Json)!.AsObject();
        foreach (string key in config.OwnKeys.Where(key => table[key] is null))
        {
            table.Remove(key);
        }
        foreach ((string key, JsonElement value) in config.FixedKeys)
        {
            if (!table.ContainsKey(key))
            {
                table.Add(key, JsonNode.Parse(value.GetRawText()));
            }
        }
        return Json.Sorted(table)!.ToJsonString(Indented);
    }

    private static AdapterMethod New(string type, string name, string summary, AdapterConfig config, JsonTypeInfo json, bool inCore = false) =>
        new(type, summary, config, json, [new(name, MethodKind.Adapter, "lora-core", inCore ? ["lora-core", "peft", "training"] : ["peft", "training"], "differences, golden") { Merge = true, Peft = "read, write" }]);

    // Init-only properties that a generated serializer does not find in the text would lose their defaults, so it always finds them.
    private static JsonObject OverDefaults(AdapterMethod method, JsonObject given)
    {
        JsonObject whole = JsonSerializer.SerializeToNode(method.Default, method.Json)!.AsObject();
        whole["peft_version"] = null;
        foreach ((string key, JsonNode? value) in given)
        {
            whole[key] = value?.DeepClone();
        }
        return whole;
    }

    private static AdapterMethod Find(JsonNode? type, string name)
    {
        string? wanted = type is JsonValue value && value.TryGetValue(out string? text) ? text : null;
        string built = string.Join(", ", Methods.Select(m => m.PeftType));
        return Methods.FirstOrDefault(m => m.PeftType == wanted) ?? throw (wanted is null
            ? Bad(name, TypeKey, $"{(type is null ? "missing" : type.ToJsonString())}, want the name of a method, such as LORA")
            : Bad(name, TypeKey, Unbuilt.Contains(wanted)
                ? $"{wanted}, a method of PEFT's that is not built here yet; built are {built}"
                : $"{ModelFormatException.Quote(wanted)}, which is no method of PEFT's; built are {built}"));
    }

    private static ModelFormatException Bad(string name, string? key, string found, Exception? inner = null) =>
        new($"AdapterCatalog: {name}: {(key is null ? "" : $"{ModelFormatException.Quote(key)} is ")}{ModelFormatException.Shorten(found)}", inner) { File = name, Key = key };
}
