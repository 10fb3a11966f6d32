using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>What a path holds, as JSON: path, kind, what kind of adapter or model, tokenizer, parameters, bytes, fingerprint, metadata, resident bytes of models, tensors.</summary>
internal static class Inspection
{
    private const string ModelConfig = "config.json";

    /// <summary>Looks at a file or folder. Headers and settings are read; data only for the resident bytes of a model that is known here.</summary>
    /// <exception cref="ModelFormatException">A file is damaged, or of another format.</exception>
    /// <exception cref="IOException">A file is missing or unreadable.</exception>
    public static JsonObject Of(string path)
    {
        JsonObject found = new() { ["path"] = path };
        if (!Directory.Exists(path))
        {
            if (!File.Exists(path))
            {
                throw new FileNotFoundException($"inspect: {path} is neither a file nor a folder", path);
            }
            using TensorSource file = TensorSource.Open(path);
            found["kind"] = "tensors";
            return Tensors(found, file);
        }
        if (File.Exists(Path.Combine(path, PeftFolder.ConfigFile)))
        {
            return OfAdapter(found, path);
        }
        if (File.Exists(Path.Combine(path, ModelConfig)))
        {
            return OfModel(found, path);
        }
        using TensorSource source = TensorSource.Open(path);
        found["kind"] = "tensors";
        return Tensors(found, source);
    }

    /// <summary>An adapter of any type that PEFT writes; of those that are not built here what the settings say, and the trouble with them.</summary>
    private static JsonObject OfAdapter(JsonObject found, string path)
    {
        string file = Path.Combine(path, PeftFolder.ConfigFile);
        JsonObject settings = Json(file);
        string? method = settings["peft_type"]?.ToString();
        found["kind"] = "adapter";
        found["method"] = method;
        LoraConfig? lora = null;
        try
        {
            lora = AdapterCatalog.Read(File.ReadAllBytes(file), file) as LoraConfig;
        }
        catch (ModelFormatException error) when (AdapterCatalog.Methods.Select(m => m.PeftType).Concat(AdapterCatalog.NotBuilt).Contains(method))
        {
            found["trouble"] = error.Message;
        }
        if (lora is not null)
        {
            found["variants"] = new JsonArray([.. Variants(lora).Select(name => (JsonNode)name)]);
        }
        found["rank"] = lora?.Rank ?? settings["r"]?.DeepClone();
        found["alpha"] = lora?.Alpha ?? (settings["lora_alpha"] ?? settings["alpha"])?.DeepClone();
        found["targets"] = settings["target_modules"] is JsonArray names ? new JsonArray([.. names.Select(n => n!.ToString()).Order(StringComparer.Ordinal).Select(n => (JsonNode)n)]) : settings["target_modules"]?.DeepClone();
        found["modules_to_save"] = settings["modules_to_save"]?.DeepClone();
        found["base_model"] = settings["base_model_name_or_path"]?.DeepClone();
        found["task_type"] = settings["task_type"]?.DeepClone();
        using SafeTensorsFile tensors = SafeTensorsFile.Open(Path.Combine(path, PeftFolder.ModelFile));
        return Tensors(found, tensors);
    }

    private static IEnumerable<string> Variants(LoraConfig config)
    {
        if (config.RankStabilized)
        {
            yield return "rsLoRA";
        }
        if (config.Dora)
        {
            yield return "DoRA";
        }
        if (config.Init != LoraInit.Default)
        {
            yield return $"init {config.Init}";
        }
    }

    private static JsonObject OfModel(JsonObject found, string path)
    {
        JsonObject config = Json(Path.Combine(path, ModelConfig));
        string? type = config["model_type"]?.ToString();
        found["kind"] = "model";
        found["architecture"] = type;
        found["classes"] = config["id2label"] is JsonObject labels ? labels.Count : null;
        found["tokenizer"] = OfTokenizer(path);
        JsonArray? resident = type is not null && PretrainedModel.ModelTypes.Contains(type) ? Resident(path) : null;
        using TensorSource source = TensorSource.Open(path);
        return Tensors(found, source, resident);
    }

    /// <summary>Kind, number of ids, and whether it is read here; null where there is none.</summary>
    private static JsonObject? OfTokenizer(string path)
    {
        string file = Path.Combine(path, Tokenizer.FileName);
        if (!File.Exists(file))
        {
            return null;
        }
        var found = new JsonObject { ["kind"] = (Json(file)["model"] as JsonObject)?["type"]?.ToString() };
        try
        {
            found["ids"] = Tokenizer.Load(file).Count;
        }
        catch (ModelFormatException error)
        {
            found["trouble"] = error.Message;
        }
        return found;
    }

    private static JsonObject Json(string file)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllBytes(file), null, new JsonDocumentOptions { AllowDuplicateProperties = false }) as JsonObject ?? throw new JsonException("the text is no JSON object");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"inspect: {file}: {error.Message}", error) { File = file };
        }
    }

    /// <summary>SHA-256 over names, types, shapes and bytes in the order of the names: the same for one file and for shards.</summary>
    private static string Fingerprint(TensorSource source)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (SafeTensorsEntry entry in source.Entries.OrderBy(e => e.Name, StringComparer.Ordinal))
        {
            const int step = 1 << 24;
            hash.AppendData(Encoding.UTF8.GetBytes($"{entry.Name} {entry.Type.Name()} [{string.Join(", ", entry.Dimensions)}]\n"));
            for (long done = 0; done < entry.Length; done += step)
            {
                hash.AppendData(source.Bytes(entry.Name, done, (int)Math.Min(step, entry.Length - done)));
            }
        }
        return "sha256:" + Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Memory of the weights, measured on the loaded model; for training also that of values, gradients and AdamW's two moments.</summary>
    private static JsonArray Resident(string path)
    {
        using Device device = Device.Cpu();
        JsonArray modes = [];
        void Add(string mode, long bytes) => modes.Add(new JsonObject { ["mode"] = mode, ["bytes"] = bytes });
        foreach (DType type in (ReadOnlySpan<DType>)[DType.F32, DType.BF16])
        {
            string name = type == DType.F32 ? "f32" : "bf16";
            using (var packed = PretrainedModel.Load(path, device, new LoadOptions { Type = type }))
            {
                Add($"{name} frozen, packed", packed.ResidentBytes.Total);
                using AdaptedModel adapted = packed.Attach(new LoraConfig { Targets = Names.AllLinear });
                Add($"{name} training LoRA r=8 on all linear layers", packed.ResidentBytes.Total + Trained(adapted.ParameterCount));
            }
            using var rows = PretrainedModel.Load(path, device, new LoadOptions { Type = type, Pack = false });
            Add($"{name} frozen, rows", rows.ResidentBytes.Total);
            if (type == DType.F32)
            {
                Add($"{name} training every weight", Trained(rows.Parameters.Values.Sum(p => p.Value.Shape.Count)));
            }
        }
        return modes;
    }

    private static long Trained(long elements) => 4L * sizeof(float) * elements;

    private static JsonObject Tensors(JsonObject found, TensorSource source, JsonArray? resident = null)
    {
        found["parameters"] = source.Entries.Sum(e => e.Count);
        found["bytes"] = source.Entries.Sum(e => e.Length);
        found["fingerprint"] = Fingerprint(source);
        JsonObject metadata = [];
        foreach ((string key, string value) in source.Metadata.OrderBy(p => p.Key, StringComparer.Ordinal))
        {
            metadata[key] = value;
        }
        found["metadata"] = metadata;
        if (resident is not null)
        {
            found["resident"] = resident;
        }
        found["tensors"] = new JsonArray([.. source.Entries.OrderBy(e => e.Name, StringComparer.Ordinal).Select(e => (JsonNode)new JsonObject
        {
            ["name"] = e.Name,
            ["dtype"] = e.Type.Name(),
            ["shape"] = new JsonArray([.. e.Dimensions.Select(d => (JsonNode)d)]),
            ["bytes"] = e.Length,
        })]);
        return found;
    }
}
