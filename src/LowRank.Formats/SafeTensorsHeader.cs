using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Unicode;

namespace LowRank.Formats;

/// <summary>The header of a safetensors file: u64 length, JSON of that length, then the data. Everything about it is checked before any of it is used.</summary>
internal sealed class SafeTensorsHeader
{
    /// <summary>The format's own limit, in bytes.</summary>
    public const long MostBytes = 100_000_000;
    public const string MetadataKey = "__metadata__";
    private const int LengthBytes = 8;
    private readonly string file;
    private readonly Dictionary<string, SafeTensorsEntry> byName = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> metadata = new(StringComparer.Ordinal);

    private SafeTensorsHeader(string file) => this.file = file;

    /// <summary>Ordered as their data is.</summary>
    public SafeTensorsEntry[] Entries { get; private set; } = [];

    public IReadOnlyDictionary<string, SafeTensorsEntry> ByName => byName;

    public IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <summary>The length of the JSON, from the first bytes of the file (16 suffice).</summary>
    public static int Length(ReadOnlySpan<byte> head, long fileBytes, string file)
    {
        if (fileBytes < LengthBytes)
        {
            throw Bad(file, 0, $"has {fileBytes} bytes, want at least {LengthBytes + 2}: it is cut short or no safetensors file");
        }
        ulong length = BinaryPrimitives.ReadUInt64LittleEndian(head);
        string? found = length > MostBytes ? $"claims a header of {length} bytes, want at most {MostBytes}"
            : length < 2 ? $"claims a header of {length} bytes, want at least 2"
            : (long)length > fileBytes - LengthBytes ? $"claims a header of {length} bytes but ends after {fileBytes - LengthBytes}: it is cut short or no safetensors file"
            : head.Length > LengthBytes && head[LengthBytes] != '{' ? $"has a header that begins with byte 0x{head[LengthBytes]:x2}, want '{{'"
            : null;
        return found is null ? (int)length : throw Bad(file, 0, FileKind.Explain(head) is { } kind ? $"is no safetensors file: {kind}" : found);
    }

    /// <summary>Reads and checks the JSON; <paramref name="dataBytes"/> is what follows it.</summary>
    public static SafeTensorsHeader Parse(ReadOnlySpan<byte> json, long dataBytes, string file)
    {
        if (!Utf8.IsValid(json))
        {
            throw Bad(file, LengthBytes, "has a header that is not UTF-8");
        }
        var header = new SafeTensorsHeader(file);
        var reader = new Utf8JsonReader(json);
        try
        {
            header.Read(ref reader);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: escapes that are no character, which the reader finds late.
            throw new ModelFormatException($"SafeTensorsFile: {file} has a header that is not valid JSON near byte {LengthBytes + reader.BytesConsumed}: {error.Message}", error)
            {
                File = file,
                Offset = LengthBytes + reader.BytesConsumed,
            };
        }
        header.CheckCover(dataBytes);
        return header;
    }

    /// <summary>Header bytes, length included, for tensors laid out in the given order; padded with spaces to a multiple of 8.</summary>
    public static byte[] Build(IEnumerable<SafeTensorsEntry> entries, IReadOnlyDictionary<string, string>? metadata)
    {
        var buffer = new ArrayBufferWriter<byte>();
        buffer.Advance(LengthBytesOf(buffer));
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject(MetadataKey);
                foreach ((string key, string value) in metadata.OrderBy(m => m.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }
                json.WriteEndObject();
            }
            foreach (SafeTensorsEntry entry in entries)
            {
                json.WriteStartObject(entry.Name);
                json.WriteString("dtype"u8, entry.Type.Name());
                json.WriteStartArray("shape"u8);
                foreach (long size in entry.Dimensions)
                {
                    json.WriteNumberValue(size);
                }
                json.WriteEndArray();
                json.WriteStartArray("data_offsets"u8);
                json.WriteNumberValue(entry.Offset);
                json.WriteNumberValue(entry.Offset + entry.Length);
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        int padding = -buffer.WrittenCount & 7;
        buffer.GetSpan(padding)[..padding].Fill((byte)' ');
        buffer.Advance(padding);
        byte[] header = buffer.WrittenSpan.ToArray();
        BinaryPrimitives.WriteInt64LittleEndian(header, header.Length - LengthBytes);
        return header;
    }

    private static int LengthBytesOf(ArrayBufferWriter<byte> buffer)
    {
        buffer.GetSpan(LengthBytes)[..LengthBytes].Clear();
        return LengthBytes;
    }

    private void Read(ref Utf8JsonReader reader)
    {
        reader.Read();
        bool hasMetadata = false;
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            if (name != MetadataKey)
            {
                SafeTensorsEntry entry = ReadEntry(ref reader, name);
                if (!byName.TryAdd(name, entry))
                {
                    throw Bad("occurs twice, want every name once", name);
                }
                continue;
            }
            if (hasMetadata)
            {
                throw Bad("occurs twice, want it once", name);
            }
            hasMetadata = true;
            ReadMetadata(ref reader);
        }
        reader.Read();      // throws unless only white space follows
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        JsonTokenType token = Next(ref reader);
        if (token == JsonTokenType.Null)
        {
            return;
        }
        if (token != JsonTokenType.StartObject)
        {
            throw Bad($"is a {token}, want an object of strings", MetadataKey);
        }
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            if (Next(ref reader) != JsonTokenType.String)
            {
                throw Bad($"holds a {reader.TokenType} at {ModelFormatException.Quote(key)}, want a string", MetadataKey);
            }
            if (!metadata.TryAdd(key, reader.GetString()!))
            {
                throw Bad($"holds {ModelFormatException.Quote(key)} twice, want every key once", MetadataKey);
            }
        }
    }

    private SafeTensorsEntry ReadEntry(ref Utf8JsonReader reader, string name)
    {
        SafeTensorsType? type = null;
        long[]? shape = null, range = null;
        if (Next(ref reader) != JsonTokenType.StartObject)
        {
            throw Bad($"is a {reader.TokenType}, want an object of dtype, shape and data_offsets", name);
        }
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            if (reader.ValueTextEquals("dtype"u8))
            {
                Once(type is null, "dtype", name);
                Next(ref reader);
                string text = reader.TokenType == JsonTokenType.String ? reader.GetString()! : reader.TokenType.ToString();
                type = SafeTensorsTypes.TryParse(text, out SafeTensorsType known) ? known : throw Bad($"has dtype {ModelFormatException.Quote(text)}, want one of the format, such as F32 or BF16", name);
            }
            else if (reader.ValueTextEquals("shape"u8))
            {
                Once(shape is null, "shape", name);
                shape = ReadNumbers(ref reader, "shape", name);
            }
            else if (reader.ValueTextEquals("data_offsets"u8))
            {
                Once(range is null, "data_offsets", name);
                range = ReadNumbers(ref reader, "data_offsets", name);
            }
            else
            {
                // The format text says nothing of further fields; the Rust library passes over them.
                Next(ref reader);
                reader.Skip();
            }
        }
        if (type is null || shape is null || range is null)
        {
            throw Bad($"has no {(type is null ? "dtype" : shape is null ? "shape" : "data_offsets")}", name);
        }
        return Check(name, type.Value, shape, range);
    }

    private SafeTensorsEntry Check(string name, SafeTensorsType type, long[] shape, long[] range)
    {
        if (range.Length != 2 || range[0] > range[1])
        {
            throw Bad($"has data_offsets [{string.Join(", ", range.Take(4))}], want [begin, end] with begin <= end", name);
        }
        var entry = new SafeTensorsEntry(name, type, shape, range[0], range[1] - range[0]);
        UInt128 bits = (UInt128)type.Bits();
        foreach (long size in shape)
        {
            bits *= (UInt128)size;
            if (bits >> 64 != 0)
            {
                throw Bad($"is {entry}: its size overflows 64 bits", name);
            }
        }
        if (bits % 8 != 0 || bits / 8 != (UInt128)entry.Length)
        {
            throw Bad($"is {entry} of {bits} bits but has {entry.Length} bytes (data_offsets [{range[0]}, {range[1]}])", name);
        }
        return entry;
    }

    private long[] ReadNumbers(ref Utf8JsonReader reader, string field, string name)
    {
        if (Next(ref reader) != JsonTokenType.StartArray)
        {
            throw Bad($"has a {reader.TokenType} as {field}, want an array of whole numbers", name);
        }
        var numbers = new List<long>();
        while (Next(ref reader) != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetUInt64(out ulong number) || number > long.MaxValue)
            {
                throw Bad($"has {field} with {(reader.TokenType == JsonTokenType.Number ? Encoding.UTF8.GetString(reader.ValueSpan[..Math.Min(40, reader.ValueSpan.Length)]) : reader.TokenType)} in it, want whole numbers from 0 below 2^63", name);
            }
            numbers.Add((long)number);
        }
        return [.. numbers];
    }

    private void CheckCover(long dataBytes)
    {
        Entries = [.. byName.Values];
        Array.Sort(Entries, (a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset)
            : a.Length != b.Length ? a.Length.CompareTo(b.Length) : string.CompareOrdinal(a.Name, b.Name));
        long end = 0;
        foreach (SafeTensorsEntry entry in Entries)
        {
            if (entry.Offset != end)
            {
                throw Bad($"begins at byte {entry.Offset} of the data, want {end}: {(entry.Offset < end ? "it overlaps another tensor" : "there is a hole before it")}", entry.Name);
            }
            end += entry.Length;
        }
        if (end != dataBytes)
        {
            throw Bad(file, null, $"has {dataBytes} bytes of data but its header describes {end}: {(dataBytes < end ? "it is cut short; download or save it again" : "something was appended")}");
        }
    }

    /// <summary>The next token; an end of the text inside a value throws in the reader.</summary>
    private static JsonTokenType Next(ref Utf8JsonReader reader)
    {
        reader.Read();
        return reader.TokenType;
    }

    private void Once(bool first, string field, string name)
    {
        if (!first)
        {
            throw Bad($"has {field} twice, want it once", name);
        }
    }

    private ModelFormatException Bad(string what, string name) =>
        new($"SafeTensorsFile: {file}: {(name == MetadataKey ? "" : "tensor ")}{ModelFormatException.Quote(name)} {what}") { File = file, Key = name };

    private static ModelFormatException Bad(string file, long? offset, string what) =>
        new($"SafeTensorsFile: {file} {what}") { File = file, Offset = offset };
}
