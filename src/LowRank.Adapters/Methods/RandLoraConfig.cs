using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Whose RandLoRA: they differ in scale, in the numbers drawn, and in which of the two scales starts at zero.</summary>
[JsonConverter(typeof(RandLoraVariantConverter))]
public enum RandLoraVariant
{
    /// <summary>PEFT's: s = alpha/r, lambda 0, dense bases drawn in bfloat16. The only one that PEFT reads.</summary>
    Peft,
    /// <summary>The authors' for language: s = alpha/(r·√n), bases drawn in float32. They take alpha = 2·r and the key 8539.</summary>
    Official,
    /// <summary>The authors' for vision: s = alpha/r, gamma 0 and lambda 1/max(n,r), at most n_basis terms a layer, bases drawn in float32.</summary>
    Vision,
}

/// <summary>RandLoRA (arXiv 2502.00987): a full-rank update as a sum of n random products of rank r, of which two diagonal scales each are trained: lambda [r,n]
/// and gamma [n,d]. With d the smaller and D the larger side of W, q = n·r, S [q,d] = lambda[k,b]·A[k,i]·gamma[b,i] at row k·n + b, and B [D,q] with basis b and
/// rank k in column b·r + k: dW = s·B·S, or (s·B·S)ᵀ where in exceeds out. A smaller r gives more terms and more parameters. The flat index pairs the two
/// factors, so that dW is not the paper's sum but where n or r is 1; files depend on it. A rank above d is allowed and gives one term.</summary>
public sealed record RandLoraConfig() : AdapterConfig("RANDLORA")
{
    /// <summary>r: rank of one product.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 32;

    /// <summary>s = alpha/r; the advice is 20·r.</summary>
    [JsonPropertyName("randlora_alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 640;

    /// <summary>Seed of torch's generator, from which A and then B are drawn.</summary>
    [JsonPropertyName("projection_prng_key")]
    public long Key { get; init; }

    /// <summary>A and B go into the file, so that a reader need not draw them.</summary>
    [JsonPropertyName("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Two thirds of the bases' entries are zero, the others ±c.</summary>
    [JsonPropertyName("sparse")]
    public bool Sparse { get; init; }

    /// <summary>All but 1/√d of the entries are zero, d that of the bases. It wins over <see cref="Sparse"/>.</summary>
    [JsonPropertyName("very_sparse")]
    public bool VerySparse { get; init; }

    /// <summary>Share of the adapter's input that is dropped in training.</summary>
    [JsonPropertyName("randlora_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>The variant's start, where W_eff = W; false: lambda at normal numbers, gamma at 1/max(out, in).</summary>
    [JsonPropertyName("init_weights")]
    public bool InitWeights { get; init; } = true;

    /// <summary>The stored weights are [in, out] (GPT-2). Sites hold them transposed already; kept for the file.</summary>
    [JsonPropertyName("fan_in_fan_out")]
    public bool FanInFanOut { get; init; }

    /// <summary>Only none: PEFT trains biases on request and leaves them out of the file.</summary>
    [JsonPropertyName("bias")]
    public string Bias { get; init; } = "none";

    /// <summary>Whose formula; written only where it is not PEFT's.</summary>
    [JsonPropertyName("variant")]
    public RandLoraVariant Variant { get; init; }

    /// <summary>Most terms of a layer, of the vision variant; null: as many as give full rank.</summary>
    [JsonPropertyName("n_basis")]
    public int? MostTerms { get; init; }

    /// <inheritdoc/>
    internal override IReadOnlyList<string> OwnKeys => ["exclude_modules", "variant", "n_basis"];

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <summary>n of a layer: ⌈min(out,in)/r⌉; of the vision variant min(n_basis, ⌊in/r⌋ + 1, ⌊out/r⌋ + 1).</summary>
    public int Terms(Site site)
    {
        int least = Math.Min(site.Outputs, site.Inputs);
        return Variant == RandLoraVariant.Vision ? Math.Min(MostTerms ?? int.MaxValue, (least / Rank) + 1) : ((least - 1) / Rank) + 1;
    }

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new RandLora(this, site, new RandLoraBases(this, [site], store), rng, store);

    /// <inheritdoc/>
    internal override IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store)
    {
        var bases = new RandLoraBases(this, sites, store);
        return sites.Select(site => new RandLora(this, site, bases, rng.Fork(site.Path), store));
    }

    /// <inheritdoc/>
    internal override string? WhyNotBeside(AdapterConfig other) => other is not RandLoraConfig o ? null
        : o.Key != Key ? $"projection_prng_key is {Key} beside {o.Key}, want one key for all RandLoRA adapters of a model"
        : o.SaveProjection != SaveProjection ? $"save_projection is {SaveProjection} beside {o.SaveProjection}, want one of the two for all RandLoRA adapters of a model"
        : null;

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => (long)Terms(site) * (Rank + Math.Min(site.Outputs, site.Inputs));

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        RequireShare("randlora_dropout", Dropout);
        if (!double.IsFinite(Alpha))
        {
            throw Bad("randlora_alpha", Alpha, "a finite number");
        }
        RequireNoBias(Bias);
        if (MostTerms is { } most && (most < 1 || Variant != RandLoraVariant.Vision))
        {
            throw Bad("n_basis", most, Variant == RandLoraVariant.Vision ? "at least 1" : "null beside another variant than vision");
        }
    }
}

internal sealed class RandLoraVariantConverter : JsonConverter<RandLoraVariant>
{
    public override bool HandleNull => true;

    public override RandLoraVariant Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => reader.TokenType switch
    {
        JsonTokenType.Null => RandLoraVariant.Peft,
        JsonTokenType.String when reader.ValueTextEquals("official") => RandLoraVariant.Official,
        JsonTokenType.String when reader.ValueTextEquals("vision") => RandLoraVariant.Vision,
        _ => throw new JsonException("want official, vision or null"),
    };

    public override void Write(Utf8JsonWriter writer, RandLoraVariant value, JsonSerializerOptions options) =>
        writer.WriteStringValue(value switch { RandLoraVariant.Official => "official", RandLoraVariant.Vision => "vision", _ => null });
}
