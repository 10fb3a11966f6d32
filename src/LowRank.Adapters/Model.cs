namespace LowRank.Adapters;

/// <summary>A network of named parameters and adaptable layers. All parameters are frozen at first. A model and everything made from it (adapters, tapes,
/// optimisers) belong to the one thread that owns their device at the time; another may take over between two calls. Models on devices of their own are
/// independent. Where many threads ask one model, an <see cref="AdapterServer{TRequest, TResult}"/> stands in front.</summary>
public abstract class Model : IDisposable
{
    private readonly Dictionary<string, Parameter> parameters = new(StringComparer.Ordinal);
    private readonly List<Site> sites = [];

    /// <summary>An empty network; tensors live in <see cref="Store"/> until it is disposed.</summary>
    protected Model(Device device, DType type)
    {
        Device = device;
        DType = type;
        Store = device.NewStore();
    }

    /// <summary>Where it lives.</summary>
    public Device Device { get; }

    /// <summary>Type of the activations.</summary>
    public DType DType { get; }

    /// <summary>Memory of the weights.</summary>
    public Scope Store { get; }

    /// <summary>Every weight by its name in the model file.</summary>
    public IReadOnlyDictionary<string, Parameter> Parameters => parameters;

    /// <summary>Every layer that can be adapted, in the network's order.</summary>
    public IReadOnlyList<Site> Sites => sites;

    /// <summary>Memory that the weights take as they are now, adapters and gradients not counted.</summary>
    public ResidentBytes ResidentBytes
    {
        get
        {
            Tensor[] values = [.. parameters.Values.Select(p => p.Value).Where(v => v.IsAlive)];
            return new(values.Where(v => !v.IsPacked).Sum(v => (long)v.Bytes), values.Where(v => v.IsPacked).Sum(v => (long)v.Bytes));
        }
    }

    /// <summary>Class in transformers for PEFT's auto_mapping, with its module where that is known
    /// (<c>transformers.models.vit.modeling_vit.ViTForImageClassification</c>); null where there is none.</summary>
    public virtual string? TransformersClass => null;

    /// <summary>Module path of a weight given its name in the file; the same unless the architecture renames (PEFT keys use module paths).</summary>
    public virtual string ModulePath(string fileName) => fileName;

    /// <summary>Reads a weight again, row-major and in the type it has here, into a scope, or gives null for one that is in no file; null where the model
    /// came from none. With it a merge keeps no second copy of the weights.</summary>
    public Func<Parameter, Scope, Tensor?>? Original { get; set; }

    /// <summary>Puts adapters on the layers that <paramref name="config"/> names. Random starts depend on <paramref name="seed"/> and the layer's path only.</summary>
    /// <exception cref="AdapterConfigException">The settings contradict each other, ask for what is not built, or name no layer.</exception>
    /// <exception cref="ShapeException">The rank is too large for a layer where the method needs it.</exception>
    public AdaptedModel Attach(AdapterConfig config, ulong seed = 0) => config.NeedsCalibration
        ? throw new AdapterConfigException($"{config.GetType().Name}: these settings start from data, want a {nameof(Calibration)} beside them, or a saved adapter")
        : new(this, config, seed);

    /// <summary>As <see cref="Attach(AdapterConfig, ulong)"/> for methods that start from data (EVA); others pass over it. The settings may come out
    /// changed, ranks for example: see <see cref="AdaptedModel.Config"/>.</summary>
    /// <exception cref="AdapterConfigException">As there; or the data does not reach a layer, or does not settle the start.</exception>
    public AdaptedModel Attach(AdapterConfig config, Calibration data, ulong seed = 0) => new(this, config, seed, data: data);

    /// <summary>Puts a saved adapter on the layers that its settings name.</summary>
    /// <param name="folder">A folder as PEFT writes it.</param>
    /// <param name="name">Name of the adapter; any but <c>default</c> lies in a sub-folder.</param>
    /// <exception cref="LowRank.Formats.ModelFormatException">A file is damaged, asks for what is not built, or was made for another base model.</exception>
    /// <exception cref="AdapterConfigException">The settings name no layer of this model.</exception>
    /// <exception cref="IOException">A file is missing or cannot be read.</exception>
    public AdaptedModel AttachPeft(string folder, string name = PeftFolder.DefaultName) => Read(folder, name, shares: false);

    /// <summary>As <see cref="AttachPeft"/>; with <paramref name="shares"/> beside others, of which none is enabled.</summary>
    internal AdaptedModel Read(string folder, string name, bool shares)
    {
        using PeftFolder saved = PeftFolder.Open(folder, name);
        AdaptedModel adapted = new(this, saved.Config, 0, shares);
        try
        {
            adapted.Load(saved);
            return adapted;
        }
        catch
        {
            adapted.Dispose();
            throw;
        }
    }

    /// <summary>Trains the weights whose module path starts with one of <paramref name="prefixes"/> and no others: the head, for example.</summary>
    /// <returns>The trained parameters.</returns>
    /// <exception cref="AdapterConfigException">A prefix names nothing.</exception>
    public IReadOnlyList<Parameter> TrainHead(params IReadOnlyList<string> prefixes)
    {
        if (prefixes.FirstOrDefault(prefix => !parameters.Values.Any(p => StartsWith(p, prefix))) is { } unknown)
        {
            throw new AdapterConfigException($"TrainHead: {unknown} names no weight; this model has {string.Join(", ", parameters.Keys.TakeLast(6))}");
        }
        return Train(p => prefixes.Any(prefix => StartsWith(p, prefix)));
    }

    /// <summary>Trains every weight.</summary>
    /// <returns>The trained parameters.</returns>
    public IReadOnlyList<Parameter> TrainAll() => Train(_ => true);

    /// <inheritdoc/>
    public void Dispose()
    {
        Store.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Adds a frozen weight under its name in the file.</summary>
    protected Parameter Add(string name, Tensor value)
    {
        var parameter = new Parameter(name, value, frozen: true);
        parameters.Add(name, parameter);
        return parameter;
    }

    /// <summary>Adds an adaptable layer.</summary>
    protected Site Add(Site site)
    {
        sites.Add(site);
        return site;
    }

    /// <summary>Gives a layer that shares its weight a parameter of its own over the same tensor, frozen. Returns what takes it away again.</summary>
    internal Action Untie(Site site)
    {
        Parameter shared = site.Weight;
        site.Weight = Add($"{site.Path}.weight", shared.Value);
        return () =>
        {
            parameters.Remove(site.Weight.Name);
            site.Weight = shared;
        };
    }

    /// <summary>Stacks the layers of these numbers in place of those there are. Returns what exchanges the two, there and back.</summary>
    /// <exception cref="AdapterConfigException">The model's layers are not of a kind that can be stacked anew, or a number is none of theirs.</exception>
    internal Action Stack(IReadOnlyList<int> order)
    {
        if (sites.FirstOrDefault(s => s.Adapter is not null) is { } taken)
        {
            throw new InvalidOperationException($"Attach: layer_replication is given and {taken.Path} has an adapter already; dispose the other AdaptedModel first");
        }
        KeyValuePair<string, Parameter>[] before = [.. parameters];
        Site[] layers = [.. sites];
        Action exchange = Restack(order);
        return () =>
        {
            exchange();
            (KeyValuePair<string, Parameter>[] put, before) = (before, [.. parameters]);
            parameters.Clear();
            foreach ((string name, Parameter parameter) in put)
            {
                parameters.Add(name, parameter);
            }
            (Site[] putSites, layers) = (layers, [.. sites]);
            sites.Clear();
            sites.AddRange(putSites);
        };
    }

    /// <summary>As <see cref="Stack"/>: drops parameters and layers with <see cref="Drop"/> and adds those that take their place. Returns what exchanges the rest.</summary>
    protected virtual Action Restack(IReadOnlyList<int> order) =>
        throw new AdapterConfigException($"{GetType().Name}: layer_replication is given, want none: the layers of this model cannot be stacked anew");

    /// <summary>Takes parameters and layers off the lists whose names begin so.</summary>
    protected void Drop(string fileName, string path)
    {
        foreach (string name in parameters.Keys.Where(n => n.StartsWith(fileName, StringComparison.Ordinal)).ToArray())
        {
            parameters.Remove(name);
        }
        sites.RemoveAll(s => s.Path.StartsWith(path, StringComparison.Ordinal));
    }

    private bool StartsWith(Parameter parameter, string prefix) =>
        ModulePath(parameter.Name) is var path && (path == prefix || path.StartsWith(prefix + ".", StringComparison.Ordinal));

    private Parameter[] Train(Func<Parameter, bool> chosen)
    {
        foreach (Parameter parameter in parameters.Values)
        {
            bool train = chosen(parameter);
            if (train && (parameter.Value.IsPacked || parameter.Value.DType != parameter.Value.DType.ForParameters()))
            {
                parameter.Replace(AdaptedModel.Trainable(parameter.Value, Store));
            }
            parameter.Frozen = !train;
        }
        return [.. parameters.Values.Where(p => !p.Frozen)];
    }
}
