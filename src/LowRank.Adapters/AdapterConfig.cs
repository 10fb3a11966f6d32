using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>What a user chooses for an adapter. Names on disk are PEFT's; the formulas stand with each method.</summary>
public abstract record AdapterConfig([property: JsonPropertyName("peft_type")] string Method)
{
    private protected static readonly IReadOnlyDictionary<string, double> NoPattern = new Dictionary<string, double>();

    /// <summary>Layers to adapt: names (exact, or a suffix after a dot), a regular expression that the whole path must match, or <c>all-linear</c>.</summary>
    [JsonPropertyName("target_modules")]
    public Names? Targets { get; init; }

    /// <summary>Layers to leave out, by the same rules; this wins over <see cref="Targets"/>.</summary>
    [JsonPropertyName("exclude_modules")]
    public Names? Exclude { get; init; }

    /// <summary>Numbers of the blocks to adapt; null: all. Applies to suffix matches only.</summary>
    [JsonPropertyName("layers_to_transform")]
    public Layers? LayersToTransform { get; init; }

    /// <summary>Name of the list of blocks whose number counts; null: any.</summary>
    [JsonPropertyName("layers_pattern")]
    public Names? LayersPattern { get; init; }

    /// <summary>Modules trained as a whole and saved with the adapter, for example the head. They are never adapted.</summary>
    [JsonPropertyName("modules_to_save")]
    public IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>Name or folder of the base model.</summary>
    [JsonPropertyName("base_model_name_or_path")]
    public string? BaseModel { get; init; }

    /// <summary>Revision of the base model.</summary>
    [JsonPropertyName("revision")]
    public string? Revision { get; init; }

    /// <summary>PEFT's task type, for example SEQ_CLS; null where the model is used as it is.</summary>
    [JsonPropertyName("task_type")]
    public string? TaskType { get; init; }

    /// <summary>Always true in saved files.</summary>
    [JsonPropertyName("inference_mode")]
    public bool InferenceMode { get; init; } = true;

    /// <summary>Class of the base model and its library; PEFT asks for it where there is no task type.</summary>
    [JsonPropertyName("auto_mapping")]
    public JsonElement? AutoMapping { get; init; }

    /// <summary>The PEFT version whose format this is.</summary>
    [JsonPropertyName("peft_version")]
    public string? PeftVersion { get; init; } = "0.21.2";

    /// <summary>Keys of a foreign adapter_config.json that no property claims: kept and written back.</summary>
    [JsonExtensionData]
    public Dictionary<string, JsonElement>? Other { get; set; }

    /// <summary>The adapter of one layer; its tensors live in <paramref name="store"/>.</summary>
    public abstract Adapter Create(Site site, Rng rng, Scope store);

    /// <summary>Trainable elements for a layer.</summary>
    public abstract long ParameterCount(Site site);

    /// <summary>Throws where settings contradict each other or ask for what is not built.</summary>
    /// <exception cref="AdapterConfigException">Names the setting and what is wanted.</exception>
    public virtual void Validate()
    {
        if (Targets is { IsPattern: true } && LayersToTransform is not null)
        {
            throw Bad("layers_to_transform", "given beside a target_modules pattern", "a list of names in target_modules, or the numbers inside the pattern");
        }
        if (LayersPattern is not null && LayersToTransform is null)
        {
            throw Bad("layers_pattern", "given alone", "layers_to_transform beside it");
        }
    }

    /// <summary>The adapters of a model's layers, each made when it is asked for. Override where they share something, or where a layer brings others along.</summary>
    internal virtual IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store)
    {
        List<Adapter> made = [];
        foreach (Site site in sites)
        {
            Adapter? tied = TiesWeights ? made.Find(a => a.Site.Weight == site.Weight) : null;
            made.Add(tied?.Tie(site) ?? Create(site, rng.Fork(site.Path), store));
            yield return made[^1];
        }
    }

    /// <summary>True for the kinds of layers that the method is made for. A norm is passed over by every other method; any other layer is refused.</summary>
    internal virtual bool Adapts(SiteKind kind) => kind != SiteKind.Norm;

    /// <summary>Keys of this class that PEFT does not have for the method: written only where they are set.</summary>
    internal virtual IReadOnlyList<string> OwnKeys => [];

    /// <summary>Keys that PEFT writes for this method and no property holds, with their defaults.</summary>
    internal virtual IEnumerable<KeyValuePair<string, JsonElement>> FixedKeys => [];

    /// <summary>Which biases of the model are trained: none, all or lora_only.</summary>
    internal virtual string BiasRule => "none";

    /// <summary>True where layers that share one weight are adapted or trained as one.</summary>
    internal virtual bool TiesWeights => false;

    /// <summary>Bare parameters to adapt, by the rules of names in <see cref="Targets"/>.</summary>
    internal virtual IReadOnlyList<string> ParameterTargets => [];

    /// <summary>Numbers of the layers in the order in which the model runs them; null: as they are.</summary>
    internal virtual IReadOnlyList<int>? LayerOrder => null;

    /// <summary>Why adapters of these settings cannot be on a model beside those of others; null where they can.</summary>
    internal virtual string? WhyNotBeside(AdapterConfig other) => null;

    /// <summary>True where the start reads what reaches the layers; then <see cref="Model.Attach(AdapterConfig, Calibration, ulong)"/> wants data.</summary>
    internal virtual bool NeedsCalibration => false;

    /// <summary>The start that the data leads to, for a config that needs it.</summary>
    internal virtual CalibratedStart Calibrate(Device device, IReadOnlyList<Site> sites, Calibration data) => new(this, []);

    /// <summary>The settings that go with what <see cref="Adapter.Saved"/> writes when it is asked for the plain form.</summary>
    /// <exception cref="AdapterConfigException">There is no such form.</exception>
    internal virtual AdapterConfig Plain() => this;

    /// <summary>Throws unless a rank is a whole number of at least 1.</summary>
    private protected void RequireRank(string key, double rank)
    {
        if (rank < 1 || rank != Math.Floor(rank) || rank > int.MaxValue)
        {
            throw Bad(key, rank, "a whole number of at least 1");
        }
    }

    /// <summary>Throws unless a share to drop leaves something.</summary>
    private protected void RequireShare(string key, double share)
    {
        if (!(share >= 0 && share < 1))
        {
            throw Bad(key, share, "0 or more and less than 1");
        }
    }

    /// <summary>Throws unless a number and those of its patterns are finite.</summary>
    private protected void RequireFinite(string key, double value, string patternKey, IReadOnlyDictionary<string, double> patterns)
    {
        foreach ((string pattern, double number) in patterns.Prepend(new("", value)))
        {
            if (!double.IsFinite(number))
            {
                throw Bad(pattern.Length == 0 ? key : $"{patternKey} {pattern}", number, "a finite number");
            }
        }
    }

    private protected void RequireNoBias(string bias)
    {
        if (bias != "none")
        {
            throw Bad("bias", bias, "none (PEFT leaves such biases out of the file)");
        }
    }

    /// <summary>The error for a setting.</summary>
    private protected AdapterConfigException Bad(string key, object? got, string want) => new($"{GetType().Name}: {key} is {got ?? "null"}, want {want}");
}
