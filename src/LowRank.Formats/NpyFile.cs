namespace LowRank.Formats;

/// <summary>A NumPy array on disk (.npy): memory-mapped and lazy to read, written whole or not at all. Either byte order, row- or column-major; complex numbers get a last axis of 2 (real, imaginary).</summary>
public sealed class NpyFile : TensorSource
{
    /// <summary>The name of the one array, as NumPy calls arrays without a name.</summary>
    public const string ArrayName = "arr_0";

    private readonly FileBytes file;
    private readonly NpyHeader header;
    private readonly SafeTensorsEntry entry;
    private readonly Lazy<byte[]> plain;

    private NpyFile(FileBytes file)
    {
        this.file = file;
        int length = NpyHeader.Measure(file.Head(FileKind.HeadBytes), file.Length, file.Name, null);
        header = NpyHeader.Parse(file.Span(0, length), file.Length, file.Name, null);
        entry = new(ArrayName, header.Type, header.Dimensions, 0, header.DataBytes);
        plain = new(() => header.ToPlain(file.Span(header.DataStart, AtOnce(entry))));
    }

    /// <inheritdoc/>
    public override string Name => file.Name;

    /// <inheritdoc/>
    public override IReadOnlyList<SafeTensorsEntry> Entries => [entry];

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata => System.Collections.ObjectModel.ReadOnlyDictionary<string, string>.Empty;

    /// <summary>Opens a file and checks its header against its size; no data is read.</summary>
    /// <exception cref="ModelFormatException">The file is damaged, hostile or of another format, or holds objects, records or texts.</exception>
    /// <exception cref="IOException">The file cannot be read or does not exist.</exception>
    public static new NpyFile Open(string path)
    {
        FileBytes file = FileBytes.Open(path, nameof(NpyFile));
        try
        {
            return new NpyFile(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Reads a file that is in memory already; <paramref name="name"/> stands in messages.</summary>
    /// <exception cref="ModelFormatException">As for <see cref="Open"/>.</exception>
    public static NpyFile Read(ReadOnlyMemory<byte> bytes, string name = "memory") => new(new FileBytes(bytes, name));

    /// <summary>Writes an array as NumPy's version 1.0 has it: to a temporary name, flushed, renamed. The tensor's name is not stored.</summary>
    /// <exception cref="ArgumentException">NumPy has no such type (BF16, the 8-bit floats) or allows no such rank.</exception>
    /// <exception cref="IOException">It cannot be written; the message names path and reason, and nothing has changed.</exception>
    public static void Save(string path, TensorData tensor)
    {
        byte[] header = NpyHeader.Build(tensor);
        AtomicFile.Write(path, stream =>
        {
            stream.Write(header);
            tensor.Write(stream);
        });
    }

    /// <inheritdoc/>
    public override bool TryGet(string name, out SafeTensorsEntry? entry)
    {
        entry = name == ArrayName ? this.entry : null;
        return entry is not null;
    }

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(string name, long start, int count)
    {
        CheckRange(this[name], start, count);
        return header.IsPlain ? file.Span(header.DataStart + start, count) : plain.Value.AsSpan((int)start, count);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => file.Dispose();
}
