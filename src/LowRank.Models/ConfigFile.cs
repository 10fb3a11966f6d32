using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using LowRank.Formats;

namespace LowRank.Models;

/// <summary>Reads config.json.</summary>
internal static class ConfigFile
{
    public const string Name = "config.json";
    private const int MostBytes = 16 << 20;

    /// <summary>The key model_type.</summary>
    public static string ModelType(string folder)
    {
        string path = Path.Combine(folder, Name);
        try
        {
            using JsonDocument json = JsonDocument.Parse(Bytes(path), new JsonDocumentOptions { AllowDuplicateProperties = false });
            return json.RootElement.ValueKind == JsonValueKind.Object && json.RootElement.TryGetProperty("model_type", out JsonElement type) && type.ValueKind == JsonValueKind.String
                ? type.GetString()!
                : throw new ModelFormatException($"{path}: there is no string model_type, want one of {string.Join(", ", PretrainedModel.ModelTypes)}") { File = path, Key = "model_type" };
        }
        catch (JsonException error)
        {
            throw Bad(path, error);
        }
    }

    /// <summary>The whole file as a record.</summary>
    public static T Read<T>(string folder, JsonTypeInfo<T> type) where T : class
    {
        string path = Path.Combine(folder, Name);
        return Read(path, Bytes(path), type);
    }

    /// <summary>The bytes of such a file; messages name it <paramref name="path"/>.</summary>
    public static T Read<T>(string path, ReadOnlySpan<byte> bytes, JsonTypeInfo<T> type) where T : class
    {
        try
        {
            return JsonSerializer.Deserialize(bytes, type) ?? throw new ModelFormatException($"{path}: the file holds null, want an object") { File = path };
        }
        catch (JsonException error)
        {
            throw Bad(path, error);
        }
    }

    private static byte[] Bytes(string path)
    {
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"{path}: there is no such file, want a model folder with {Name} and {PretrainedModel.WeightFile}", path);
        }
        long length = new FileInfo(path).Length;
        return length <= MostBytes ? File.ReadAllBytes(path) : throw new ModelFormatException($"{path}: the file has {length} bytes, want at most {MostBytes}") { File = path };
    }

    private static ModelFormatException Bad(string path, JsonException error) => new($"{path}: {error.Message}", error) { File = path, Key = error.Path, Offset = error.BytePositionInLine };
}
