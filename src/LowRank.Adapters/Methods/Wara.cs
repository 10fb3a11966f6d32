using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>WaRA (arXiv 2506.24092, as its sheet reconstructs it): W_eff = W + s·H_outᵀ·C·H_in with H an orthonormal periodic wavelet transform of J levels
/// and s = Alpha/Rank. Shared: C = I ⊗ B·A over 2^J bands of both axes, A [r, in/2^J], B [out/2^J, r]. Subband: C is the pyramid of the two-dimensional
/// transform, each of its 3J+1 bands b with a pair of its own, A_b [r_b, in/2^j], B_b [out/2^j, r_b] on level j.</summary>
public sealed record WaraConfig() : AdapterConfig("WARA")
{
    private const string SharedMode = "shared", SubbandMode = "subband";

    /// <summary>r of every pair that <see cref="Ranks"/> does not name.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 16;

    /// <summary>Numerator of the scale s, which all bands share.</summary>
    [JsonPropertyName("alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 16;

    /// <summary>shared or subband.</summary>
    [JsonPropertyName("mode")]
    public string Mode { get; init; } = SharedMode;

    /// <summary>An orthonormal wavelet: haar, db2 to db20, sym2 to sym20, coif1 to coif5; null: db2 where shared, since there haar is s·(B·A) ⊗ I₂, else haar.</summary>
    [JsonPropertyName("wavelet")]
    public string? Wavelet { get; init; }

    /// <summary>J.</summary>
    [JsonPropertyName("levels")]
    public int Levels { get; init; } = 1;

    /// <summary>a_i = Σ_k h_k·x[(2i+k-shift) mod n]; PyWavelets' periodization has L/2-1.</summary>
    [JsonPropertyName("phase_shift")]
    public int PhaseShift { get; init; }

    /// <summary>Other ranks by band, of mode subband: LH1 is low along the output and high along the input axis on level 1, the finest.</summary>
    [JsonPropertyName("ranks"), JsonConverter(typeof(NumberMapConverter))]
    public IReadOnlyDictionary<string, double> Ranks { get; init; } = NoPattern;

    /// <summary>Sizes that 2^J does not divide are those of the next multiple with what is past the end cut off; false: they are refused.</summary>
    [JsonPropertyName("pad")]
    public bool Pad { get; init; }

    /// <summary>Share of the adapter's input that is dropped in training.</summary>
    [JsonPropertyName("wara_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>True for mode shared.</summary>
    internal bool IsShared => Mode == SharedMode;

    /// <summary>The filters.</summary>
    internal Wavelet Filters => LowRank.Wavelet.Of(Wavelet ?? (IsShared ? "db2" : "haar"));

    /// <summary>Bands of mode subband by name and level, the deepest first; first letter the output axis.</summary>
    internal IEnumerable<(string Name, int Level)> Bands
    {
        get
        {
            yield return ($"LL{Levels}", Levels);
            for (int level = Levels; level >= 1; level--)
            {
                foreach (string band in (string[])["LH", "HL", "HH"])
                {
                    yield return ($"{band}{level}", level);
                }
            }
        }
    }

    /// <summary>r' of plain LoRA: rows of all factors as they lie in the layer's own axes.</summary>
    internal int PlainRank => IsShared ? Rank << Levels : Bands.Sum(b => RankOf(b.Name));

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Wara(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => IsShared
        ? (long)Rank * (Coefficients(site.Outputs, Levels) + Coefficients(site.Inputs, Levels))
        : Bands.Sum(b => (long)RankOf(b.Name) * (Coefficients(site.Outputs, b.Level) + Coefficients(site.Inputs, b.Level)));

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        RequireShare("wara_dropout", Dropout);
        RequireFinite("alpha", Alpha, "alpha", NoPattern);
        if (Mode is not (SharedMode or SubbandMode))
        {
            throw Bad("mode", Mode, $"{SharedMode} or {SubbandMode}");
        }
        if (Levels is < 1 or > 16)
        {
            throw Bad("levels", Levels, "1 .. 16");
        }
        if (Wavelet is not null && (!LowRank.Wavelet.Names.Contains(Wavelet) || !Filters.IsOrthonormal))
        {
            throw Bad("wavelet", Wavelet, $"an orthonormal one: {string.Join(", ", LowRank.Wavelet.Names.Where(name => LowRank.Wavelet.Of(name).IsOrthonormal))}");
        }
        if (PhaseShift is < -4096 or > 4096)
        {
            throw Bad("phase_shift", PhaseShift, "-4096 .. 4096");
        }
        string[] bands = IsShared ? [] : [.. Bands.Select(b => b.Name)];
        foreach ((string band, double rank) in Ranks)
        {
            RequireRank($"ranks {band}", rank);
            if (!bands.Contains(band))
            {
                throw Bad("ranks", $"of a band {band}", IsShared ? $"none in mode {SharedMode}" : $"bands of {string.Join(", ", bands)}");
            }
        }
    }

    /// <summary>r of a band.</summary>
    internal int RankOf(string band) => (int)Ranks.GetValueOrDefault(band, Rank);

    /// <summary>Coefficients of an axis on a level.</summary>
    internal int Coefficients(int size, int level) => Padded(size) >> level;

    /// <summary>Throws unless the layer can be taken apart so often and every pair is smaller than its band.</summary>
    /// <exception cref="AdapterConfigException">Names the layer, the axis and what is wanted.</exception>
    internal void Require(Site site)
    {
        foreach ((string axis, int size) in (ReadOnlySpan<(string, int)>)[("out", site.Outputs), ("in", site.Inputs)])
        {
            if (size % (1 << Levels) != 0 && !Pad)
            {
                throw Bad("levels", $"{Levels} on {site.Path} with {axis} = {size}", $"{axis} a multiple of {1 << Levels}, or pad true");
            }
            if (Coefficients(size, Levels - 1) < Filters.Length)
            {
                throw Bad("wavelet", $"{Filters} of {Filters.Length} taps on {site.Path} with {axis} = {size}", $"at least {(long)Filters.Length << (Levels - 1)} for levels {Levels}");
            }
        }
        foreach ((string band, int level) in IsShared ? [("", Levels)] : Bands)
        {
            int rank = IsShared ? Rank : RankOf(band), most = Math.Min(Coefficients(site.Outputs, level), Coefficients(site.Inputs, level));
            if (rank > most)
            {
                throw Bad("r", $"{rank}{(band.Length > 0 ? $" of {band}" : "")} on {site.Path}", $"at most {most}, the smaller side of its band");
            }
        }
    }

    /// <summary>LoRA of rank r' on the layer's own axes, with the same scale.</summary>
    internal override AdapterConfig Plain() => new LoraConfig
    {
        Rank = PlainRank,
        Alpha = Alpha / Rank * PlainRank,
        Dropout = Dropout,
        Targets = Targets,
        Exclude = Exclude,
        LayersToTransform = LayersToTransform,
        LayersPattern = LayersPattern,
        ModulesToSave = ModulesToSave,
        BaseModel = BaseModel,
        Revision = Revision,
        TaskType = TaskType,
    };

    private int Padded(int size) => ((size - 1) | ((1 << Levels) - 1)) + 1;
}

/// <summary>The pairs of a layer. Their lines lifted level by level to the layer's own axes are factors of ordinary LoRA, A' [r', in] and B' [out, r'], which
/// costs r'·(in + out)·L operations a step: so the layer is <see cref="LoraLinear"/> on them, x is read once and no weight-sized matrix is made.</summary>
internal sealed class Wara : Adapter
{
    private readonly double trained;        // s as the settings say
    private readonly InputDropout dropout;
    private readonly Stage[] stages;        // the deepest level first

    public Wara(WaraConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        config.Require(site);
        trained = Scale = config.Alpha / config.Rank;
        dropout = DropInputs(config.Dropout, rng);
        stages = new Stage[config.Levels];
        Pair[] shared = config.IsShared ? [New("w", config.Rank, config.Levels)] : [];
        for (int level = config.Levels; level >= 1; level--)
        {
            (string Name, Pair Pair)[] own = [.. config.IsShared ? [] : config.Bands.Where(b => b.Level == level).Select(b => (b.Name, New(b.Name, config.RankOf(b.Name), level)))];
            // Of two lines that reach a level from below the first is low there; shared pairs come twice.
            string[] kinds = config.IsShared ? ["LL", "HH"] : level == config.Levels ? [.. own.Select(b => b.Name[..2])] : ["LL", .. own.Select(b => b.Name[..2])];
            stages[config.Levels - level] = new(
                config.IsShared && level == config.Levels ? shared : [.. own.Select(b => b.Pair)],
                Lift(config, site.Inputs, level, kinds, 1, down: false),
                Lift(config, site.Outputs, level, kinds, 0, down: true));
        }

        Pair New(string suffix, int rank, int level) => new(
            Declare($"wara_A_{suffix}", Init.KaimingUniform(Math.Sqrt(5)).Make(store, rng.Fork($"A_{suffix}"), [rank, config.Coefficients(site.Inputs, level)], Precision)),
            Declare($"wara_B_{suffix}", Init.Zeros.Make(store, rng, [config.Coefficients(site.Outputs, level), rank], Precision)));
    }

    /// <summary>s as it is applied.</summary>
    private double Scale { get; set; }

    public override Tensor EffectiveWeight()
    {
        (Tensor a, Tensor b) = Lifted();
        return new AddMatMul(Scale).Apply(Site.WeightMatrix(), b, a);
    }

    public override Tensor Forward(Tensor x)
    {
        (Tensor a, Tensor b) = Lifted();
        return new LoraLinear(Scale).Apply(x, Site.Weight, a, b, Site.Bias?.Value, null, dropout.Apply(x));
    }

    protected override bool TakesStrength(double strength)
    {
        Scale = strength * trained;
        return true;
    }

    /// <summary>In the plain form the factors of LoRA.</summary>
    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope)
    {
        if (!plain)
        {
            return base.Saved(plain, scope);
        }
        (Tensor a, Tensor b) = Lifted();
        return [("lora_A.weight", a), ("lora_B.weight", b)];
    }

    private (Tensor A, Tensor B) Lifted()
    {
        Tensor? a = null, b = null;
        foreach (Stage stage in stages)
        {
            a = stage.Across.Apply(Operands(a, stage, stage.Pairs.Select(p => p.A.Value)));
            b = stage.Along.Apply(Operands(b, stage, stage.Pairs.Select(p => p.B.Value)));
        }
        return (a!, b!);
    }

    // Of a shared pair, and of what was lifted from it, one line is low and the other high.
    private static Tensor[] Operands(Tensor? below, Stage stage, IEnumerable<Tensor> own)
    {
        Tensor[] operands = below is null ? [.. own] : [below, .. own];
        return operands.Length == 1 ? [operands[0], operands[0]] : operands;
    }

    private WaveletLift Lift(WaraConfig config, int size, int level, string[] kinds, int letter, bool down)
    {
        uint high = 0;
        for (int i = 0; i < kinds.Length; i++)
        {
            high |= kinds[i][letter] == 'H' ? 1u << i : 0;
        }
        int samples = level == 1 ? size : config.Coefficients(size, level - 1);
        var lift = new WaveletLift(config.Filters, config.PhaseShift, samples, high, down);
        lift.Keep(Store, config.Coefficients(size, level), Precision);
        return lift;
    }

    private sealed record Pair(Parameter A, Parameter B);

    /// <summary>A level: its own pairs, and the way of lines of the input axis and of the output axis to the next finer one.</summary>
    private sealed record Stage(IReadOnlyList<Pair> Pairs, WaveletLift Across, WaveletLift Along);
}
