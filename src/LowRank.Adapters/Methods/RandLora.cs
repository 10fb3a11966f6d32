namespace LowRank.Adapters;

/// <summary>The frozen bases of all layers, drawn from a key: A [r, 1, dmax], one for all terms, and B [Dmax, nmax, r], where dmax is the smaller of the most
/// outputs and the most inputs, Dmax the larger. A layer takes the leading d columns of A, the leading D rows and n terms of B.</summary>
internal sealed class RandLoraBases
{
    public RandLoraBases(RandLoraConfig config, IReadOnlyList<Site> sites, Scope store)
    {
        (int outputs, int inputs, int r) = (sites.Max(s => s.Outputs), sites.Max(s => s.Inputs), config.Rank);
        (int least, int most) = (Math.Min(outputs, inputs), Math.Max(outputs, inputs));
        int terms = Math.Max(sites.Max(config.Terms), config.Variant == RandLoraVariant.Vision ? 1 : ((least - 1) / r) + 1);
        (Shape a, Shape b) = ([r, 1, least], [most, terms, r]);
        float[] first = new float[a.Count], second = new float[b.Count];
        var random = new TorchRandom(unchecked((ulong)config.Key));
        if (config.Sparse || config.VerySparse)
        {
            double share = config.VerySparse ? Math.Sqrt(least) : 3;
            Signs(random, first, share);
            Signs(random, second, share);
            TorchRandom.DivideByDeviation(first);
            TorchRandom.DivideByDeviation(second);
        }
        else
        {
            DType drawn = config.Variant == RandLoraVariant.Peft ? DType.BF16 : DType.F32;
            Kaiming(random, first, least, drawn);
            float[] block = new float[most * r];
            for (int term = 0; term < terms; term++)     // B comes a term [Dmax, 1, r] at a time
            {
                Kaiming(random, block, r, drawn);
                for (int row = 0; row < most; row++)
                {
                    block.AsSpan(row * r, r).CopyTo(second.AsSpan(((row * terms) + term) * r));
                }
            }
            TorchRandom.DivideByDeviation(first, drawn);
            TorchRandom.DivideByDeviation(second, drawn);
        }
        DType type = sites[0].Weight.Value.DType.ForParameters();
        (A, B) = (store.Of(a, first, type), store.Of(b, second, type));
        IsSaved = config.SaveProjection;
    }

    public Tensor A { get; }

    public Tensor B { get; }

    public bool IsSaved { get; }

    /// <summary>Uniform on ±1/√fan, by way of torch's gain for a slope of √5, for the last bit.</summary>
    private static void Kaiming(TorchRandom random, Span<float> to, int fan, DType type)
    {
        double bound = Math.Sqrt(3) * (Math.Sqrt(2 / (1 + Math.Pow(Math.Sqrt(5), 2))) / Math.Sqrt(fan));
        random.FillUniform(to, (float)-bound, (float)bound, type);
    }

    /// <summary>−1 and 1 with a chance of 1/(2·share) each, else 0.</summary>
    private static void Signs(TorchRandom random, Span<float> to, double share)
    {
        random.FillUniform(to, 0, 1);
        (float low, float high) = ((float)(1 / (2 * share)), (float)(1 - (1 / (2 * share))));
        foreach (ref float value in to)
        {
            value = value < low ? -1 : value > high ? 1 : 0;
        }
    }
}

/// <summary>lambda [r,n], gamma [n,d]. With many tokens W_eff is built once a call and the layer is one product with it, which is cheaper than a second pass over
/// x from d/2 tokens on; with few the scaled bases are a low-rank pair of rank q.</summary>
internal sealed class RandLora : Adapter
{
    private readonly RandLoraBases bases;
    private readonly InputDropout dropout;
    private readonly Parameter lambda, gamma;
    private readonly double trained;
    private readonly bool vision;
    private readonly string? remark;
    private double scale;

    public RandLora(RandLoraConfig config, Site site, RandLoraBases bases, Rng rng, Scope store)
        : base(site, store)
    {
        this.bases = bases;
        dropout = DropInputs(config.Dropout, rng);
        int n = config.Terms(site), r = config.Rank, d = Math.Min(site.Outputs, site.Inputs);
        scale = trained = config.Alpha / r / (config.Variant == RandLoraVariant.Official ? Math.Sqrt(n) : 1);
        vision = config.Variant == RandLoraVariant.Vision;
        remark = r > d ? $"{Path}: r is {r}, more than the smaller side of {site.Weight.Value.Shape}: one term is made"
            : config.Sparse && config.VerySparse ? $"{nameof(RandLora)}: sparse and very_sparse are both true: very_sparse wins"
            : null;
        Init first = !config.InitWeights ? Init.Normal(1) : Init.Constant(vision ? 1.0 / Math.Max(n, r) : 0);
        Init second = Init.Constant(!config.InitWeights ? 1.0 / Math.Max(site.Outputs, site.Inputs) : vision ? 0 : 1.0 / Math.Max(n, d));
        lambda = Declare("randlora_lambda", first.Make(store, rng.Fork("randlora_lambda"), [r, n], Precision));
        gamma = Declare("randlora_gamma", second.Make(store, rng, [n, d], Precision));
    }

    internal override string? Remark => remark;

    internal override IEnumerable<(string Name, Tensor Value)> Shared => bases.IsSaved ? [("randlora_A", bases.A), ("randlora_B", bases.B)] : [];

    /// <summary>True where the scaled bases are the right factor of dW, not that of its transpose. Of a square weight the vision variant's are not.</summary>
    private bool IsTall => vision ? Site.Inputs < Site.Outputs : Site.Inputs <= Site.Outputs;

    /// <summary>S [q,d].</summary>
    private Tensor Scaled => new ScaleBases().Apply(bases.A.Reshape([bases.A.Shape[0], bases.A.Shape[2]]), lambda, gamma);

    /// <summary>B [D,q].</summary>
    private Tensor Basis
    {
        get
        {
            int q = checked((int)lambda.Value.Shape.Count), rows = bases.B.Shape[0];
            Tensor whole = bases.B.Reshape([rows, checked((int)(bases.B.Shape.Count / rows))]).Slice(0, Math.Max(Site.Outputs, Site.Inputs));
            return whole.Shape[1] == q ? whole : new Columns(0, q).Apply(whole);
        }
    }

    public override Tensor EffectiveWeight() => new AddMatMul(scale, Transpose: !IsTall).Apply(Site.WeightMatrix(), Basis, Scaled);

    public override Tensor Forward(Tensor x)
    {
        Tensor? dropped = dropout.Apply(x);
        if (dropped is null && x.Shape.Rows > gamma.Value.Shape[1] / 2)
        {
            return new Linear().Apply(x, EffectiveWeight(), Site.Bias?.Value);
        }
        (Tensor a, Tensor b) = IsTall ? (Scaled, Basis) : (new Transpose().Apply(Basis), new Transpose().Apply(Scaled));
        return new LoraLinear(scale).Apply(x, Site.Weight, a, b, Site.Bias?.Value, null, dropped);
    }

    protected override bool TakesStrength(double strength)
    {
        scale = strength * trained;
        return true;
    }
}
