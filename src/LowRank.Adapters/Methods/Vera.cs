using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>VeRA (arXiv 2310.11454): W_eff = W + diag(b)·B·diag(d)·A with A and B frozen, random and common to all layers; b [out] and d [r] are trained.</summary>
public sealed record VeraConfig() : AdapterConfig("VERA")
{
    /// <summary>r: rows of A, columns of B.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 256;

    /// <summary>Seed of torch's generator, from which A and then B are drawn.</summary>
    [JsonPropertyName("projection_prng_key")]
    public long Key { get; init; }

    /// <summary>A and B go into the file, so that a reader need not draw them.</summary>
    [JsonPropertyName("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Share of the adapter's input that is dropped in training.</summary>
    [JsonPropertyName("vera_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>First value of every d.</summary>
    [JsonPropertyName("d_initial"), JsonConverter(typeof(FloatConverter))]
    public double InitialD { get; init; } = 0.1;

    /// <summary>b starts at 0, where W_eff = W; false: b at 1 and d at normal numbers.</summary>
    [JsonPropertyName("init_weights")]
    public bool InitWeights { get; init; } = true;

    /// <summary>The stored weights are [in, out] (GPT-2). Sites hold them transposed already; kept for the file.</summary>
    [JsonPropertyName("fan_in_fan_out")]
    public bool FanInFanOut { get; init; }

    /// <summary>Only none: PEFT trains biases on request and leaves them out of the file.</summary>
    [JsonPropertyName("bias")]
    public string Bias { get; init; } = "none";

    /// <inheritdoc/>
    internal override IReadOnlyList<string> OwnKeys => ["exclude_modules"];

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Vera(this, site, new VeraProjection(this, [site], store), rng, store);

    /// <inheritdoc/>
    internal override IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store)
    {
        var projection = new VeraProjection(this, sites, store);
        return sites.Select(site => new Vera(this, site, projection, rng.Fork(site.Path), store));
    }

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => (long)site.Outputs + Rank;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        RequireShare("vera_dropout", Dropout);
        if (!double.IsFinite(InitialD))
        {
            throw Bad("d_initial", InitialD, "a finite number");
        }
        RequireNoBias(Bias);
    }
}

/// <summary>A [r, most inputs] and B [most outputs, r] of all layers: uniform on ±√(6/columns), A first, from torch's generator. A layer takes the leading
/// columns of A and the leading rows of B.</summary>
internal sealed class VeraProjection
{
    public VeraProjection(VeraConfig config, IReadOnlyList<Site> sites, Scope store)
    {
        var random = new TorchRandom(unchecked((ulong)config.Key));
        DType type = sites[0].Weight.Value.DType.ForParameters();
        A = Draw(random, [config.Rank, sites.Max(s => s.Inputs)], store, type);
        B = Draw(random, [sites.Max(s => s.Outputs), config.Rank], store, type);
        IsSaved = config.SaveProjection;
    }

    public Tensor A { get; }

    public Tensor B { get; }

    public bool IsSaved { get; }

    private static Tensor Draw(TorchRandom random, Shape shape, Scope store, DType type)
    {
        var values = new float[shape.Count];
        double bound = Math.Sqrt(3) * (Math.Sqrt(2) / Math.Sqrt(shape[1]));     // in torch's order of operations, for the last bit
        random.FillUniform(values, (float)-bound, (float)bound);
        return store.Of(shape, values, type);
    }
}

/// <summary>b [out], d [r]. The scaled matrices are small, so the layer is <see cref="LoraLinear"/> on them: x is read once.</summary>
internal sealed class Vera : Adapter
{
    private readonly VeraProjection projection;
    private readonly InputDropout dropout;
    private readonly Parameter b, d;

    public Vera(VeraConfig config, Site site, VeraProjection projection, Rng rng, Scope store)
        : base(site, store)
    {
        this.projection = projection;
        dropout = DropInputs(config.Dropout, rng);
        b = Declare("vera_lambda_b", Init.Constant(config.InitWeights ? 0 : 1).Make(store, rng, [site.Outputs], Precision));
        d = Declare("vera_lambda_d", (config.InitWeights ? Init.Constant(config.InitialD) : Init.Normal(1)).Make(store, rng.Fork("vera_lambda_d"), [config.Rank], Precision));
    }

    internal override IEnumerable<(string Name, Tensor Value)> Shared => projection.IsSaved ? [("vera_A", projection.A), ("vera_B", projection.B)] : [];

    /// <summary>diag(d)·A [r,in].</summary>
    private Tensor A => new ScaleRows().Apply(Site.Inputs == projection.A.Shape[1] ? projection.A : new Columns(0, Site.Inputs).Apply(projection.A), d);

    /// <summary>diag(b)·B [out,r].</summary>
    private Tensor B => new ScaleRows().Apply(projection.B.Slice(0, Site.Outputs), b);

    public override Tensor EffectiveWeight() => new AddMatMul(1).Apply(Site.WeightMatrix(), B, A);

    public override Tensor Forward(Tensor x) => new LoraLinear(1).Apply(x, Site.Weight, A, B, Site.Bias?.Value, null, dropout.Apply(x));
}
