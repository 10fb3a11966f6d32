using System.IO.Compression;

namespace LowRank.Formats;

/// <summary>Named NumPy arrays in a zip archive (.npz), as numpy.savez and savez_compressed write them. Headers are read when it is opened, an array when it is asked for, and kept until this is disposed.</summary>
public sealed class NpzFile : TensorSource
{
    private const string Ending = ".npy";
    private const long FreeBytes = 256 << 20, MostRatio = 100;      // of all members unpacked; more is a bomb
    private const long DeflateRatio = 1032;                         // what deflate can reach: a member that claims more lies
    private static readonly DateTimeOffset Stamp = new(1980, 1, 1, 0, 0, 0, TimeSpan.Zero);     // equal arrays, equal files
    private static readonly uint[] CrcTable = [.. Enumerable.Range(0, 256).Select(i => Enumerable.Range(0, 8).Aggregate((uint)i, (c, _) => (c >> 1) ^ (0xEDB88320 & (0 - (c & 1)))))];
    private readonly FileBytes file;
    private readonly ZipArchive? zip;
    private readonly List<SafeTensorsEntry> entries = [];
    private readonly Dictionary<string, (ZipArchiveEntry Zip, NpyHeader Header, SafeTensorsEntry Entry)> members = new(StringComparer.Ordinal);
    private readonly Dictionary<string, byte[]> read = new(StringComparer.Ordinal);

    private NpzFile(FileBytes file)
    {
        this.file = file;
        try
        {
            zip = Guard(null, () => new ZipArchive(file.AsStream(), ZipArchiveMode.Read));
            Guard(null, () => { _ = zip.Entries.Count; return 0; });
            long left = FreeBytes + (file.Length * MostRatio);
            foreach (ZipArchiveEntry member in zip.Entries)
            {
                string name = NameOf(member);
                CheckSize(member, name, ref left);
                NpyHeader header = Guard(name, () => ReadHeader(member, name));
                var entry = new SafeTensorsEntry(name, header.Type, header.Dimensions, 0, header.DataBytes);
                if (!members.TryAdd(name, (member, header, entry)))
                {
                    throw Bad(name, "occurs twice, want every name once");
                }
                entries.Add(entry);
            }
        }
        catch
        {
            zip?.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override string Name => file.Name;

    /// <summary>All arrays in the order of the archive, named without .npy.</summary>
    public override IReadOnlyList<SafeTensorsEntry> Entries => entries;

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata => System.Collections.ObjectModel.ReadOnlyDictionary<string, string>.Empty;

    /// <summary>Opens an archive and checks the header of every member against its size.</summary>
    /// <exception cref="ModelFormatException">The archive or a member is damaged or hostile: no NumPy array, a name twice or one that leads out of a folder, a size that no deflate reaches or far beyond the file's.</exception>
    /// <exception cref="IOException">The file cannot be read or does not exist.</exception>
    public static new NpzFile Open(string path)
    {
        FileBytes file = FileBytes.Open(path, nameof(NpzFile));
        try
        {
            return new NpzFile(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Reads an archive that is in memory already; <paramref name="name"/> stands in messages.</summary>
    /// <exception cref="ModelFormatException">As for <see cref="Open"/>.</exception>
    public static NpzFile Read(ReadOnlyMemory<byte> bytes, string name = "memory") => new(new FileBytes(bytes, name));

    /// <summary>Writes an archive: to a temporary name, flushed, renamed.</summary>
    /// <param name="path">The file.</param>
    /// <param name="tensors">Their names may have slashes but not lead out of a folder.</param>
    /// <param name="compress">Deflates the members, as numpy.savez_compressed does.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is none for a member, or NumPy has no such type or rank.</exception>
    /// <exception cref="IOException">It cannot be written; the message names path and reason, and nothing has changed.</exception>
    public static void Save(string path, IEnumerable<TensorData> tensors, bool compress = false)
    {
        (TensorData Tensor, byte[] Header)[] all = [.. tensors.Select(t => (t, NpyHeader.Build(t)))];
        var names = new HashSet<string>(StringComparer.Ordinal);
        if (all.FirstOrDefault(a => !IsPlain(a.Tensor.Name) || !names.Add(a.Tensor.Name)).Tensor is { } wrong)
        {
            throw new ArgumentException($"NpzFile: the name {ModelFormatException.Quote(wrong.Name)} occurs twice or leads out of a folder, want every name once and relative", nameof(tensors));
        }
        AtomicFile.Write(path, stream =>
        {
            using var archive = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true);
            foreach ((TensorData tensor, byte[] header) in all)
            {
                ZipArchiveEntry member = archive.CreateEntry(tensor.Name + Ending, compress ? CompressionLevel.Optimal : CompressionLevel.NoCompression);
                member.LastWriteTime = Stamp;
                using Stream into = member.Open();
                into.Write(header);
                tensor.Write(into);
            }
        });
    }

    /// <inheritdoc/>
    public override bool TryGet(string name, out SafeTensorsEntry? entry)
    {
        bool found = members.TryGetValue(name, out var member);
        entry = member.Entry;
        return found;
    }

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(string name, long start, int count)
    {
        CheckRange(this[name], start, count);
        lock (read)     // the archive has one position
        {
            if (!read.TryGetValue(name, out byte[]? values))
            {
                read.Add(name, values = Guard(name, () => ReadData(name)));
            }
            return values.AsSpan((int)start, count);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        zip?.Dispose();
        file.Dispose();
    }

    private string NameOf(ZipArchiveEntry member)
    {
        string name = member.FullName.EndsWith(Ending, StringComparison.Ordinal) ? member.FullName[..^Ending.Length]
            : throw Bad(member.FullName, "is no .npy member, want NumPy arrays alone");
        return IsPlain(name) ? name : throw Bad(name, "leads out of a folder, want a relative name");
    }

    private static bool IsPlain(string name) => name.Length > 0 && !name.AsSpan().ContainsAny('\\', '\0', ':') && !name.Split('/').Any(part => part is "" or "." or "..");

    private void CheckSize(ZipArchiveEntry member, string name, ref long left)
    {
        if (member.IsEncrypted)
        {
            throw Bad(name, "is encrypted, want a plain archive");
        }
        if (member.Length < 0 || member.Length / DeflateRatio > member.CompressedLength + 1 || member.CompressedLength > file.Length)
        {
            throw Bad(name, $"claims {member.Length} bytes packed into {member.CompressedLength}: the archive is damaged");
        }
        left -= member.Length;
        if (left < 0)
        {
            throw Bad(name, $"brings the archive over {FreeBytes + (file.Length * MostRatio)} bytes unpacked, {MostRatio} times its size: save it with numpy.savez, without compression");
        }
    }

    private NpyHeader ReadHeader(ZipArchiveEntry member, string name)
    {
        using Stream stream = member.Open();
        return ReadHeader(stream, member, name, out _);
    }

    private NpyHeader ReadHeader(Stream stream, ZipArchiveEntry member, string name, out byte[] header)
    {
        var prefix = new byte[(int)Math.Min(member.Length, NpyHeader.PrefixBytes)];
        stream.ReadExactly(prefix);
        header = new byte[NpyHeader.Measure(prefix, member.Length, Name, name)];
        int had = Math.Min(prefix.Length, header.Length);
        prefix.AsSpan(0, had).CopyTo(header);
        stream.ReadExactly(header.AsSpan(had));
        return NpyHeader.Parse(header, member.Length, Name, name);
    }

    private byte[] ReadData(string name)
    {
        (ZipArchiveEntry member, NpyHeader known, SafeTensorsEntry entry) = members[name];
        using Stream stream = member.Open();
        _ = ReadHeader(stream, member, name, out byte[] header);
        var data = new byte[AtOnce(entry)];
        stream.ReadExactly(data);
        if (stream.ReadByte() >= 0 || Crc(Crc(uint.MaxValue, header), data) != ~member.Crc32)
        {
            throw Bad(name, "does not have the checksum that the archive holds: it is damaged; download or save it again");
        }
        return known.IsPlain ? data : known.ToPlain(data);
    }

    private static uint Crc(uint crc, ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            crc = (crc >> 8) ^ CrcTable[(byte)(crc ^ b)];
        }
        return crc;
    }

    /// <summary>The library's errors on a damaged archive are of many types; there is no file left to fail, as the bytes are mapped.</summary>
    private T Guard<T>(string? name, Func<T> act)
    {
        try
        {
            return act();
        }
        catch (Exception error) when (error is InvalidDataException or IOException or NotSupportedException or ArgumentException or OverflowException or IndexOutOfRangeException)
        {
            string kind = FileKind.Explain(file.Head(FileKind.HeadBytes)) is { } other && !other.Contains(nameof(NpzFile), StringComparison.Ordinal) ? other : error.Message.TrimEnd('.');
            throw new ModelFormatException($"NpzFile: {Name}{(name is null ? "" : $": {ModelFormatException.Quote(name)}")} is no archive of NumPy arrays or damaged: {kind}", error) { File = Name, Key = name };
        }
    }

    private ModelFormatException Bad(string name, string found) => new($"NpzFile: {Name}: {ModelFormatException.Quote(name)} {found}") { File = Name, Key = name };
}
