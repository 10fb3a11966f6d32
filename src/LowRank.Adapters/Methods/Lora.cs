namespace LowRank.Adapters;

/// <summary>W_eff = W + s·B·A, and with DoRA diag(c)·(W + s·B·A), c = m/‖row‖ (LoRA arXiv 2106.09685, rsLoRA 2312.03732, DoRA 2402.09353).
/// Linear: A [r,in], B [out,r]. Convolution along one to three axes: the same on patches, A [r,c,kh,kw], B [out,r,1,1], m [1,out,1,1]. Embedding:
/// A [r,vocabulary], B [width,r], W_eff = W + s·(B·A)ᵀ, and DoRA's norms run down the vocabulary. Stack W [count,rows,cols]: matrix e takes rows
/// e·r .. of A [count·r,cols] and columns e, e + count .. of B [rows,r·count]. With groups or dilation PEFT convolves A another way: not built.</summary>
internal sealed class Lora : Adapter
{
    private readonly double trained;                // s as the settings say
    private readonly InputDropout dropout;
    private readonly Parameter a, b;
    private readonly Parameter? m, bias;
    private readonly Tensor? squares;               // ‖W_i‖² [n] for DoRA
    private readonly Tensor? turned;                // Wᵀ [width, vocabulary] for DoRA on an embedding
    private readonly Tensor? noBias;                // zeros [out] where lora_B has a bias and the layer none
    private readonly (Tensor A, Tensor B)? start;   // what the init took out of W; null also where that is of full rank (LoftQ)

    public Lora(LoraConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        int rank = config.RankOf(site);
        bool own = config.Init == LoraInit.Default || config.Init == LoraInit.None || config.Init == LoraInit.Gaussian;
        if (site.Kind == SiteKind.Stack && (config.Dora || config.LoraBias || config.Dropout > 0 || !own))
        {
            throw new AdapterConfigException($"{nameof(LoraConfig)}: {site.Path} is a bare parameter, want it without use_dora, lora_bias, lora_dropout and with init_lora_weights true, false or gaussian");
        }
        trained = Scale = config.ScaleOf(site);
        dropout = DropInputs(config.Dropout, rng);
        using Scope scope = site.Weight.Value.Device.BeginScope();
        (Tensor firstA, Tensor firstB, Tensor? replaced) = LoraStart.Make(config, site, rank, Scale, rng, store, Precision);
        bool lookup = site.Kind == SiteKind.Embedding;
        a = Declare(lookup ? "lora_embedding_A" : "lora_A.weight", firstA);
        b = Declare(lookup ? "lora_embedding_B" : "lora_B.weight", firstB);
        if (config.LoraBias && !lookup)
        {
            bias = Declare("lora_B.bias", Init.Zeros.Make(store, rng, [site.Outputs], Precision));
            noBias = site.Bias is null ? store.NewZeros([site.Outputs], Precision) : null;
        }
        if (replaced is not null)
        {
            start = config.Init == LoraInit.Loftq ? null : (firstA.CopyTo(store), firstB.CopyTo(store));
            ReplaceBase(replaced);
        }
        if (config.Dora)
        {
            turned = lookup ? new Transpose().Apply(site.WeightMatrix()).CopyTo(store) : null;
            int n = NormedWeight.Shape[0];
            squares = store.New([n], Precision);
            Tensor norm = store.New(site.IsConvolution ? LoraStart.Column(site, 1, n) : [n], Precision);
            DoraScale.Norms(NormedWeight, A, B, Scale, squares, norm);
            m = Declare("lora_magnitude_vector", norm);
        }
    }

    /// <summary>s as it is applied.</summary>
    internal double Scale { get; private set; }

    /// <inheritdoc cref="InputDropout.Mask"/>
    internal Tensor? DropoutMask
    {
        get => dropout.Mask;
        set => dropout.Mask = value;
    }

    /// <summary>A, B and s.</summary>
    internal LoraPair Pair => new(a, b, Scale);

    public override string? WhyNotMergeable => noBias is null ? null : "lora_B has a bias and the layer has none to merge it into";

    /// <summary>s·B·A alone, whatever else there is.</summary>
    internal AdapterFactors Delta => new(A, B, Scale);

    internal override AdapterFactors? Factors => m is null && bias is null && Site.Kind != SiteKind.Stack ? Delta : null;

    internal override AdapterFactors? FactorsFor(Tensor x) => Site.Kind == SiteKind.Linear && !dropout.IsActive(x) ? Factors : null;

    private Tensor A => Site.IsConvolution ? a.Value.Reshape([a.Value.Shape[0], Site.Inputs]) : a.Value;

    private Tensor B => Site.IsConvolution ? b.Value.Reshape([Site.Outputs, b.Value.Shape[1]]) : b.Value;

    private Tensor W => Site.IsConvolution ? Site.Weight.Value.Reshape([Site.Outputs, Site.Inputs]) : Site.Weight.Value;

    private Tensor NormedWeight => turned ?? W;

    private Tensor? Bias => bias is null ? Site.Bias?.Value : new Add(Scale).Apply(Site.Bias?.Value ?? noBias, bias);

    public override Tensor EffectiveWeight()
    {
        if (Site.Kind == SiteKind.Embedding)
        {
            Tensor table = new AddMatMul(Scale, Transpose: true).Apply(Site.WeightMatrix(), b, a);
            return m is null ? table : new Mul().Apply(table, ColumnScale());
        }
        if (Site.Kind == SiteKind.Stack)
        {
            Shape stack = Site.Weight.Value.Shape;
            int count = stack[0], r = a.Value.Shape[0] / count;
            Tensor byMatrix = new Transpose().Apply(b.Value.Reshape([stack[1] * r, count])).Reshape([count, stack[1], r]);
            return new AddMatMul(Scale).Apply(Site.WeightMatrix().Reshape(stack), byMatrix, a.Value.Reshape([count, r, stack[2]]));
        }
        Tensor w = new AddMatMul(Scale).Apply(Site.WeightMatrix(), B, A);
        w = m is null ? w : new ScaleRows().Apply(w, ColumnScale());
        return Site.IsConvolution ? w.Reshape(Site.Weight.Value.Shape) : w;
    }

    public override Tensor? EffectiveBias() => bias is null ? null : Bias;

    public override Tensor Forward(Tensor x)
    {
        Tensor? dropped = Site.Kind is SiteKind.Embedding or SiteKind.Stack ? null : Drop(x);
        return Site.Kind switch
        {
            SiteKind.Embedding => Lookup(x),
            SiteKind.Stack => Site.BaseForward(x),
            SiteKind.Linear => Product(x, dropped),
            _ => Site.FromPatches(Product(Site.Patches(x), dropped is null ? null : Site.Patches(dropped)), x),
        };
    }

    protected override bool TakesStrength(double strength)
    {
        Scale = strength * trained;
        return true;
    }

    private protected override Tensor AddTo(Tensor y, Tensor x, double factor) => Site.Kind == SiteKind.Linear && m is null && bias is null
        ? new Add(factor * Scale).Apply(y, new Linear().Apply(new Linear().Apply(Drop(x) ?? x, A), B))
        : base.AddTo(y, x, factor);

    internal override Adapter Tie(Site site) => m is null && Site.Kind == SiteKind.Embedding && site.Kind == SiteKind.Linear
        ? new TiedLora(this, site, Store)
        : throw new AdapterConfigException($"{nameof(LoraConfig)}: {site.Path} shares the weight of {Site.Path}, want an embedding, a linear layer and use_dora false for ensure_weight_tying");

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
            return new LoraLinear(Scale).Apply(x, W, A, B, Bias, null, dropped);
        }
        Tensor c = ColumnScale();
        if (dropped is null)
        {
            return new LoraLinear(Scale).Apply(x, W, A, B, Bias, c);
        }
        // y = x·Wᵀ + bias + (c-1) ⊙ x'·Wᵀ + c ⊙ s·x'·Aᵀ·Bᵀ: the frozen part sees x, everything that c scales sees the dropped x'.
        Tensor kept = new Linear().Apply(new Add(-1).Apply(x, dropped), W, Bias);
        return new Add().Apply(kept, new LoraLinear(Scale).Apply(dropped, W, A, B, null, c));
    }

    private Tensor Lookup(Tensor ids)
    {
        Tensor low = new Gather().Apply(new Transpose().Apply(a), ids);                          // [..., r]
        Tensor y = new Add(Scale).Apply(new Gather().Apply(Site.Weight, ids), new Linear().Apply(low, b));
        return m is null ? y : new Mul().Apply(y, ColumnScale());
    }

    private Tensor ColumnScale() => new DoraScale(Scale).Apply(m!.Value.Reshape([squares!.Shape[0]]), NormedWeight, A, B, squares);

    /// <summary>The adapter's own input where a part of it is dropped; null: x.</summary>
    internal Tensor? Drop(Tensor x) => dropout.Apply(x);
}
