using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>How A and B start, as PEFT writes it: true, false or a name.</summary>
[JsonConverter(typeof(LoraInitConverter))]
public sealed record LoraInit
{
    private const string PissaPrefix = "pissa_niter_";

    private LoraInit(string name) => Name = name;

    /// <summary>A uniform ±1/√in, B zero.</summary>
    public static LoraInit Default { get; } = new("true");

    /// <summary>Both as torch starts its layers: W_eff differs from W.</summary>
    public static LoraInit None { get; } = new("false");

    /// <summary>A normal with deviation 1/r, B zero.</summary>
    public static LoraInit Gaussian { get; } = new("gaussian");

    /// <summary>A and B from the rows of one orthogonal r×r matrix, even ones to A, odd ones to B: B·A = 0 though neither is zero; r even.</summary>
    public static LoraInit Orthogonal { get; } = new("orthogonal");

    /// <summary>The r largest singular components of W are trained, the rest is frozen (arXiv 2404.02948).</summary>
    public static LoraInit Pissa { get; } = new("pissa");

    /// <summary>The first r columns and rows of W = Q·R are trained, the rest is frozen (arXiv 2406.01775).</summary>
    public static LoraInit Olora { get; } = new("olora");

    /// <summary>The base is quantised and A and B make up for what is lost (arXiv 2310.08659).</summary>
    public static LoraInit Loftq { get; } = new("loftq");

    /// <summary>A from the activations that reach the layer, B zero (arXiv 2410.07170); to start so takes a <see cref="Calibration"/>.</summary>
    public static LoraInit Eva { get; } = new("eva");

    /// <summary><c>true</c>, <c>false</c> or PEFT's name.</summary>
    public string Name { get; }

    /// <summary>PiSSA by a randomised SVD with <paramref name="iterations"/> power iterations: faster on large layers, close enough to train from.</summary>
    public static LoraInit PissaIterations(int iterations) => new(PissaPrefix + iterations);

    /// <summary>By PEFT's name; what is not built is refused by <see cref="LoraConfig.Validate"/>.</summary>
    public static LoraInit Of(string name) => new(name);

    /// <summary>Power iterations of a randomised PiSSA, or null.</summary>
    internal int? Iterations => Name.StartsWith(PissaPrefix, StringComparison.Ordinal) && int.TryParse(Name.AsSpan(PissaPrefix.Length), out int count) && count >= 0 ? count : null;

    internal bool IsPissa => this == Pissa || Iterations is not null;

    internal bool ChangesBase => IsPissa || this == Olora || this == Loftq;

    internal bool IsBuilt => this == Default || this == None || this == Gaussian || this == Orthogonal || this == Eva || ChangesBase;

    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>LoRA (arXiv 2106.09685) and its relatives by switch: rsLoRA (2312.03732), DoRA (2402.09353), PiSSA and OLoRA as starts.
/// W_eff = W + s·B·A, s = Alpha/Rank, with <see cref="RankStabilized"/> Alpha/√Rank; DoRA scales the rows of W_eff to length m.</summary>
public sealed record LoraConfig() : AdapterConfig("LORA")
{
    private const int MostLayers = 1 << 16, MostEvaFactor = 1 << 10;

    /// <summary>r: rows of A, columns of B.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 8;

    /// <summary>Numerator of the scale s.</summary>
    [JsonPropertyName("lora_alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 8;

    /// <summary>s = Alpha/√Rank in place of Alpha/Rank.</summary>
    [JsonPropertyName("use_rslora")]
    public bool RankStabilized { get; init; }

    /// <summary>Train the length of each row of W_eff apart from its direction.</summary>
    [JsonPropertyName("use_dora")]
    public bool Dora { get; init; }

    /// <summary>Share of the adapter's inputs dropped while a tape records.</summary>
    [JsonPropertyName("lora_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>Biases of the model that are trained too: none, all, or lora_only (those of adapted layers).</summary>
    [JsonPropertyName("bias")]
    public string Bias { get; init; } = "none";

    /// <summary>B has a bias of its own, scaled by s.</summary>
    [JsonPropertyName("lora_bias")]
    public bool LoraBias { get; init; }

    /// <summary>Other ranks for layers whose path ends with an expression; the first that matches counts.</summary>
    [JsonPropertyName("rank_pattern"), JsonConverter(typeof(NumberMapConverter))]
    public IReadOnlyDictionary<string, double> RankPattern { get; init; } = NoPattern;

    /// <summary>Other values of <see cref="Alpha"/>, as <see cref="RankPattern"/>.</summary>
    [JsonPropertyName("alpha_pattern"), JsonConverter(typeof(NumberMapConverter))]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = NoPattern;

    /// <summary>How A and B start.</summary>
    [JsonPropertyName("init_lora_weights")]
    public LoraInit Init { get; init; } = LoraInit.Default;

    /// <summary>The stored weights are [in, out] (GPT-2). Sites hold them transposed already; kept for the file.</summary>
    [JsonPropertyName("fan_in_fan_out")]
    public bool FanInFanOut { get; init; }

    /// <summary>Tokens whose embeddings are trained beside the adapters (<see cref="TrainableTokensConfig"/>).</summary>
    [JsonPropertyName("trainable_token_indices")]
    public TokenIndices? TokenIndices { get; init; }

    /// <summary>How <see cref="LoraInit.Eva"/> spends ranks; null: at its defaults.</summary>
    [JsonPropertyName("eva_config")]
    public EvaOptions? Eva { get; init; }

    /// <summary>How <see cref="LoraInit.Loftq"/> quantises; wanted for that start.</summary>
    [JsonPropertyName("loftq_config")]
    public LoftqOptions? Loftq { get; init; }

    /// <summary>Bare parameters to adapt, by name or by a suffix after a dot: stacks of matrices such as the experts of a mixture, or the weight of a linear layer.</summary>
    [JsonPropertyName("target_parameters")]
    public IReadOnlyList<string>? TargetParameters { get; init; }

    /// <summary>The layers of the model stacked anew before anything is adapted: layers a .. b - 1 of every pair [a, b], in order. A layer that comes up
    /// more than once shares its weights with itself and has an adapter at each place.</summary>
    [JsonPropertyName("layer_replication")]
    public IReadOnlyList<IReadOnlyList<int>>? LayerReplication { get; init; }

    /// <summary>Where the output layer shares the words' weight, adapt or train both as one; else the other one keeps the base weight.</summary>
    [JsonPropertyName("ensure_weight_tying")]
    public bool EnsureWeightTying { get; init; }

    /// <inheritdoc/>
    internal override bool TiesWeights => EnsureWeightTying;

    /// <inheritdoc/>
    internal override IReadOnlyList<string> ParameterTargets => TargetParameters ?? [];

    /// <inheritdoc/>
    internal override IReadOnlyList<int>? LayerOrder => LayerReplication is null ? null : [.. LayerReplication.SelectMany(pair => Enumerable.Range(pair[0], pair[1] - pair[0]))];

    /// <inheritdoc/>
    internal override string BiasRule => Bias;

    /// <inheritdoc/>
    internal override IEnumerable<KeyValuePair<string, JsonElement>> FixedKeys => LoraKeys.Defaults;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Lora(this, site, rng, store);

    /// <inheritdoc/>
    internal override IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store) =>
        base.CreateAll(model, sites, rng, store).Concat(TokenIndices?.Adapters(this, "trainable_token_indices", model, sites, rng, store) ?? []);

    /// <inheritdoc/>
    public override long ParameterCount(Site site)
    {
        int outputs = site.Kind == SiteKind.Embedding ? site.Inputs : site.Outputs;
        return ((long)RankOf(site) * (site.Outputs + site.Inputs)) + (Dora ? outputs : 0) + (LoraBias && site.Kind != SiteKind.Embedding ? outputs : 0);
    }

    /// <inheritdoc/>
    internal override bool NeedsCalibration => Init == LoraInit.Eva;

    /// <inheritdoc/>
    internal override CalibratedStart Calibrate(Device device, IReadOnlyList<Site> sites, Calibration data) => LowRank.Adapters.Eva.Start(this, device, sites, data);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        if (Init == LoraInit.Loftq && Loftq is not { Bits: 4 or 8, Iterations: > 0 })
        {
            throw Bad("loftq_config", Loftq, "loftq_bits 4 or 8 and loftq_iter of at least 1 beside init_lora_weights loftq");
        }
        if (Eva is not null and not { MostRankFactor: >= 1 and <= MostEvaFactor, Similarity: >= 0 and < 1 })
        {
            throw Bad("eva_config", Eva, $"rho from 1 to {MostEvaFactor} and tau from 0 to below 1");
        }
        foreach ((string pattern, double rank) in RankPattern)
        {
            RequireRank($"rank_pattern {pattern}", rank);
        }
        RequireFinite("lora_alpha", Alpha, "alpha_pattern", AlphaPattern);
        RequireShare("lora_dropout", Dropout);
        if (Bias is not ("none" or "all" or "lora_only"))
        {
            throw Bad("bias", Bias, "none, all or lora_only");
        }
        if (!Init.IsBuilt)
        {
            throw Bad("init_lora_weights", Init, $"true, false, gaussian, orthogonal, pissa, pissa_niter_[count], olora, loftq or eva; {LoraKeys.WhyNot(Init.Name)}");
        }
        if (Init == LoraInit.Orthogonal && RankPattern.Values.Append(Rank).Any(rank => rank % 2 != 0))
        {
            throw Bad("r", Rank, "an even rank for init_lora_weights orthogonal");
        }
        if (LayerReplication?.Select(pair => pair ?? []).FirstOrDefault(pair => pair is not [>= 0 and var first, <= MostLayers and var end] || end <= first) is { } wrong)
        {
            throw Bad("layer_replication", $"[{string.Join(", ", wrong)}]", "pairs [first, end] of layers with first below end");
        }
        if (LoraBias && Dora)
        {
            throw Bad("lora_bias", true, "false beside use_dora");
        }
        if (LoraBias && Init != LoraInit.Default && Init != LoraInit.None)
        {
            throw Bad("lora_bias", true, $"false beside init_lora_weights {Init}");
        }
        TokenIndices?.Require(this, "trainable_token_indices");
        LoraKeys.Refuse(this);
    }

    /// <inheritdoc/>
    internal override AdapterConfig Plain()
    {
        if (!Init.ChangesBase || Init == LoraInit.Loftq)       // what LoftQ takes from the base is of full rank
        {
            return this;
        }
        if (RankStabilized && (RankPattern.Count > 0 || AlphaPattern.Count > 0))
        {
            throw Bad("use_rslora", true, $"no rank_pattern or alpha_pattern beside it to write {Init} as plain LoRA (PEFT cannot read it either); keep the init, or merge");
        }
        double factor = RankStabilized ? Math.Sqrt(2) : 2;     // so that s stays what it is at twice the rank
        return this with
        {
            Rank = 2 * Rank,
            Alpha = factor * Alpha,
            RankPattern = RankPattern.ToDictionary(p => p.Key, p => 2 * p.Value),
            AlphaPattern = AlphaPattern.ToDictionary(p => p.Key, p => factor * p.Value),
            Init = LoraInit.Default,
        };
    }

    /// <summary>Rank of a layer after <see cref="RankPattern"/>.</summary>
    public int RankOf(Site site) => (int)TargetRules.FirstMatch(RankPattern, site, Rank);

    /// <summary>Scale s of a layer after the patterns.</summary>
    public double ScaleOf(Site site)
    {
        int rank = RankOf(site);
        return AlphaOf(site) / (RankStabilized ? Math.Sqrt(rank) : rank);
    }

    /// <summary>Alpha of a layer after <see cref="AlphaPattern"/>.</summary>
    internal double AlphaOf(Site site) => TargetRules.FirstMatch(AlphaPattern, site, Alpha);
}

internal sealed class LoraInitConverter : JsonConverter<LoraInit>
{
    public override bool HandleNull => true;

    public override LoraInit Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => reader.TokenType switch
    {
        JsonTokenType.True => LoraInit.Default,
        JsonTokenType.False or JsonTokenType.Null => LoraInit.None,      // PEFT asks only whether it is true
        JsonTokenType.String when reader.GetString() is not ("true" or "false") => LoraInit.Of(reader.GetString()!),
        _ => throw new JsonException("want true, false or the name of an init"),
    };

    public override void Write(Utf8JsonWriter writer, LoraInit value, JsonSerializerOptions options)
    {
        if (value == LoraInit.Default || value == LoraInit.None)
        {
            writer.WriteBooleanValue(value == LoraInit.Default);
            return;
        }
        writer.WriteStringValue(value.Name);
    }
}
