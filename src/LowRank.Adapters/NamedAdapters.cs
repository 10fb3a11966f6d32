namespace LowRank.Adapters;

/// <summary>Several adapters on one model, each with a name and trained, saved and scaled on its own: any number of them act at once, or every sample of a
/// batch takes its own. None acts until <see cref="Activate"/>. Which are enabled is this object's business: use it in place of Enable, Disable and Dispose
/// of the members. Like the device underneath it has one owner thread at a time; <see cref="AdapterServer{TRequest, TResult}"/> stands in front of it
/// where many ask.
/// <code>
/// using var adapters = new NamedAdapters(model);
/// adapters.Load("french", "out/french");
/// adapters.Load("legal", "out/legal").Strength = 0.5;
/// adapters.Activate("french", "legal");                              // y = W·x + ΔW₁·x + 0.5·ΔW₂·x
/// using (adapters.Mix("french", null, "legal")) { ... }              // a batch of three samples, the second with the plain model
/// </code></summary>
public sealed class NamedAdapters : IDisposable
{
    /// <summary>PEFT's word for no adapter among the names of a batch; null means the same.</summary>
    public const string None = "__base__";

    private readonly OrderedDictionary<string, AdaptedModel> sets = new(StringComparer.Ordinal);
    private PackedAdapters? packed;

    /// <summary>No adapters yet.</summary>
    /// <exception cref="InvalidOperationException">The model has an adapter already.</exception>
    public NamedAdapters(Model model) => Model = model.Sites.FirstOrDefault(s => s.Adapter is not null) is not { } taken ? model
        : throw new InvalidOperationException($"NamedAdapters: {taken.Path} has an adapter already; dispose it first");

    /// <summary>The model underneath.</summary>
    public Model Model { get; }

    /// <summary>Names in the order they came.</summary>
    public IReadOnlyList<string> Names => [.. sets.Keys];

    /// <summary>Names of those that act now.</summary>
    public IReadOnlyList<string> Active => [.. sets.Where(s => s.Value.Enabled).Select(s => s.Key)];

    /// <summary>True while the weights hold what the active adapters add.</summary>
    public bool Merged => sets.Values.Any(s => s.Merged);

    /// <summary>An adapter by name.</summary>
    /// <exception cref="AdapterConfigException">There is none: lists the names.</exception>
    public AdaptedModel this[string name] => sets.TryGetValue(name, out AdaptedModel? set) ? set
        : throw new AdapterConfigException($"NamedAdapters: the name is {Formats.ModelFormatException.Quote(name)}, want one of {(sets.Count == 0 ? "those loaded, and none is" : string.Join(", ", sets.Keys))}");

    /// <summary>True where the name is taken.</summary>
    public bool Contains(string name) => sets.ContainsKey(name);

    /// <summary>A new adapter, to be trained.</summary>
    /// <exception cref="AdapterConfigException">The name is taken, or as for <see cref="Model.Attach(AdapterConfig, ulong)"/>.</exception>
    public AdaptedModel Add(string name, AdapterConfig config, ulong seed = 0)
    {
        RequireFree(name);
        return Put(name, () => new AdaptedModel(Model, config, seed, shares: true));
    }

    /// <summary>A saved adapter.</summary>
    /// <param name="name">Its name from now on.</param>
    /// <param name="folder">A folder as PEFT writes it.</param>
    /// <exception cref="AdapterConfigException">The name is taken, or as for <see cref="Model.AttachPeft"/>, as all that follows.</exception>
    /// <exception cref="Formats.ModelFormatException">A file is damaged, or belongs to another base model.</exception>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public AdaptedModel Load(string name, string folder)
    {
        RequireFree(name);
        return Put(name, () => Model.Read(folder, PeftFolder.DefaultName, shares: true));
    }

    /// <summary>Puts a saved adapter in the place of another, which goes: active if that was. Where the folder cannot be loaded the old one stays. Layers,
    /// ranks and settings may differ.</summary>
    /// <exception cref="AdapterConfigException">There is no such name, or as for <see cref="Load"/>, as all that follows.</exception>
    /// <exception cref="Formats.ModelFormatException">A file is damaged, or belongs to another base model.</exception>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public AdaptedModel Swap(string name, string folder)
    {
        AdaptedModel old = this[name];
        return Idle(() =>
        {
            AdaptedModel set = Beside(name, Model.Read(folder, PeftFolder.DefaultName, shares: true));
            old.Dispose();
            return sets[name] = set;
        });
    }

    /// <summary>Takes an adapter off the model and forgets it.</summary>
    /// <exception cref="AdapterConfigException">There is no such name.</exception>
    public void Remove(string name)
    {
        AdaptedModel set = this[name];
        Idle(() =>
        {
            sets.Remove(name);
            set.Dispose();
            return set;
        });
    }

    /// <summary>These adapters act from now on and no others; what they add to a layer is summed, each at its <see cref="AdaptedModel.Strength"/>. Merged
    /// weights are unmerged first. Without names the model computes as if it had no adapters.</summary>
    /// <exception cref="AdapterConfigException">A name is unknown or given twice, two bring the same whole module or bias, or one changed the base weights
    /// (PiSSA, OLoRA) and is not alone.</exception>
    public void Activate(params IReadOnlyList<string> names)
    {
        AdaptedModel[] chosen = [.. names.Select(name => this[name])];
        if (names.Distinct(StringComparer.Ordinal).Count() < names.Count)
        {
            throw new AdapterConfigException($"NamedAdapters: {string.Join(", ", names)} has a name twice, want each once");
        }
        if (chosen.Length > 1 && Array.FindIndex(chosen, c => c.ChangesBase) is >= 0 and var changed)
        {
            throw new AdapterConfigException($"NamedAdapters: {names[changed]} changed the base weights at its start, want it alone; save it as plain LoRA and load that to have it beside others");
        }
        if (chosen.SelectMany(c => c.Whole).CountBy(p => p).FirstOrDefault(p => p.Value > 1).Key is { } twice)
        {
            throw new AdapterConfigException($"NamedAdapters: {string.Join(" and ", names)} each bring their own {twice.Name}, want at most one of them active");
        }
        Unmerge();
        foreach (AdaptedModel set in sets.Values)
        {
            set.Disable();
        }
        foreach (AdaptedModel set in chosen)
        {
            set.Enable();
        }
    }

    /// <summary>W ← W + what all active adapters add, rounded once.</summary>
    /// <exception cref="InvalidOperationException">None is active, they are merged already, or as for <see cref="AdaptedModel.Merge"/>.</exception>
    public MergeReport Merge()
    {
        AdaptedModel[] active = [.. sets.Values.Where(s => s.Enabled)];
        if (active.Length == 0 || Merged)
        {
            throw new InvalidOperationException($"Merge: {(Merged ? "the adapters are merged already; call Unmerge" : "no adapter is active, want some: call Activate")} first");
        }
        try
        {
            return new MergeReport([.. active.SelectMany(s => s.MergeActive(alone: false).Layers)]);
        }
        catch
        {
            Unmerge();
            throw;
        }
    }

    /// <summary>The weights as they were before <see cref="Merge"/>, bit for bit.</summary>
    /// <exception cref="InvalidOperationException">The file that the weights came from has changed since.</exception>
    /// <exception cref="IOException">It cannot be read; the weights are merged still.</exception>
    public void Unmerge()
    {
        foreach (AdaptedModel set in sets.Values)
        {
            set.Unmerge();
        }
    }

    /// <summary>Until the result is disposed, sample i of every batch passes through the adapter that <paramref name="names"/> gives it, whatever is active;
    /// null or <see cref="None"/>: through the plain model. Samples lie along the first dimension of every layer's input. LoRA of linear layers goes through
    /// <see cref="MultiLoraLinear"/> in one pass, its factors packed once and again after they changed; what is more than that (DoRA, other layers, whole
    /// modules) sample by sample. On the CPU a sample's bits depend on itself and its adapter alone, never on the batch; samples without an adapter have the
    /// plain model's. On a tape every adapter sees its own samples and has its gradients from them alone; <see cref="Step"/> then moves it. Whole
    /// modules and biases are not trained so.</summary>
    /// <exception cref="AdapterConfigException">A name is unknown, or <see cref="WhyNotMixable"/>.</exception>
    /// <exception cref="InvalidOperationException">The adapters are merged, or a batch of this kind is open.</exception>
    public IDisposable Mix(params IReadOnlyList<string?> names)
    {
        if (Merged || Model.Sites.Any(s => s.Rows is not null))
        {
            throw new InvalidOperationException($"Mix: {(Model.Sites.Any(s => s.Rows is not null) ? "another mixed batch is open, want it disposed" : "the adapters are merged; call Unmerge")} first");
        }
        foreach (string name in names.OfType<string>().Where(n => n != None).Distinct(StringComparer.Ordinal))
        {
            if (WhyNotMixable(name) is { } reason)
            {
                throw new AdapterConfigException($"Mix: {name} {reason}, want it active alone");
            }
        }
        AdaptedModel[] all = [.. sets.Values];
        int[] choice = [.. names.Select(name => name is null or None ? AdapterChoice.None : Array.IndexOf(all, this[name]))];
        if (packed?.IsOf(all) != true)
        {
            packed?.Dispose();
            packed = new PackedAdapters(Model, all);
        }
        return new MixedBatch(packed, all, choice);
    }

    /// <summary>One step of an adapter with its own optimiser, whether or not it is active, so that it can follow a batch of <see cref="Mix"/>: BeforeStep of
    /// every layer's adapter, the optimiser, AfterStep.</summary>
    /// <exception cref="AdapterConfigException">There is no such name.</exception>
    /// <exception cref="InvalidOperationException">The adapters are merged, or there is no gradient.</exception>
    public void Step(string name, Optimizer optimizer, Progress? progress = null)
    {
        AdaptedModel set = this[name];
        if (Merged)
        {
            throw new InvalidOperationException("NamedAdapters: the adapters are merged, want them in place to train; call Unmerge first");
        }
        set.Advance(optimizer, progress);
    }

    /// <summary>Why an adapter cannot be one of several in a batch, or null where it can.</summary>
    /// <exception cref="AdapterConfigException">There is no such name.</exception>
    public string? WhyNotMixable(string name)
    {
        AdaptedModel set = this[name];
        return set.ChangesBase ? "changed the base weights at its start"
            : set.Adapters.Any(a => a.Site.Kind == SiteKind.Stack) ? "adapts bare parameters, which the model multiplies itself"
            : set.Whole.FirstOrDefault(p => !Model.Sites.Any(s => s.Kind != SiteKind.Embedding && (s.Weight == p || s.Bias == p))) is { } other ? $"brings its own {other.Name}, which many samples share"
            : null;
    }

    /// <summary>A new LoRA from others, weighted: by default from what they add to the weights, as <see cref="CombineOptions"/> says.</summary>
    /// <param name="name">Of the result.</param>
    /// <param name="parts">Names and weights; a weight may be negative.</param>
    /// <param name="options">How; null: the exact weighted sum.</param>
    /// <exception cref="AdapterConfigException">A name is taken or unknown, or the parts do not go together: says why.</exception>
    public AdaptedModel Combine(string name, IReadOnlyList<(string Name, double Weight)> parts, CombineOptions? options = null)
    {
        RequireFree(name);
        (AdaptedModel Set, double Weight)[] sources = [.. parts.Select(p => (this[p.Name], p.Weight))];
        return Put(name, () => new WeightedSum(sources, options ?? new()).Build(Model));
    }

    /// <summary>Writes every adapter to a sub-folder of its name; <c>default</c> goes to the folder itself, as PEFT has it.</summary>
    /// <exception cref="IOException">One cannot be written; what was there before is whole.</exception>
    public void Save(string folder)
    {
        foreach ((string name, AdaptedModel set) in sets)
        {
            set.SavePeft(folder, name);
        }
    }

    /// <summary>Takes all adapters off the model, which is then what it was, bit for bit.</summary>
    public void Dispose()
    {
        packed?.Dispose();
        packed = null;
        foreach (AdaptedModel set in sets.Values)
        {
            set.Dispose();
        }
        sets.Clear();
    }

    private void RequireFree(string name)
    {
        if (string.IsNullOrEmpty(name) || name == None || sets.ContainsKey(name))
        {
            throw new AdapterConfigException($"NamedAdapters: the name is {Formats.ModelFormatException.Quote(name)}, want one that is not {(sets.ContainsKey(name) ? "taken" : $"empty or {None}")}");
        }
    }

    private AdaptedModel Put(string name, Func<AdaptedModel> create) => Idle(() => sets[name] = Beside(name, create()));

    /// <summary>A new set, disabled, unless it cannot be on the model together with the others.</summary>
    private AdaptedModel Beside(string name, AdaptedModel set)
    {
        foreach ((string other, AdaptedModel with) in sets.Where(s => s.Key != name))
        {
            if (set.Config.WhyNotBeside(with.Config) is { } why)
            {
                set.Dispose();
                throw new AdapterConfigException($"{set.Config.GetType().Name}: {name} cannot be loaded beside {other}: {why}");
            }
        }
        set.Disable();
        return set;
    }

    /// <summary>Does something while the model is as if it had no adapters, and brings back those that were active; not merged.</summary>
    private AdaptedModel Idle(Func<AdaptedModel> work)
    {
        IReadOnlyList<string> active = Active;
        Activate();
        try
        {
            return work();
        }
        finally
        {
            Activate([.. active.Where(Contains)]);
        }
    }
}
