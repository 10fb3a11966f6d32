using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>lowrank.json beside PEFT's files, or a model's: what those have no place for, a JSON object of which every writer owns some keys. Its absence
/// is no error.</summary>
public static class LowRankFile
{
    /// <summary>The file's name.</summary>
    public const string Name = "lowrank.json";

    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false, MaxDepth = 32 };

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, NewLine = "\n", TypeInfoResolver = AdapterJson.Default };

    /// <summary>What a folder's file holds; nothing where there is none.</summary>
    /// <exception cref="ModelFormatException">It is no JSON object.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static JsonObject Read(string folder)
    {
        string path = Path.Combine(folder, Name);
        if (!File.Exists(path))
        {
            return [];
        }
        try
        {
            return JsonNode.Parse(File.ReadAllBytes(path), null, Strict) as JsonObject ?? throw new JsonException("want a JSON object");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"LowRankFile: {path}: {error.Message}", error) { File = path, Key = error.Path };
        }
    }

    /// <summary>Puts keys into a folder's file; those of other writers stay.</summary>
    /// <exception cref="ModelFormatException">What is there is no JSON object.</exception>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public static void Write(string folder, JsonObject keys)
    {
        JsonObject whole = Read(folder);
        foreach ((string key, JsonNode? value) in keys)
        {
            whole[key] = value?.DeepClone();
        }
        AtomicFile.WriteText(Path.Combine(folder, Name), whole.ToJsonString(Indented) + "\n");
    }
}
