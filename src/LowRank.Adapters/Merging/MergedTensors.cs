using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>The tensors of a merge, each computed when it is read: the last one stays, so that memory is that of a few tensors whatever the model has.
/// It reads like a file: save it, load a model from it, or merge it again. Inputs stay open as long as it is used.</summary>
public sealed class MergedTensors : TensorSource
{
    private readonly Dictionary<string, SafeTensorsEntry> byName = new(StringComparer.Ordinal);
    private readonly List<SafeTensorsEntry> entries = [];
    private readonly Func<SafeTensorsEntry, byte[]> compute;
    private IReadOnlyList<IDisposable> owned;
    private (string? Name, byte[] Bytes) last = (null, []);
    private bool closed;

    /// <summary>Tensors of these names, types and dimensions; offsets are set here.</summary>
    internal MergedTensors(string name, IEnumerable<SafeTensorsEntry> tensors, Func<SafeTensorsEntry, byte[]> compute, params IReadOnlyList<IDisposable> owned)
    {
        (Name, this.compute, this.owned) = (name, compute, owned);
        long offset = 0;
        foreach (SafeTensorsEntry tensor in tensors)
        {
            SafeTensorsEntry entry = tensor with { Offset = offset, Length = checked(tensor.Count * tensor.Type.Bits() / 8) };
            if (!byName.TryAdd(entry.Name, entry))
            {
                throw new ModelFormatException($"{name}: tensor {ModelFormatException.Quote(entry.Name)} comes out twice, want every name once") { Key = entry.Name };
            }
            entries.Add(entry);
            offset += entry.Length;
        }
    }

    /// <inheritdoc/>
    public override string Name { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<SafeTensorsEntry> Entries => entries;

    /// <summary>The key that transformers asks for.</summary>
    public override IReadOnlyDictionary<string, string> Metadata { get; } = new Dictionary<string, string> { ["format"] = "pt" };

    /// <summary>Layers of the model.</summary>
    public int Layers => ModelLayers.Count(byName.Keys);

    /// <summary>The type that most of its elements have.</summary>
    public DType Type => TypeOf(entries.Where(IsMerged).GroupBy(e => e.Type).OrderByDescending(g => g.Sum(e => e.Count)).Select(g => g.Key).FirstOrDefault(SafeTensorsType.F32));

    /// <inheritdoc/>
    public override bool TryGet(string name, out SafeTensorsEntry? entry) => byName.TryGetValue(name, out entry);

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(string name, long start, int count)
    {
        ObjectDisposedException.ThrowIf(closed, this);
        SafeTensorsEntry entry = this[name];
        if (entry.Length > Array.MaxLength)
        {
            throw new ModelFormatException($"{Name}: tensor {ModelFormatException.Quote(name)} is {entry}, want at most {Array.MaxLength} bytes of a merged one") { Key = name };
        }
        if (last.Name != name)
        {
            last = (null, []);      // let go before the next is made
            last = (name, compute(entry));
        }
        return last.Bytes.AsSpan(checked((int)start), count);
    }

    /// <summary>Writes the model into a folder that exists, in shards where it is large: whole or not at all, tensor by tensor.</summary>
    /// <exception cref="IOException">It cannot be written; what was there is unchanged.</exception>
    /// <exception cref="OperationCanceledException">The merge was cancelled; what was there is unchanged.</exception>
    public void Save(string folder, long shardBytes = SafeTensorsIndex.DefaultShardBytes) =>
        SafeTensorsIndex.Save(folder, Entries.Select(e => TensorData.Of(this, e.Name)), Metadata, shardBytes);

    /// <summary>Values as a file holds them, rounded once to nearest even.</summary>
    internal static byte[] Rounded(ReadOnlySpan<double> values, SafeTensorsType type)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        return scope.Of([values.Length], values, TypeOf(type)).ToBytes();
    }

    /// <summary>These, which dispose of <paramref name="part"/> too.</summary>
    internal MergedTensors Owning(IDisposable part)
    {
        owned = [.. owned, part];
        return this;
    }

    /// <summary>Refuses models that have other tensors.</summary>
    /// <exception cref="ModelFormatException">They do: names what each has that the other has not.</exception>
    internal static void RequireSame(string one, IReadOnlySet<string> first, string other, IReadOnlySet<string> second)
    {
        static string Some(IEnumerable<string> names) => string.Join(", ", names.Order(StringComparer.Ordinal).Take(3));
        string[] only = [.. first.Except(second)], more = [.. second.Except(first)];
        if (only.Length + more.Length > 0)
        {
            throw new ModelFormatException($"merge: {other} lacks {only.Length} tensors of {one} ({Some(only)}) and has {more.Length} that it has not ({Some(more)}), want models of the same tensors") { Key = only.Concat(more).First() };
        }
    }

    /// <summary>True for the types that a merge computes with.</summary>
    internal static bool IsMerged(SafeTensorsEntry entry) => entry.Type is SafeTensorsType.F64 or SafeTensorsType.F32 or SafeTensorsType.F16 or SafeTensorsType.BF16;

    /// <summary>A tensor in float64.</summary>
    /// <exception cref="ModelFormatException">It has NaN or infinity: names model and tensor.</exception>
    internal static double[] Read(TensorSource source, string name)
    {
        double[] values = source.ReadDouble(name);
        int at = Array.FindIndex(values, v => !double.IsFinite(v));
        return at < 0 ? values : throw new ModelFormatException($"{source.Name}: tensor {ModelFormatException.Quote(name)} has {values[at]} at [{at}], want finite values to merge") { File = source.Name, Key = name };
    }

    /// <summary>Reads the tensors, by source and name, again where a merge saw a sum that is not finite.</summary>
    /// <exception cref="ModelFormatException">As for <see cref="Read"/>.</exception>
    internal static void RequireFinite(MergeFigures figures, params IReadOnlyList<(TensorSource Source, string Name)> tensors)
    {
        foreach ((TensorSource source, string name) in figures.IsFinite ? [] : tensors)
        {
            _ = Read(source, name);
        }
    }

    internal static DType TypeOf(SafeTensorsType type) => type.TryToDType(out DType known) ? known : throw new ShapeException($"MergedTensors: the type is {type.Name()}, want F64, F32, F16 or BF16");

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (!closed)
        {
            closed = true;
            last = (null, []);
            foreach (IDisposable part in owned)
            {
                part.Dispose();
            }
        }
    }
}
