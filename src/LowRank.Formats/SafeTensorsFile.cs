namespace LowRank.Formats;

/// <summary>A safetensors file: memory-mapped and lazy to read, written whole or not at all. Little-endian machines only, as the format is.</summary>
public sealed class SafeTensorsFile : TensorSource
{
    private const int LengthBytes = 8;
    private readonly FileBytes file;
    private readonly SafeTensorsHeader header;
    private readonly long dataStart;

    private SafeTensorsFile(FileBytes file)
    {
        this.file = file;
        int length = SafeTensorsHeader.Length(file.Head(FileKind.HeadBytes), file.Length, file.Name);
        dataStart = LengthBytes + length;
        header = SafeTensorsHeader.Parse(file.Span(LengthBytes, length), file.Length - dataStart, file.Name);
    }

    /// <inheritdoc/>
    public override string Name => file.Name;

    /// <inheritdoc/>
    public override IReadOnlyList<SafeTensorsEntry> Entries => header.Entries;

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata => header.Metadata;

    /// <summary>Opens a file and checks its header against the format and its size; no data is read.</summary>
    /// <exception cref="ModelFormatException">The file is damaged, hostile or of another format; pickles and others are recognised by content and the message says how to convert them.</exception>
    /// <exception cref="IOException">The file cannot be read or does not exist.</exception>
    public static new SafeTensorsFile Open(string path)
    {
        FileBytes file = FileBytes.Open(path, nameof(SafeTensorsFile));
        try
        {
            return new SafeTensorsFile(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Reads a file that is in memory already; <paramref name="name"/> stands in messages.</summary>
    /// <exception cref="ModelFormatException">As for <see cref="Open"/>.</exception>
    public static SafeTensorsFile Read(ReadOnlyMemory<byte> bytes, string name = "memory") => new(new FileBytes(bytes, name));

    /// <summary>Writes a file: to a temporary name in the same folder, flushed to disk, renamed. What was there before stays until then.</summary>
    /// <param name="path">The file.</param>
    /// <param name="tensors">In any order; the file has them by type (largest first) and name, as the Rust library writes them.</param>
    /// <param name="metadata">Strings stored beside them, or null.</param>
    /// <exception cref="ArgumentException">Two tensors have one name, or one has the name of the metadata.</exception>
    /// <exception cref="IOException">It cannot be written; the message names path and reason, and nothing has changed.</exception>
    public static void Save(string path, IEnumerable<TensorData> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        (byte[] header, TensorData[] ordered) = Lay(tensors, metadata);
        AtomicFile.Write(path, stream => Write(stream, header, ordered));
    }

    /// <summary>Writes the file's bytes to a stream.</summary>
    /// <exception cref="ArgumentException">As for <see cref="Save"/>.</exception>
    public static void Write(Stream stream, IEnumerable<TensorData> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        (byte[] header, TensorData[] ordered) = Lay(tensors, metadata);
        Write(stream, header, ordered);
    }

    /// <inheritdoc/>
    public override bool TryGet(string name, out SafeTensorsEntry? entry) => header.ByName.TryGetValue(name, out entry);

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(string name, long start, int count)
    {
        SafeTensorsEntry entry = this[name];
        CheckRange(entry, start, count);
        return file.Span(dataStart + entry.Offset + start, count);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => file.Dispose();

    private static void Write(Stream stream, byte[] header, TensorData[] tensors)
    {
        stream.Write(header);
        foreach (TensorData tensor in tensors)
        {
            tensor.Write(stream);
        }
    }

    private static (byte[] Header, TensorData[] Ordered) Lay(IEnumerable<TensorData> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        // The Rust library compares names by their UTF-8 bytes, which ordinal UTF-16 equals outside surrogates.
        TensorData[] ordered = [.. tensors.OrderByDescending(t => t.Type).ThenBy(t => t.Name, StringComparer.Ordinal)];
        var entries = new SafeTensorsEntry[ordered.Length];
        var names = new HashSet<string>(StringComparer.Ordinal) { SafeTensorsHeader.MetadataKey };
        long end = 0;
        for (int i = 0; i < ordered.Length; i++)
        {
            TensorData t = ordered[i];
            if (!names.Add(t.Name))
            {
                throw new ArgumentException($"SafeTensorsFile: tensor '{t.Name}' occurs twice or has the name of the metadata, want every name once", nameof(tensors));
            }
            entries[i] = new(t.Name, t.Type, t.Dimensions, end, t.Length);
            end = checked(end + t.Length);
        }
        byte[] header = SafeTensorsHeader.Build(entries, metadata);
        return header.Length - LengthBytes <= SafeTensorsHeader.MostBytes ? (header, ordered)
            : throw new ArgumentException($"SafeTensorsFile: the header has {header.Length - LengthBytes} bytes, want at most {SafeTensorsHeader.MostBytes}: store fewer tensors or less metadata", nameof(tensors));
    }
}
