namespace LowRank.Adapters;

/// <summary>A model with adapters on some of its layers, and what is trained beside them: whole modules and biases. Disposing takes everything off
/// again; the model is then what it was, bit for bit.</summary>
public sealed partial class AdaptedModel : IDisposable
{
    private readonly List<Adapter> adapters = [];
    private readonly List<Swap> swaps = [];      // whole modules, then biases
    private readonly Stack<Action> untied = [];
    private readonly Action? restack;            // between the model's own layers and those of layer_replication
    private readonly Scope store;
    private bool disposed;

    /// <param name="model">What is adapted.</param>
    /// <param name="config">How.</param>
    /// <param name="seed">Of random starts.</param>
    /// <param name="shares">Other adapters may be on the same layers; somebody sees to it that none is enabled now.</param>
    /// <param name="data">For methods that start from data; null where a file follows.</param>
    internal AdaptedModel(Model model, AdapterConfig config, ulong seed, bool shares = false, Calibration? data = null)
    {
        config.Validate();
        (Model, Config) = (model, config);
        store = model.Device.NewStore();
        try
        {
            if (config.LayerOrder is { } order)
            {
                if (shares)
                {
                    throw new AdapterConfigException($"{config.GetType().Name}: layer_replication is given, want none beside other adapters: it stacks the model's layers anew");
                }
                restack = model.Stack(order);
            }
            IReadOnlyList<Site> sites = TargetRules.Select(config, model);
            if (!shares && sites.FirstOrDefault(s => s.Adapter is not null) is { } taken)
            {
                throw Taken(taken);
            }
            UntieWholeModules();
            Dictionary<string, double[]> found = [];
            if (data is not null && config.NeedsCalibration)
            {
                (Config, found) = config.Calibrate(model.Device, sites, data);
                config = Config;
                sites = TargetRules.Select(config, model);
            }
            for (int i = 0; i < sites.Count; i++)
            {
                sites[i].KeyPath = KeyPath(sites[i], sites.Skip(i + 1));
            }
            foreach (Adapter adapter in config.CreateAll(model, sites, new Rng(seed), store))
            {
                if (!shares && adapter.Site.Adapter is not null)
                {
                    throw Taken(adapter.Site);
                }
                adapters.Add(adapter);
                adapter.Site.Put(adapter);
            }
            foreach (Parameter parameter in adapters.SelectMany(a => a.Parameters).Where(p => found.ContainsKey(p.Name)))
            {
                parameter.Value.Set(found[parameter.Name]);
            }
            Train(WholeModules(), SwapKind.Module);
            Train(Biases(), SwapKind.Bias);
            Parameters = [.. adapters.SelectMany(a => a.Parameters), .. swaps.Select(s => s.Parameter)];
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private enum SwapKind
    {
        Module,
        Bias,
    }

    /// <summary>The model underneath.</summary>
    public Model Model { get; }

    /// <summary>What was asked for.</summary>
    public AdapterConfig Config { get; private set; }

    /// <summary>The adapters, in the order of the model's layers.</summary>
    public IReadOnlyList<Adapter> Adapters => adapters;

    /// <summary>Everything trained: adapters, whole modules, biases.</summary>
    public IReadOnlyList<Parameter> Parameters { get; } = [];

    /// <summary>Trainable elements.</summary>
    public long ParameterCount => Parameters.Where(p => !p.Frozen).Sum(p => p.Value.Shape.Count);

    /// <summary>False after <see cref="Disable"/>.</summary>
    public bool Enabled { get; private set; } = true;

    /// <summary><see cref="Adapter.Strength"/> of every adapter; reading gives the first one's.</summary>
    /// <exception cref="AdapterConfigException">It is not finite.</exception>
    /// <exception cref="InvalidOperationException">The adapters are merged.</exception>
    public double Strength
    {
        get => adapters[0].Strength;
        set => adapters.ForEach(a => a.Strength = value);
    }

    /// <summary>Steps taken; what is drawn at random in a step depends on it. Set it when a run is resumed.</summary>
    public long Steps
    {
        get;
        set
        {
            field = value;
            Version++;
            foreach (Adapter adapter in adapters)
            {
                adapter.StartStep(value);
            }
        }
    }

    /// <summary>Rises whenever values may have changed: by a step, or a file.</summary>
    internal long Version { get; private set; }

    /// <summary>True where a method changed the weights of a layer at its start.</summary>
    internal bool ChangesBase => adapters.Exists(a => a.ChangesBase);

    /// <summary>Weights of the model that are trained as a whole.</summary>
    internal IEnumerable<Parameter> Whole => swaps.Select(s => s.Parameter);

    /// <summary>True where the layer has an adapter of this set, or a weight or bias trained as a whole.</summary>
    internal bool Touches(Site site) => adapters.Exists(a => a.Site == site) || swaps.Exists(s => s.IsOf(site));

    /// <summary>True where a weight or bias of the layer is trained as a whole.</summary>
    internal bool TrainsWhole(Site site) => swaps.Exists(s => s.IsOf(site));

    /// <summary>All that this set does to a linear layer, where that is ΔW = s·B·A of a rank that a packed set takes; else null.</summary>
    internal AdapterFactors? Packable(Site site) => site.Kind == SiteKind.Linear && !swaps.Exists(s => s.IsOf(site))
        && adapters.Find(a => a.Site == site)?.Factors is { } factors && factors.A.Shape[0] <= AdapterTable.MostRank ? factors : null;

    /// <summary>The layer's output with this set alone; it must be disabled, and no other enabled.</summary>
    internal Tensor Alone(Site site, Tensor x)
    {
        List<Swap> own = swaps.FindAll(s => s.IsOf(site));
        own.ForEach(s => s.PutTrained());
        try
        {
            return adapters.Find(a => a.Site == site)?.Output(x) ?? site.BaseForward(x);
        }
        finally
        {
            own.ForEach(s => s.PutOriginal(frozen: true));
        }
    }

    /// <summary>Brings the adapters, whole modules and biases back after <see cref="Disable"/>.</summary>
    public void Enable()
    {
        if (!Enabled)
        {
            restack?.Invoke();
            adapters.ForEach(a => a.Enabled = true);
            swaps.ForEach(s => s.PutTrained());
            Enabled = true;
        }
    }

    /// <summary>The model computes as before the attachment until <see cref="Enable"/>. Merged weights are unmerged first.</summary>
    public void Disable()
    {
        if (Enabled)
        {
            RequireBase("Disable");
            Unmerge();
            adapters.ForEach(a => a.Enabled = false);
            swaps.ForEach(s => s.PutOriginal(frozen: true));
            restack?.Invoke();
            Enabled = false;
        }
    }

    /// <summary>Sum of what the adapters add to the loss, or null where none does.</summary>
    public Tensor? Penalty()
    {
        Tensor? sum = null;
        foreach (Adapter adapter in adapters)
        {
            if (adapter.Penalty() is { } term)
            {
                sum = sum is null ? term : new Add().Apply(sum, term);
            }
        }
        return sum;
    }

    /// <summary>One step: BeforeStep of every adapter, the optimiser, AfterStep.</summary>
    /// <exception cref="InvalidOperationException">The adapters are merged or disabled, or there is no gradient.</exception>
    public void Step(Optimizer optimizer, Progress? progress = null)
    {
        if (!Enabled || adapters.Exists(a => a.Merged))
        {
            throw new InvalidOperationException($"AdaptedModel: the adapters are {(Enabled ? "merged" : "disabled")}, want them in place to train; call {(Enabled ? "Unmerge" : "Enable")} first");
        }
        Advance(optimizer, progress);
    }

    /// <summary>A step, whether or not the set is enabled.</summary>
    internal void Advance(Optimizer optimizer, Progress? progress)
    {
        Progress now = progress ?? new Progress(Steps, 0, 0, optimizer.LearningRate);
        adapters.ForEach(a => a.BeforeStep(now));
        optimizer.Step();
        adapters.ForEach(a => a.AfterStep(now));
        Steps++;
    }

    /// <summary>Takes everything off the model.</summary>
    public void Dispose()
    {
        if (disposed)
        {
            return;
        }
        disposed = true;
        try
        {
            Unmerge();
        }
        finally
        {
            adapters.ForEach(a => a.Detach());
            swaps.ForEach(s => s.PutOriginal(s.WasFrozen));
            while (untied.TryPop(out Action? tie))
            {
                tie();
            }
            if (Enabled)
            {
                restack?.Invoke();
            }
            store.Dispose();
        }
    }

    private static InvalidOperationException Taken(Site site) => new($"Attach: {site.Path} has an adapter already; dispose the other AdaptedModel first, or hold both in a NamedAdapters");

    private void Train(IEnumerable<Parameter> parameters, SwapKind kind)
    {
        foreach (Parameter parameter in parameters)
        {
            var swap = new Swap(parameter, kind);
            swaps.Add(swap);
            parameter.Replace(Trainable(parameter.Value, store));
            parameter.Frozen = false;
        }
    }

    /// <summary>A copy that can be trained: row-major, in parameter precision.</summary>
    internal static Tensor Trainable(Tensor value, Scope target)
    {
        using Scope scope = value.Device.BeginScope();
        return (value.IsPacked ? Packing.Unpack(value, scope) : value).ConvertTo(value.DType.ForParameters(), target);
    }

    /// <summary>Of several adapted parameters of a module, PEFT wraps the module once for each, the first one innermost.</summary>
    private static string KeyPath(Site site, IEnumerable<Site> later)
    {
        if (site.Kind != SiteKind.Stack)
        {
            return site.Path;
        }
        string module = Module(site);
        return module + string.Concat(later.Where(s => s.Kind == SiteKind.Stack && Module(s) == module).Select(_ => ".base_layer"));

        static string Module(Site site) => site.Path[..Math.Max(0, site.Path.LastIndexOf('.'))];
    }

    /// <summary>A module that is trained as a whole leaves the layers behind that share its weight, unless the config ties them.</summary>
    private void UntieWholeModules()
    {
        bool IsWhole(Site site) => Config.ModulesToSave?.Any(module => TargetRules.Covers(module, site.Path)) == true;
        foreach (Site site in Config.TiesWeights ? [] : Model.Sites.Where(IsAlias).ToArray())
        {
            if (Model.Sites.Any(s => s.Weight == site.Weight && IsWhole(s)))
            {
                untied.Push(Model.Untie(site));
            }
        }
    }

    /// <summary>True for a layer whose weight bears the name of another one.</summary>
    private bool IsAlias(Site site) => Model.Sites.Any(s => s != site && s.Weight == site.Weight) && Model.ModulePath(site.Weight.Name) != $"{site.Path}.weight";

    private List<Parameter> WholeModules()
    {
        List<Parameter> found = [];
        foreach (string module in Config.ModulesToSave ?? [])
        {
            Parameter[] inside = [.. Model.Parameters.Values.Where(p => TargetRules.Covers(module, Model.ModulePath(p.Name)))
                .Union(Model.Sites.Where(s => TargetRules.Covers(module, s.Path)).Select(s => s.Weight))];
            if (inside.Length == 0 && Config.TaskType is null)     // a task type adds names that the model may lack
            {
                throw new AdapterConfigException($"{Config.GetType().Name}: modules_to_save {module} names no module; this model has {string.Join(", ", Model.Parameters.Keys.Take(6))} ...");
            }
            found.AddRange(inside.Except(found));
        }
        return found;
    }

    private Parameter[] Biases()
    {
        IEnumerable<Parameter> biases = Config.BiasRule switch
        {
            "all" => Model.Parameters.Values.Where(p => p.Name.Contains("bias", StringComparison.Ordinal)),
            "lora_only" => adapters.Select(a => a.Site.Bias).OfType<Parameter>(),
            _ => [],
        };
        return [.. biases.Distinct().Where(p => !swaps.Exists(s => s.Parameter == p))];
    }

    /// <summary>A parameter of the model that is trained as a copy, and the tensor that comes back.</summary>
    private sealed class Swap(Parameter parameter, SwapKind kind)
    {
        private Tensor? trained;

        public Parameter Parameter => parameter;

        public SwapKind Kind => kind;

        public bool WasFrozen { get; } = parameter.Frozen;

        public Tensor Original { get; } = parameter.Value;

        public Tensor Trained => trained ?? parameter.Value;

        public bool IsOf(Site site) => site.Weight == parameter || site.Bias == parameter;

        public void PutOriginal(bool frozen)
        {
            if (!Original.IsAlive)
            {
                return;
            }
            trained ??= parameter.Value;
            parameter.Frozen = true;
            parameter.Replace(Original);
            parameter.Frozen = frozen;
        }

        public void PutTrained()
        {
            parameter.Replace(trained!);
            parameter.Frozen = false;
            trained = null;
        }
    }
}
