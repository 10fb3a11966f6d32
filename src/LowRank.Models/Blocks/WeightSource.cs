using LowRank.Formats;

namespace LowRank.Models.Blocks;

/// <summary>Where a model's weights come from while it is built: a file, or random numbers.</summary>
internal abstract class WeightSource
{
    /// <summary>True where a weight of that name can be had.</summary>
    public abstract bool Has(string name);

    /// <summary>The weight in <paramref name="type"/> and <paramref name="shape"/>, made in <paramref name="scope"/>.</summary>
    /// <exception cref="ModelFormatException">A file lacks it or has another shape.</exception>
    public abstract Tensor Take(string name, Shape shape, DType type, Init init, Scope scope);

    /// <summary>As <see cref="Take"/>, a matrix packed for the device's products.</summary>
    /// <exception cref="ModelFormatException">As there.</exception>
    public abstract Tensor Pack(string name, Shape shape, DType type, Init init, Scope scope);

    /// <summary>Checks that nothing was left over.</summary>
    /// <exception cref="ModelFormatException">A file holds tensors that the model does not have.</exception>
    public abstract void Finish();
}

/// <summary>Weights drawn by name: the same seed gives each weight the same values whatever else the model has.</summary>
internal sealed class RandomWeights(Rng rng) : WeightSource
{
    public override bool Has(string name) => true;

    public override Tensor Take(string name, Shape shape, DType type, Init init, Scope scope) => init.Make(scope, rng.Fork(name), shape, type);

    public override Tensor Pack(string name, Shape shape, DType type, Init init, Scope scope)
    {
        using Scope rows = scope.Device.NewStore();
        return Packing.Pack(Take(name, shape, type, init, rows), scope);
    }

    public override void Finish()
    {
    }
}

/// <summary>Weights of a file. Names that are renewed are drawn from <paramref name="random"/> instead: a head for other classes.</summary>
internal sealed class FileWeights(TensorSource file, WeightSource random) : WeightSource
{
    private readonly List<string> unused = [".position_ids", ".masked_bias", ".attn.bias", "rotary_emb.inv_freq"];
    private readonly HashSet<string> taken = new(StringComparer.Ordinal), renewed = new(StringComparer.Ordinal);

    /// <summary>Names that do not come from the file.</summary>
    public IReadOnlySet<string> Renewed => renewed;

    /// <summary>Draws a weight instead of reading it.</summary>
    public void Renew(string name) => renewed.Add(name);

    /// <summary>Lets tensors under these prefixes be left over.</summary>
    public void Ignore(ReadOnlySpan<string> prefixes) => unused.AddRange(prefixes);

    public override bool Has(string name) => file.Contains(FileNames.Find(file, name));

    public override Tensor Take(string name, Shape shape, DType type, Init init, Scope scope) =>
        Found(name, shape) is { } found ? file.Load(found, scope, type) : random.Take(name, shape, type, init, scope);

    public override Tensor Pack(string name, Shape shape, DType type, Init init, Scope scope) =>
        Found(name, shape) is { } found ? Packing.Pack(scope.Device, shape, type, (first, count, to) => file.LoadRows(found, first, count, to, type), scope) : random.Pack(name, shape, type, init, scope);

    /// <summary>The name in the file, checked; null where the weight is drawn.</summary>
    private string? Found(string name, Shape shape)
    {
        if (renewed.Contains(name))
        {
            taken.Add(name);
            return null;
        }
        string found = FileNames.Find(file, name);
        taken.Add(found);
        SafeTensorsEntry entry = file[found];
        return entry.Dimensions.SequenceEqual(shape.Select(d => (long)d)) ? found
            : throw new ModelFormatException($"{file.Name}: tensor '{found}' is {entry}, want {shape} as config.json says") { File = file.Name, Key = found };
    }

    public override void Finish()
    {
        string[] surplus = [.. file.Entries.Select(e => e.Name).Where(n => !taken.Contains(n) && !unused.Exists(b => b.EndsWith('.') ? n.StartsWith(b, StringComparison.Ordinal) : n.EndsWith(b, StringComparison.Ordinal)))];
        if (surplus.Length > 0)
        {
            string few = string.Join(", ", surplus.Take(3).Select(n => $"'{(n.Length > 100 ? n[..100] + "..." : n)}'"));
            throw new ModelFormatException($"{file.Name}: {surplus.Length} tensors belong to no layer that config.json describes, such as {few}") { File = file.Name, Key = surplus[0] };
        }
    }
}
