using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>What a path holds, as JSON: path, kind, what kind of adapter or model, parameters, bytes, metadata, resident bytes of models, tensors.</summary>
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

    private static JsonObject OfAdapter(JsonObject found, string path)
    {
        using PeftFolder folder = PeftFolder.Open(path);
        AdapterConfig config = folder.Config;
        found["kind"] = "adapter";
        found["method"] = config.Method;
        if (config is LoraConfig lora)
        {
            found["variants"] = new JsonArray([.. Variants(lora).Select(name => (JsonNode)name)]);
            found["rank"] = lora.Rank;
            found["alpha"] = lora.Alpha;
        }
        found["targets"] = config.Targets is null ? null : config.Targets.IsPattern ? config.Targets.Expression : new JsonArray([.. config.Targets.Order(StringComparer.Ordinal).Select(name => (JsonNode)name)]);
        found["modules_to_save"] = config.ModulesToSave is null ? null : new JsonArray([.. config.ModulesToSave.Select(name => (JsonNode)name)]);
        found["base_model"] = config.BaseModel;
        found["task_type"] = config.TaskType;
        return Tensors(found, folder.Tensors);
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
        string file = Path.Combine(path, ModelConfig);
        JsonObject config;
        try
        {
            config = JsonNode.Parse(File.ReadAllBytes(file), null, new JsonDocumentOptions { AllowDuplicateProperties = false }) as JsonObject ?? throw new JsonException("the text is no JSON object");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"inspect: {file}: {error.Message}", error) { File = file };
        }
        string? type = config["model_type"]?.ToString();
        found["kind"] = "model";
        found["architecture"] = type;
        found["classes"] = config["id2label"] is JsonObject labels ? labels.Count : null;
        JsonArray? resident = type is not null && PretrainedModel.ModelTypes.Contains(type) ? Resident(path) : null;
        using TensorSource source = TensorSource.Open(path);
        return Tensors(found, source, resident);
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
