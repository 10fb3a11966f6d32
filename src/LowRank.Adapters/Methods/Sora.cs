using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>SoRA (arXiv 2311.11696): W_eff = W + s·B·diag(g)·A, s = Alpha/Rank, with a gate g on every component. <see cref="GatedAdamW"/> drives gates to exactly
/// 0; <see cref="SoraGates"/> counts what is left and writes it as plain LoRA of the same s. The start is W: B is 0, the gates are normal numbers.</summary>
public sealed record SoraConfig() : AdapterConfig("SORA")
{
    /// <summary>r before any gate is 0.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 8;

    /// <summary>Numerator of the scale s.</summary>
    [JsonPropertyName("lora_alpha"), JsonConverter(typeof(NumberConverter))]
    public double Alpha { get; init; } = 16;

    /// <summary>Share of the adapter's inputs dropped in training.</summary>
    [JsonPropertyName("lora_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>λ₁: the loss gains λ₁ times the mean of |g| over all gates of the model (1e-3 in the official script with a sparsifying schedule, 10 in the
    /// one without).</summary>
    [JsonPropertyName("sparse_lambda"), JsonConverter(typeof(FloatConverter))]
    public double Lambda1 { get; init; } = 1e-3;

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Sora(this, site, Rank, rng, store);

    /// <inheritdoc/>
    internal override IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store) =>
        sites.Select(site => new Sora(this, site, (long)sites.Count * Rank, rng.Fork(site.Path), store));

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => ((long)Rank * (site.Inputs + site.Outputs)) + Rank;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank);
        RequireShare("lora_dropout", Dropout);
        if (!double.IsFinite(Alpha))
        {
            throw Bad("lora_alpha", Alpha, "a finite number");
        }
        if (!(Lambda1 >= 0 && double.IsFinite(Lambda1)))
        {
            throw Bad("sparse_lambda", Lambda1, "0 or more");
        }
    }
}

/// <summary>A [r,in], uniform on ±1/√in, B [out,r], zeros, g [1,r], normal. The layer is <see cref="LoraLinear"/> on diag(g)·A: x is read once, and a component
/// whose gate is 0 gives no gradient to A and B but one to its gate.</summary>
internal sealed class Sora : Adapter
{
    private readonly SoraConfig config;
    private readonly InputDropout dropout;
    private readonly Parameter a, b, g;
    private readonly long gates;        // of the whole model
    private readonly double trained;    // s as the settings say

    public Sora(SoraConfig config, Site site, long gates, Rng rng, Scope store)
        : base(site, store)
    {
        (this.config, this.gates) = (config, gates);
        trained = Scale = config.Alpha / config.Rank;
        dropout = DropInputs(config.Dropout, rng);
        a = Declare("lora_A.weight", Init.KaimingUniform(Math.Sqrt(5)).Make(store, rng.Fork("lora_A.weight"), [config.Rank, site.Inputs], Precision));
        b = Declare("lora_B.weight", Init.Zeros.Make(store, rng, [site.Outputs, config.Rank], Precision));
        g = Declare("gate", Init.Normal(1).Make(store, rng.Fork("gate"), [1, config.Rank], Precision));
    }

    /// <summary>s as it is applied.</summary>
    internal double Scale { get; private set; }

    internal Parameter Gate => g;

    internal override string? Remark => Gates().All(v => v == 0) ? $"{Path}: every gate is 0: the adapter adds nothing here"
        : config.Rank > Math.Min(Site.Inputs, Site.Outputs) ? $"{Path}: r is {config.Rank}, more than the smaller side of {Site.Weight.Value.Shape}"
        : null;

    public override Tensor EffectiveWeight() => new AddMatMul(Scale).Apply(Site.WeightMatrix(), b, Gated());

    public override Tensor Forward(Tensor x) => new LoraLinear(Scale).Apply(x, Site.Weight, Gated(), b, Site.Bias?.Value, null, dropout.Apply(x));

    /// <summary>λ₁·Σ|g|/gates, |g| = max(g, 0) + max(-g, 0), whose slope at 0 is 0.</summary>
    public override Tensor? Penalty()
    {
        if (config.Lambda1 == 0)
        {
            return null;
        }
        Tensor size = new Add().Apply(new Relu().Apply(g), new Relu().Apply(new Add(-2).Apply(g, g)));
        Tensor ones = size.Device.Current!.New([config.Rank, 1], Precision);
        ones.Fill(1);
        return new MatMul(Scale: config.Lambda1 / gates).Apply(size, ones).Reshape([1]);
    }

    /// <exception cref="InvalidOperationException">A gate is not finite: names the layer.</exception>
    public override void BeforeStep(Progress progress) => Gates();

    protected override bool TakesStrength(double strength)
    {
        Scale = strength * trained;
        return true;
    }

    /// <summary>The components whose gate is not 0, as factors of plain LoRA: A [kept,in] and B·diag(g) [out,kept].</summary>
    internal (double[] A, double[] B, int Kept) Pruned()
    {
        double[] gate = Gates(), down = a.Value.ToDoubles(), up = b.Value.ToDoubles();
        int[] kept = [.. Enumerable.Range(0, config.Rank).Where(i => gate[i] != 0)];
        return ([.. kept.SelectMany(i => down[(i * Site.Inputs)..((i + 1) * Site.Inputs)])],
            [.. Enumerable.Range(0, Site.Outputs).SelectMany(row => kept.Select(i => up[(row * config.Rank) + i] * gate[i]))],
            kept.Length);
    }

    /// <summary>The gates, all finite.</summary>
    internal double[] Gates()
    {
        double[] values = g.Value.ToDoubles();
        int bad = Array.FindIndex(values, v => !double.IsFinite(v));
        return bad < 0 ? values : throw new InvalidOperationException($"Sora: gate {bad} of {Path} is {values[bad]}, want finite numbers");
    }

    /// <summary>diag(g)·A.</summary>
    private Tensor Gated() => new ScaleRows().Apply(a, g.Value.Reshape([config.Rank]));
}
