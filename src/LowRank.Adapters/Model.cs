namespace LowRank.Adapters;

/// <summary>A network of named parameters and adaptable layers. All parameters are frozen at first.</summary>
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

    /// <summary>Name of the class in transformers, for PEFT's auto_mapping; null where there is none.</summary>
    public virtual string? TransformersClass => null;

    /// <summary>Module path of a weight given its name in the file; the same unless the architecture renames (PEFT keys use module paths).</summary>
    public virtual string ModulePath(string fileName) => fileName;

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
}
