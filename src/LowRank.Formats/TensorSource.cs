namespace LowRank.Formats;

/// <summary>Named tensors on disk: a safetensors file, shards with an index, NumPy arrays. Nothing of the data is read before it is asked for.</summary>
public abstract class TensorSource : IDisposable
{
    /// <summary>The weights of a model folder, where they are one file.</summary>
    public const string ModelFile = "model.safetensors";

    /// <summary>The file or folder, as messages name it.</summary>
    public abstract string Name { get; }

    /// <summary>All tensors, ordered as their data is.</summary>
    public abstract IReadOnlyList<SafeTensorsEntry> Entries { get; }

    /// <summary>Strings stored beside the tensors; empty where there are none.</summary>
    public abstract IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Opens the weights of a model folder (model.safetensors, or its index and shards), an index, a .npy or .npz file, or any safetensors file.</summary>
    /// <exception cref="ModelFormatException">A file is damaged, hostile or of another format; the message names it and what to do.</exception>
    /// <exception cref="IOException">A file is missing or cannot be read; where a folder has a pickle only, the message says how to convert it.</exception>
    public static TensorSource Open(string path)
    {
        if (!Directory.Exists(path))
        {
            return Path.GetExtension(path) switch
            {
                ".json" => SafeTensorsIndex.Open(path),
                ".npy" => NpyFile.Open(path),
                ".npz" => NpzFile.Open(path),
                _ => SafeTensorsFile.Open(path),
            };
        }
        string file = Path.Combine(path, ModelFile), index = Path.Combine(path, SafeTensorsIndex.FileName);
        return File.Exists(file) ? SafeTensorsFile.Open(file)
            : File.Exists(index) ? SafeTensorsIndex.Open(index)
            : throw NoWeights(path, file);
    }

    /// <summary>The entry of a tensor.</summary>
    /// <exception cref="ModelFormatException">There is none of that name: the message names near ones.</exception>
    public SafeTensorsEntry this[string name] => TryGet(name, out SafeTensorsEntry? entry) ? entry! : throw Missing(name);

    /// <summary>True where a tensor of that name exists.</summary>
    public bool Contains(string name) => TryGet(name, out _);

    /// <summary>The entry of a tensor, or false.</summary>
    public abstract bool TryGet(string name, out SafeTensorsEntry? entry);

    /// <summary>The raw little-endian bytes [start, start+count) of a tensor, valid until this is disposed.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range leaves the tensor.</exception>
    public abstract ReadOnlySpan<byte> Bytes(string name, long start, int count);

    /// <summary>The raw little-endian bytes of a tensor in row-major order, valid until this is disposed.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or 2 GiB and more: read it by ranges.</exception>
    public ReadOnlySpan<byte> Bytes(string name) => Bytes(name, 0, AtOnce(this[name]));

    /// <summary>Values of a float tensor: F32, BF16, F16 and the 8-bit floats exactly, F64 rounded to nearest even.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or no float type.</exception>
    public float[] ReadSingle(string name)
    {
        float[] values = Room<float>(name);
        return Walk(name, values, ElementReader.TryRead) ? values : throw Unreadable(name, "a float type (F32, BF16, F16, F64, F8_E4M3, F8_E5M2, F8_E8M0)");
    }

    /// <summary>Values of a float or integer tensor, exact but for integers beyond 2^53.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or a type without such values.</exception>
    public double[] ReadDouble(string name)
    {
        double[] values = Room<double>(name);
        return Walk(name, values, ElementReader.TryRead) ? values : throw Unreadable(name, "a float or integer type");
    }

    /// <summary>Values of an integer or BOOL tensor.</summary>
    /// <exception cref="ModelFormatException">No such tensor, another type, or a U64 from 2^63 on.</exception>
    public long[] ReadInt64(string name)
    {
        long[] values = Room<long>(name);
        return Walk(name, values, ElementReader.TryRead) ? values : throw Unreadable(name, "an integer type with values below 2^63");
    }

    /// <summary>Values of an integer or BOOL tensor that fit in 32 bits: ids, labels.</summary>
    /// <exception cref="ModelFormatException">No such tensor, another type, or a value that does not fit (named with its place).</exception>
    public int[] ReadInt32(string name)
    {
        long[] wide = ReadInt64(name);
        int at = Array.FindIndex(wide, v => v != (int)v);
        return at < 0 ? Array.ConvertAll(wide, v => (int)v)
            : throw new ModelFormatException($"{GetType().Name}: {Name}: tensor {ModelFormatException.Quote(name)} holds {wide[at]} at [{at}], want values of 32 bits") { File = Name, Key = name };
    }

    /// <summary>A tensor of the engine with the same type and bits, made in <paramref name="scope"/>; BOOL becomes U8, the 8-bit floats F32.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or a type the engine cannot compute with.</exception>
    public Tensor Load(string name, Scope scope)
    {
        SafeTensorsEntry entry = this[name];
        return entry.Type.TryToDType(out DType type)
            ? scope.OfRaw(entry.Shape, type, Bytes(name))
            : scope.Of(entry.Shape, ReadSingle(name));
    }

    /// <summary>A tensor of the engine in <paramref name="type"/>, made in <paramref name="scope"/>; rounded to nearest even where the file is wider. Beside the
    /// tensor a megabyte is taken for a while.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or a type without values.</exception>
    public Tensor Load(string name, Scope scope, DType type)
    {
        SafeTensorsEntry entry = this[name];
        return entry.Shape.Rank == 0 || !entry.Type.TryToDType(out DType stored) || !stored.IsFloat()
            ? entry.Type is SafeTensorsType.F32 or SafeTensorsType.BF16 or SafeTensorsType.F16 ? scope.Of(entry.Shape, ReadSingle(name), type) : scope.Of(entry.Shape, ReadDouble(name), type)
            : LoadRows(name, 0, entry.Shape[0], scope, type);
    }

    /// <summary>Rows <paramref name="first"/> .. first+count-1 of the first dimension of a floating-point tensor, as <see cref="Load(string, Scope, DType)"/> gives them.</summary>
    /// <exception cref="ModelFormatException">No such tensor, or it is no F64, F32, BF16 or F16.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The rows leave the tensor.</exception>
    public Tensor LoadRows(string name, int first, int count, Scope scope, DType type)
    {
        SafeTensorsEntry entry = this[name];
        if (entry.Shape.Rank == 0 || !entry.Type.TryToDType(out DType stored) || !stored.IsFloat())
        {
            throw Unreadable(name, "rows of F64, F32, BF16 or F16");
        }
        if (first < 0 || count < 0 || first > entry.Shape[0] - count)
        {
            throw new ArgumentOutOfRangeException(nameof(first), first, $"{count} rows leave tensor {ModelFormatException.Quote(name)} of {entry.Shape[0]}");
        }
        int[] sizes = [.. entry.Shape];
        sizes[0] = count;
        Tensor tensor = scope.New(Shape.Of(sizes), type), flat = tensor.Reshape([checked((int)tensor.Shape.Count)]);
        long from = entry.Shape[0] == 0 ? 0 : entry.Shape.Count / entry.Shape[0] * first;
        const int step = 1 << 17;
        using Scope part = scope.Device.NewStore();
        for (int done = 0; done < flat.Shape[0]; done += step)
        {
            int some = Math.Min(step, flat.Shape[0] - done);
            ReadOnlySpan<byte> bytes = Bytes(name, (from + done) * stored.Size(), some * stored.Size());
            Tensor to = flat.Slice(done, some);
            if (stored == type)
            {
                to.SetRaw(bytes);
                continue;
            }
            to.ConvertFrom(part.OfRaw([some], stored, bytes));
            scope.Device.Synchronize();
            part.Reset();
        }
        return tensor;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Closes the files.</summary>
    protected abstract void Dispose(bool disposing);

    /// <summary>The size of a tensor, where one array or span can hold it.</summary>
    private protected int AtOnce(SafeTensorsEntry entry) => entry.Length <= Array.MaxLength ? (int)entry.Length
        : throw new ModelFormatException($"{GetType().Name}: {Name}: tensor {ModelFormatException.Quote(entry.Name)} has {entry.Length} bytes, want at most {Array.MaxLength} at once: read it by ranges") { File = Name, Key = entry.Name };

    private protected static void CheckRange(SafeTensorsEntry entry, long start, int count)
    {
        if (start < 0 || count < 0 || start > entry.Length - count)
        {
            throw new ArgumentOutOfRangeException(nameof(start), start, $"{count} bytes leave tensor {ModelFormatException.Quote(entry.Name)} of {entry.Length}");
        }
    }

    private delegate bool Reader<T>(SafeTensorsType type, ReadOnlySpan<byte> bytes, Span<T> values);

    // By ranges, because a span ends at 2 GiB and a tensor need not.
    private bool Walk<T>(string name, T[] values, Reader<T> read)
    {
        const int step = 1 << 24;
        SafeTensorsEntry entry = this[name];
        if (entry.Type.Bits() % 8 != 0)
        {
            return false;
        }
        int size = entry.Type.Bits() / 8;
        for (int done = 0; done < values.Length; done += step)
        {
            int count = Math.Min(step, values.Length - done);
            if (!read(entry.Type, Bytes(name, (long)done * size, count * size), values.AsSpan(done, count)))
            {
                return false;
            }
        }
        return true;
    }

    private T[] Room<T>(string name)
    {
        SafeTensorsEntry entry = this[name];
        return entry.Count <= Array.MaxLength ? new T[entry.Count]
            : throw new ModelFormatException($"{GetType().Name}: {Name}: tensor {ModelFormatException.Quote(name)} is {entry}, want at most {Array.MaxLength} elements in one array: read its bytes by ranges") { File = Name, Key = name };
    }

    private static FileNotFoundException NoWeights(string folder, string file)
    {
        string? pickle = Directory.EnumerateFiles(folder).Where(f => Path.GetExtension(f) is ".bin" or ".pt" or ".pth" or ".ckpt").Order(StringComparer.Ordinal).FirstOrDefault();
        string rest = pickle is null ? "want a folder with one of them" : $"only {Path.GetFileName(pickle)}: {FileKind.FromTorch}";
        return new FileNotFoundException($"TensorSource: {folder} has no {ModelFile} and no {SafeTensorsIndex.FileName}, {rest}", file);
    }

    private ModelFormatException Unreadable(string name, string want) =>
        new($"{GetType().Name}: {Name}: tensor {ModelFormatException.Quote(name)} is {this[name]}, want {want}") { File = Name, Key = name };

    private protected ModelFormatException Missing(string name)
    {
        string last = name[(name.LastIndexOf('.') + 1)..];
        string[] near = [.. Entries.Where(e => e.Name.EndsWith(last, StringComparison.Ordinal)).Union(Entries).Take(3).Select(e => ModelFormatException.Quote(e.Name))];
        return new($"{GetType().Name}: {Name} has no tensor {ModelFormatException.Quote(name)}; it holds {Entries.Count}{(near.Length > 0 ? ", such as " + string.Join(", ", near) : "")}") { File = Name, Key = name };
    }
}
