namespace LowRank.Adapters;

/// <summary>W_eff = W + s·B·A, and with DoRA diag(c)·(W + s·B·A), c = m/‖row‖ (LoRA arXiv 2106.09685, rsLoRA 2312.03732, DoRA 2402.09353).
/// Linear: A [r,in], B [out,r]. Convolution: the same on patches, A [r,c,kh,kw], B [out,r,1,1], m [1,out,1,1]. Embedding: A [r,vocabulary],
/// B [width,r], W_eff = W + s·(B·A)ᵀ, and DoRA's norms run down the vocabulary. With groups or dilation PEFT convolves A another way: not built.</summary>
internal sealed class Lora : Adapter
{
    private readonly double trained;                // s as the settings say
    private double scale;                           // s as it is applied
    private readonly InputDropout dropout;
    private readonly Parameter a, b;
    private readonly Parameter? m, bias;
    private readonly Tensor? squares;               // ‖W_i‖² [n] for DoRA
    private readonly Tensor? turned;                // Wᵀ [width, vocabulary] for DoRA on an embedding
    private readonly Tensor? noBias;                // zeros [out] where lora_B has a bias and the layer none
    private readonly (Tensor A, Tensor B)? start;   // what the init took out of W

    public Lora(LoraConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        int rank = config.RankOf(site);
        trained = scale = config.ScaleOf(site);
        dropout = new InputDropout(config.Dropout, rng);
        using Scope scope = site.Weight.Value.Device.BeginScope();
        (Tensor firstA, Tensor firstB) = LoraStart.Make(config.Init, site, rank, scale, rng, store, Precision);
        bool lookup = site.Kind == SiteKind.Embedding;
        a = Declare(lookup ? "lora_embedding_A" : "lora_A.weight", firstA);
        b = Declare(lookup ? "lora_embedding_B" : "lora_B.weight", firstB);
        if (config.LoraBias && !lookup)
        {
            bias = Declare("lora_B.bias", Init.Zeros.Make(store, rng, [site.Outputs], Precision));
            noBias = site.Bias is null ? store.NewZeros([site.Outputs], Precision) : null;
        }
        if (config.Init.ChangesBase)
        {
            start = (firstA.CopyTo(store), firstB.CopyTo(store));
            ReplaceBase(new AddMatMul(-scale).Apply(site.WeightMatrix(), firstB, firstA));
        }
        if (config.Dora)
        {
            turned = lookup ? new Transpose().Apply(site.WeightMatrix()).CopyTo(store) : null;
            int n = NormedWeight.Shape[0];
            squares = store.New([n], Precision);
            Tensor norm = store.New(site.Kind == SiteKind.Conv2d ? [1, n, 1, 1] : [n], Precision);
            DoraScale.Norms(NormedWeight, A, B, scale, squares, norm);
            m = Declare("lora_magnitude_vector", norm);
        }
    }

    /// <inheritdoc cref="InputDropout.Mask"/>
    internal Tensor? DropoutMask
    {
        get => dropout.Mask;
        set => dropout.Mask = value;
    }

    public override string? WhyNotMergeable => noBias is null ? null : "lora_B has a bias and the layer has none to merge it into";

    /// <summary>s·B·A alone, whatever else there is.</summary>
    internal AdapterFactors Delta => new(A, B, scale);

    internal override AdapterFactors? Factors => m is null && bias is null ? Delta : null;

    private Tensor A => Site.Kind == SiteKind.Conv2d ? a.Value.Reshape([a.Value.Shape[0], Site.Inputs]) : a.Value;

    private Tensor B => Site.Kind == SiteKind.Conv2d ? b.Value.Reshape([Site.Outputs, b.Value.Shape[1]]) : b.Value;

    private Tensor W => Site.Kind == SiteKind.Conv2d ? Site.Weight.Value.Reshape([Site.Outputs, Site.Inputs]) : Site.Weight.Value;

    private Tensor NormedWeight => turned ?? W;

    private Tensor? Bias => bias is null ? Site.Bias?.Value : new Add(scale).Apply(Site.Bias?.Value ?? noBias, bias);

    public override Tensor EffectiveWeight()
    {
        if (Site.Kind == SiteKind.Embedding)
        {
            Tensor table = new AddMatMul(scale, Transpose: true).Apply(Site.WeightMatrix(), b, a);
            return m is null ? table : new Mul().Apply(table, ColumnScale());
        }
        Tensor w = new AddMatMul(scale).Apply(Site.WeightMatrix(), B, A);
        w = m is null ? w : new ScaleRows().Apply(w, ColumnScale());
        return Site.Kind == SiteKind.Conv2d ? w.Reshape(Site.Weight.Value.Shape) : w;
    }

    public override Tensor? EffectiveBias() => bias is null ? null : Bias;

    public override Tensor Forward(Tensor x)
    {
        switch (Site.Kind)
        {
            case SiteKind.Embedding:
                return Lookup(x);
            case SiteKind.Conv2d:
                Tensor? dropped = Drop(x);
                return Site.FromPatches(Product(Site.Patches(x), dropped is null ? null : Site.Patches(dropped)), x);
            default:
                return Product(x, Drop(x));
        }
    }

    protected override bool TakesStrength(double strength)
    {
        scale = strength * trained;
        return true;
    }

    private protected override Tensor AddTo(Tensor y, Tensor x, double factor) => Site.Kind == SiteKind.Linear && m is null && bias is null
        ? new Add(factor * scale).Apply(y, new Linear().Apply(new Linear().Apply(Drop(x) ?? x, A), B))
        : base.AddTo(y, x, factor);

    internal override void StartStep(long step)
    {
        base.StartStep(step);
        dropout.StartStep(step);
    }

    /// <summary>As plain LoRA on the weight before the init: W_res + s·B·A = W + s·[B, -B₀]·[A; A₀].</summary>
    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope)
    {
        foreach ((string suffix, Tensor value) in base.Saved(plain, scope))
        {
            yield return (suffix, !plain || start is null ? value
                : suffix == Suffix(a) ? LoraStart.Stack(value, start.Value.A, scope)
                : suffix == Suffix(b) ? LoraStart.Beside(value, start.Value.B, scope)
                : value);
        }
    }

    private Tensor Product(Tensor x, Tensor? dropped)
    {
        if (m is null)
        {
            return new LoraLinear(scale).Apply(x, W, A, B, Bias, null, dropped);
        }
        Tensor c = ColumnScale();
        if (dropped is null)
        {
            return new LoraLinear(scale).Apply(x, W, A, B, Bias, c);
        }
        // y = x·Wᵀ + bias + (c-1) ⊙ x'·Wᵀ + c ⊙ s·x'·Aᵀ·Bᵀ: the frozen part sees x, everything that c scales sees the dropped x'.
        Tensor kept = new Linear().Apply(new Add(-1).Apply(x, dropped), W, Bias);
        return new Add().Apply(kept, new LoraLinear(scale).Apply(dropped, W, A, B, null, c));
    }

    private Tensor Lookup(Tensor ids)
    {
        Tensor low = new Gather().Apply(new Transpose().Apply(a), ids);                          // [..., r]
        Tensor y = new Add(scale).Apply(new Gather().Apply(Site.Weight, ids), new Linear().Apply(low, b));
        return m is null ? y : new Mul().Apply(y, ColumnScale());
    }

    private Tensor ColumnScale() => new DoraScale(scale).Apply(m!.Value.Reshape([squares!.Shape[0]]), NormedWeight, A, B, squares);

    private Tensor? Drop(Tensor x) => dropout.Apply(x);
}
