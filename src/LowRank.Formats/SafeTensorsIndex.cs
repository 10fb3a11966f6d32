using System.Text.Json;
using System.Text.Unicode;

namespace LowRank.Formats;

/// <summary>A model in several safetensors files, the shards, and an index that says which tensor lies in which, as Hugging Face lays it out. The index decides: a tensor of a shard that it leaves out is not there.</summary>
public sealed class SafeTensorsIndex : TensorSource
{
    /// <summary>Name of the index of a model folder.</summary>
    public const string FileName = ModelFile + ".index.json";

    /// <summary>Size of a shard where none is asked for, in bytes.</summary>
    public const long DefaultShardBytes = 5_000_000_000;

    private const long MostBytes = 100_000_000;     // a line of 100 bytes for each of a million tensors
    private const string Map = "weight_map";
    private readonly SortedDictionary<string, SafeTensorsFile> shards = new(StringComparer.Ordinal);
    private readonly Dictionary<string, SafeTensorsFile> homes = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> metadata = new(StringComparer.Ordinal);
    private readonly List<SafeTensorsEntry> entries = [];
    private readonly string path;

    private SafeTensorsIndex(string path) => this.path = path;

    /// <summary>The index.</summary>
    public override string Name => path;

    /// <summary>All tensors, by shard and in each as their data is.</summary>
    public override IReadOnlyList<SafeTensorsEntry> Entries => entries;

    /// <summary>Strings of the shards; where two differ, those of the first.</summary>
    public override IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <summary>The shards by name.</summary>
    public IReadOnlyDictionary<string, SafeTensorsFile> Shards => shards;

    /// <summary>Opens an index and the headers of its shards, which must lie beside it, and checks them against each other; no data is read.</summary>
    /// <exception cref="ModelFormatException">Index or shard is damaged, a shard is missing or lacks a tensor, or its name leads out of the folder: names file and key.</exception>
    /// <exception cref="IOException">A file cannot be read, or there is no index.</exception>
    public static new SafeTensorsIndex Open(string path)
    {
        using FileBytes file = FileBytes.Open(path, nameof(SafeTensorsIndex));
        return Open(file, path);
    }

    /// <summary>An index that is in memory already; the shards lie beside <paramref name="path"/>.</summary>
    internal static SafeTensorsIndex Read(ReadOnlyMemory<byte> json, string path) => Open(new FileBytes(json, path), path);

    /// <summary>Writes model.safetensors, or where it would have more bytes of data than a shard may have, shards and index. What the folder held before loads until the new files are all there; then older shards are removed. One writer a folder.</summary>
    /// <param name="folder">It must exist.</param>
    /// <param name="tensors">Shards take them in this order; one larger than a shard gets a file of its own.</param>
    /// <param name="metadata">Strings stored in every file, or null.</param>
    /// <param name="shardBytes">The most bytes of data in a file.</param>
    /// <exception cref="ArgumentException">Two tensors have one name, or a shard shall have no bytes.</exception>
    /// <exception cref="IOException">It cannot be written; the message names path and reason, and what was there is unchanged.</exception>
    public static void Save(string folder, IEnumerable<TensorData> tensors, IReadOnlyDictionary<string, string>? metadata = null, long shardBytes = DefaultShardBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(shardBytes);
        List<List<TensorData>> parts = Split(tensors, shardBytes);
        string whole = Path.Combine(folder, ModelFile), index = Path.Combine(folder, FileName);
        if (parts.Count == 1)
        {
            SafeTensorsFile.Save(whole, parts[0], metadata);
            Remove([index, .. ShardsIn(folder)]);
            return;
        }
        string[] before = [.. ShardsIn(folder)], files = FreeNames(folder, parts.Count);
        try
        {
            for (int i = 0; i < parts.Count; i++)
            {
                SafeTensorsFile.Save(files[i], parts[i], metadata);
            }
            AtomicFile.WriteBytes(index, Text(parts, files));
        }
        catch
        {
            Remove(files);
            throw;
        }
        Remove([whole, .. before]);      // where both are there, the whole file is the model
    }

    /// <inheritdoc/>
    public override bool TryGet(string name, out SafeTensorsEntry? entry)
    {
        entry = null;
        return homes.TryGetValue(name, out SafeTensorsFile? shard) && shard.TryGet(name, out entry);
    }

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(string name, long start, int count) =>
        homes.TryGetValue(name, out SafeTensorsFile? shard) ? shard.Bytes(name, start, count) : throw Missing(name);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (SafeTensorsFile shard in shards.Values)
        {
            shard.Dispose();
        }
    }

    private static SafeTensorsIndex Open(FileBytes file, string path)
    {
        SortedDictionary<string, string> map = Parse(file, path);
        var index = new SafeTensorsIndex(path);
        try
        {
            index.OpenShards(map);
            return index;
        }
        catch
        {
            index.Dispose();
            throw;
        }
    }

    private void OpenShards(SortedDictionary<string, string> map)
    {
        foreach ((string tensor, string name) in map)
        {
            if (!shards.TryGetValue(name, out SafeTensorsFile? shard))
            {
                string file = Path.Combine(Path.GetDirectoryName(Path.GetFullPath(path))!, name);
                if (!File.Exists(file))
                {
                    throw Bad(path, tensor, $"lies in {ModelFormatException.Quote(name)}, which is not there: put all shards beside the index");
                }
                shards.Add(name, shard = SafeTensorsFile.Open(file));
            }
            homes.Add(tensor, shard);
        }
        foreach (SafeTensorsFile shard in shards.Values)
        {
            entries.AddRange(shard.Entries.Where(e => homes.GetValueOrDefault(e.Name) == shard));
            foreach ((string key, string value) in shard.Metadata)
            {
                metadata.TryAdd(key, value);
            }
        }
        if (entries.Count < map.Count)
        {
            (string tensor, string name) = map.First(m => !homes[m.Key].Contains(m.Key));
            string? other = shards.FirstOrDefault(s => s.Value.Contains(tensor)).Key;
            throw Bad(path, tensor, $"is not in {ModelFormatException.Quote(name)}{(other is null ? " nor in any other shard" : $" but in {ModelFormatException.Quote(other)}")}: index and shards are of different models");
        }
    }

    /// <summary>Tensor → shard.</summary>
    private static SortedDictionary<string, string> Parse(FileBytes file, string path)
    {
        if (file.Length > MostBytes)
        {
            throw Bad(path, null, $"the file has {file.Length} bytes, want at most {MostBytes}");
        }
        ReadOnlySpan<byte> json = file.Span(0, (int)file.Length);
        if (!Utf8.IsValid(json) || json.IsEmpty)
        {
            throw Bad(path, null, json.IsEmpty ? "the file is empty, want JSON: download it again" : $"the text is not UTF-8{(FileKind.Explain(json) is { } kind ? ": " + kind : ", want JSON")}");
        }
        var reader = new Utf8JsonReader(json);
        try
        {
            return ReadRoot(ref reader, path);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)     // the second: escapes that are no character
        {
            throw new ModelFormatException($"SafeTensorsIndex: {path} is not valid JSON near byte {reader.BytesConsumed}: {error.Message}", error) { File = path, Offset = reader.BytesConsumed };
        }
    }

    private static SortedDictionary<string, string> ReadRoot(ref Utf8JsonReader reader, string path)
    {
        SortedDictionary<string, string>? map = null;
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            throw Bad(path, null, $"the text is a {reader.TokenType}, want an object with {Map}");
        }
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            bool isMap = reader.ValueTextEquals(Map);
            reader.Read();
            if (!isMap)
            {
                reader.Skip();      // metadata: total_size and whatever tools add
                continue;
            }
            if (map is not null || reader.TokenType != JsonTokenType.StartObject)
            {
                throw Bad(path, Map, map is not null ? "occurs twice, want it once" : $"is a {reader.TokenType}, want an object of tensor and shard");
            }
            map = ReadMap(ref reader, path);
        }
        reader.Read();      // throws unless only white space follows
        return map is { Count: > 0 } ? map : throw Bad(path, Map, map is null ? "is missing, want an object of tensor and shard" : "is empty, want at least one tensor");
    }

    private static SortedDictionary<string, string> ReadMap(ref Utf8JsonReader reader, string path)
    {
        var map = new SortedDictionary<string, string>(StringComparer.Ordinal);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string tensor = reader.GetString()!;
            reader.Read();
            string? shard = reader.TokenType == JsonTokenType.String ? reader.GetString() : null;
            string? wrong = shard is null ? $"is a {reader.TokenType}, want the name of a shard"
                : !IsPlain(shard) ? $"lies in {ModelFormatException.Quote(shard)}, want the plain name of a .safetensors file beside the index"
                : !map.TryAdd(tensor, shard) ? "occurs twice, want every name once"
                : null;
            if (wrong is not null)
            {
                throw Bad(path, tensor, wrong);
            }
        }
        return map;
    }

    /// <summary>Nothing that leads out of the folder, and nothing but weights.</summary>
    private static bool IsPlain(string shard) => shard.EndsWith(".safetensors", StringComparison.Ordinal) && shard.Length <= 255 && !shard.AsSpan().ContainsAny("/\\\0:");

    private static List<List<TensorData>> Split(IEnumerable<TensorData> tensors, long shardBytes)
    {
        List<List<TensorData>> parts = [[]];
        var names = new HashSet<string>(StringComparer.Ordinal);
        long bytes = 0;
        foreach (TensorData tensor in tensors)
        {
            if (!names.Add(tensor.Name))
            {
                throw new ArgumentException($"SafeTensorsIndex: tensor {ModelFormatException.Quote(tensor.Name)} occurs twice, want every name once", nameof(tensors));
            }
            if (parts[^1].Count > 0 && tensor.Length > shardBytes - bytes)
            {
                parts.Add([]);
                bytes = 0;
            }
            parts[^1].Add(tensor);
            bytes += tensor.Length;
        }
        return parts;
    }

    /// <summary>Shards of models before and of saves that were cut short.</summary>
    private static IEnumerable<string> ShardsIn(string folder) => Directory.Exists(folder) ? Directory.EnumerateFiles(folder, "model*-?????-of-?????.safetensors") : [];

    /// <summary>Names that no file has yet, so that shards of the model before are not overwritten while its index still leads to them.</summary>
    private static string[] FreeNames(string folder, int count)
    {
        for (int round = 1; ; round++)
        {
            string stem = round == 1 ? "model" : $"model.{round}";
            string[] files = [.. Enumerable.Range(1, count).Select(i => Path.Combine(folder, $"{stem}-{i:D5}-of-{count:D5}.safetensors"))];
            if (!files.Any(File.Exists))
            {
                return files;
            }
        }
    }

    private static byte[] Text(List<List<TensorData>> parts, string[] files)
    {
        using var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true, NewLine = "\n" }))
        {
            json.WriteStartObject();
            json.WriteStartObject("metadata");
            json.WriteNumber("total_size", parts.Sum(p => p.Sum(t => t.Length)));
            json.WriteEndObject();
            json.WriteStartObject(Map);
            foreach ((string tensor, string shard) in parts.SelectMany((p, i) => p.Select(t => (t.Name, Path.GetFileName(files[i])))).OrderBy(p => p.Name, StringComparer.Ordinal))
            {
                json.WriteString(tensor, shard);
            }
            json.WriteEndObject();
            json.WriteEndObject();
        }
        stream.Write("\n"u8);
        return stream.ToArray();
    }

    private static void Remove(IEnumerable<string> files)
    {
        foreach (string file in files)
        {
            File.Delete(file);
        }
    }

    private static ModelFormatException Bad(string path, string? key, string found) =>
        new($"SafeTensorsIndex: {path}: {(key is null ? "" : ModelFormatException.Quote(key) + " ")}{found}") { File = path, Key = key };
}
