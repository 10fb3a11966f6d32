namespace LowRank.Adapters;

/// <summary>a, b [r], X [q,l], Y [l,q] trained; U [out,p], S [p], Vᵀ [p,in] frozen and saved. Top and rest go apart, for the blocks of C between them are zero.
/// With many tokens W_eff is formed once a call and the layer is one product with it; with fewer, about as many as W has rows, x goes through the factors.</summary>
internal sealed class Salt : Adapter
{
    private const double Deviation = 0.01;      // of V1
    private readonly double regularization;
    private readonly int top, rest;
    private readonly Tensor u, s, vt;
    private readonly Tensor? diagonal;          // places of [q,q]
    private readonly Parameter a, b;
    private readonly Parameter? x, y;

    public Salt(SaltConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        regularization = config.Regularization;
        top = config.Top(site);
        using (Scope scope = site.Weight.Value.Device.BeginScope())
        {
            SvdFactors factors = Decomposed(site, scope);
            (u, s, vt) = (factors.U.ConvertTo(Precision, store), factors.S.ConvertTo(Precision, store), factors.Vt.ConvertTo(Precision, store));
        }
        rest = s.Shape[0] - top;
        if (rest > 0)
        {
            int l = config.LowRank;
            bool first = config.Variant == SaltVariant.V1;
            diagonal = store.Of([rest], [.. Enumerable.Range(0, rest).Select(i => checked(i * (rest + 1)))]);
            x = Declare("salt_X", (first ? Init.Normal(Deviation) : Init.Uniform(Math.Sqrt(6.0 / l))).Make(store, rng.Fork("salt_X"), [rest, l], Precision));
            y = Declare("salt_Y", (first ? Init.Normal(Deviation) : Init.Zeros).Make(store, rng.Fork("salt_Y"), [l, rest], Precision));
        }
        a = Declare("salt_a", Init.Ones.Make(store, rng, [top], Precision));
        b = Declare("salt_b", Init.Zeros.Make(store, rng, [top], Precision));
    }

    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope) => [.. base.Saved(plain, scope), ("salt_U", u), ("salt_S", s), ("salt_Vt", vt)];

    /// <summary>a ⊙ S + b of the largest [r].</summary>
    private Tensor Moved => new Add().Apply(new Mul().Apply(a, s.Slice(0, top)), b);

    /// <summary>relu(diag(S) + X·Y) of the rest [q,q].</summary>
    private Tensor Core => new Relu().Apply(new AddSparse().Apply(new MatMul().Apply(x!, y!), s.Slice(top, rest), diagonal));

    public override Tensor EffectiveWeight()
    {
        Tensor w = new MatMul().Apply(new Columns(0, top).Apply(u), new ScaleRows().Apply(vt.Slice(0, top), new Relu().Apply(Moved)));
        if (diagonal is not null)
        {
            w = new AddMatMul(1).Apply(w, new Columns(top, rest).Apply(u), new MatMul().Apply(Core, vt.Slice(top, rest)));
        }
        return w.Reshape(Site.Weight.Value.Shape);
    }

    public override Tensor Forward(Tensor x)
    {
        Tensor rows = Site.IsConvolution ? Site.Patches(x) : x;
        Tensor y = IsFactored(rows.Shape.Rows) ? ByFactors(rows) : new Linear().Apply(rows, EffectiveWeight().Reshape([Site.Outputs, Site.Inputs]), Site.Bias?.Value);
        return Site.IsConvolution ? Site.FromPatches(y, x) : y;
    }

    /// <summary>True where fewer products come from the factors than from W_eff and its making.</summary>
    private bool IsFactored(long tokens)
    {
        long n = Site.Outputs, k = Site.Inputs, square = (long)rest * rest;
        return tokens * ((k * (top + rest)) + square + (n * (top + rest))) < (n * k * (top + rest)) + (square * k) + (tokens * n * k);
    }

    /// <summary>y = U₁·(relu(a ⊙ S + b) ⊙ V₁ᵀ·x) + U₂·relu(C)·V₂ᵀ·x + bias.</summary>
    private Tensor ByFactors(Tensor input)
    {
        Tensor scaled = new Mul().Apply(new Linear().Apply(input, vt.Slice(0, top)), new Relu().Apply(Moved));
        Tensor output = new Linear().Apply(scaled, new Columns(0, top).Apply(u), Site.Bias?.Value);
        return diagonal is null ? output
            : new Add().Apply(output, new Linear().Apply(new Linear().Apply(new Linear().Apply(input, vt.Slice(top, rest)), Core), new Columns(top, rest).Apply(u)));
    }

    /// <summary>reg_lambda·(‖a ⊙ S + b − S‖ + ‖X·Y‖); the gradient of a norm of zero is zero.</summary>
    public override Tensor? Penalty()
    {
        if (regularization == 0)
        {
            return null;
        }
        double factor = regularization * regularization;
        Tensor norm = new Sqrt().Apply(new SquaredError(factor * top).Apply(Moved, s.Slice(0, top)));
        if (diagonal is null)
        {
            return norm;
        }
        Tensor product = new MatMul().Apply(x!, y!);
        Tensor zeros = product.Device.Current!.NewZeros(product.Shape, product.DType);
        return new Add().Apply(norm, new Sqrt().Apply(new SquaredError(factor * rest * rest).Apply(product, zeros)));
    }

    /// <summary>The decomposition in float64: what a factor loses in float32 it would lose in every product.</summary>
    private static SvdFactors Decomposed(Site site, Scope scope)
    {
        try
        {
            return Svd.Of(site.WeightMatrix().ConvertTo(DType.F64, scope), scope);
        }
        catch (NumericException error)
        {
            throw new AdapterConfigException($"{nameof(SaltConfig)}: the weight of {site.Path} has NaN or infinity in it, want finite values to decompose", error);
        }
    }
}
