using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>One input of a slice.</summary>
/// <param name="Model">Its name: a folder, or folder+adapter folder.</param>
public sealed record MergeInput(string Model)
{
    /// <summary>Layers [From, To) that it gives; null: all.</summary>
    public (int From, int To)? Layers { get; init; }

    /// <summary>Its own numbers.</summary>
    public IReadOnlyDictionary<string, MergeSetting> Settings { get; init; } = new Dictionary<string, MergeSetting>();
}

/// <summary>Layers that come out one after the other, each merged of one layer of every input.</summary>
/// <param name="Inputs">Of as many layers each.</param>
public sealed record MergeSlice(params IReadOnlyList<MergeInput> Inputs)
{
    /// <summary>Numbers of the slice.</summary>
    public IReadOnlyDictionary<string, MergeSetting> Settings { get; init; } = new Dictionary<string, MergeSetting>();

    /// <summary>The base model here, where it is not the recipe's.</summary>
    public string? Base { get; init; }
}

/// <summary>A model of several, by mergekit's rules: a number is looked up at the input, then at the slice, then here; embeddings come from the first slice,
/// what stands behind the layers from the last.</summary>
/// <param name="Method">How.</param>
/// <param name="Slices">One where whole models are merged.</param>
public sealed record MergeRecipe(MergeMethod Method, params IReadOnlyList<MergeSlice> Slices)
{
    /// <summary>The model that differences are taken to.</summary>
    public string? Base { get; init; }

    /// <summary>Numbers of the whole merge.</summary>
    public IReadOnlyDictionary<string, MergeSetting> Settings { get; init; } = new Dictionary<string, MergeSetting>();

    /// <summary>Type of the result; null: that of the first input. Sums are float64 whatever it is.</summary>
    public DType? Type { get; init; }

    /// <summary>Of the entries that are dropped at random.</summary>
    public ulong Seed { get; init; }

    /// <summary>Every model that is read, each once.</summary>
    public IEnumerable<string> Models => Slices.SelectMany(s => s.Inputs.Select(i => i.Model).Append(s.Base)).Append(Base).OfType<string>().Distinct();

    /// <summary>The merge as tensors that are computed when they are read. Checks names, layers and numbers; no data is read.</summary>
    /// <param name="open">Opens a model by its name; each is closed with the result.</param>
    /// <param name="options">Progress, report and masks.</param>
    /// <exception cref="AdapterConfigException">Slices or numbers do not fit together: names what.</exception>
    /// <exception cref="ModelFormatException">The models have other tensors: names model and tensor.</exception>
    public MergedTensors Open(Func<string, TensorSource> open, MergeOptions? options = null)
    {
        var sources = new Dictionary<string, TensorSource>(StringComparer.Ordinal);
        try
        {
            foreach (string model in Models)
            {
                sources.Add(model, open(model));
            }
            return new RecipeMerge(this, sources, options ?? new MergeOptions()).Tensors();
        }
        catch
        {
            foreach (TensorSource source in sources.Values)
            {
                source.Dispose();
            }
            throw;
        }
    }

    /// <summary>The weights of a folder, of a file, or of a folder and adapters that are merged into it, joined by a plus sign.</summary>
    /// <exception cref="ModelFormatException">A file is damaged, or an adapter is more than plain LoRA.</exception>
    /// <exception cref="IOException">A file is missing or cannot be read.</exception>
    public static TensorSource OpenModel(string name)
    {
        string[] parts = Directory.Exists(name) || File.Exists(name) ? [name] : name.Split('+');
        TensorSource source = TensorSource.Open(parts[0]);
        foreach (string adapter in parts.Skip(1))
        {
            source = AdaptedTensors.Over(source, adapter);
        }
        return source;
    }
}

/// <summary>What a merge tells and takes beside its inputs.</summary>
public sealed record MergeOptions
{
    /// <summary>Told after each tensor.</summary>
    public IProgress<MergeProgress>? Progress { get; init; }

    /// <summary>Fills with one row a tensor as they are made; null: nothing is measured.</summary>
    public ICollection<TensorInterference>? Report { get; init; }

    /// <summary>What random methods keep, in place of draws: U8 tensors <c>mask.{last name of the model's path}.{tensor}</c>, 1 kept.</summary>
    public TensorSource? Masks { get; init; }

    /// <summary>Ends the merge before the next tensor.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>How far a merge is.</summary>
/// <param name="Tensor">The one made last.</param>
/// <param name="Done">Tensors made.</param>
/// <param name="Total">Tensors in all.</param>
public readonly record struct MergeProgress(string Tensor, int Done, int Total);
