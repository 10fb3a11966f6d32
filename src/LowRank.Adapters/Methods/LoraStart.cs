namespace LowRank.Adapters;

/// <summary>First values of A and B by PEFT's init names; shapes as <see cref="Lora"/> says.</summary>
internal static class LoraStart
{
    private const double OrthogonalScale = 0.1;     // PEFT's

    /// <summary>A and B in <paramref name="store"/>, and in the current scope the weight that takes the layer's place, if any.</summary>
    /// <exception cref="AdapterConfigException">The init cannot be had on this layer.</exception>
    /// <exception cref="NumericException">It reads the weight, which holds NaN or infinity.</exception>
    public static (Tensor A, Tensor B, Tensor? Base) Make(LoraConfig config, Site site, int rank, double scale, Rng rng, Scope store, DType type)
    {
        LoraInit init = config.Init;
        (Shape shapeA, Shape shapeB) = Shapes(site, rank);
        Rng forA = rng.Fork("lora_A"), forB = rng.Fork("lora_B");
        if (init.ChangesBase)
        {
            Require(init, site, rank, scale);
            if (init == LoraInit.Loftq)
            {
                (Tensor low, Tensor high, Tensor quantized) = Factor(site, w => Loftq.Start(config.Loftq!, w, rank));
                return (low.CopyTo(store), high.CopyTo(store), quantized);
            }
            (Tensor a, Tensor b) = init == LoraInit.Olora ? Olora(site, rank, store) : Pissa(init, site, rank, scale, rng, store);
            return (a.CopyTo(store), b.CopyTo(store), new AddMatMul(-scale).Apply(site.WeightMatrix(), b, a));
        }
        if (site.Kind == SiteKind.Embedding)
        {
            Init tokens = init == LoraInit.None ? Init.Normal(1) : Init.Zeros;
            return (tokens.Make(store, forA, shapeA, type), Init.Normal(1).Make(store, forB, shapeB, type), null);
        }
        if (init == LoraInit.Orthogonal)
        {
            (Tensor a, Tensor b) = Orthogonal(site, rank, rng, store, type, shapeA, shapeB);
            return (a, b, null);
        }
        Init uniform = Init.KaimingUniform(Math.Sqrt(5));
        return (
            (init == LoraInit.Gaussian ? Init.Normal(1.0 / rank) : uniform).Make(store, forA, shapeA, type),
            (init == LoraInit.None ? uniform : Init.Zeros).Make(store, forB, shapeB, type),
            null);
    }

    /// <summary>[a; b]: rows of b under those of a.</summary>
    public static Tensor Stack(Tensor a, Tensor b, Scope scope)
    {
        Tensor both = scope.New([a.Shape[0] + b.Shape[0], a.Shape[1]], a.DType);
        both.Slice(0, a.Shape[0]).CopyFrom(a);
        both.Slice(a.Shape[0], b.Shape[0]).CopyFrom(b);
        return both;
    }

    /// <summary>[a, -b]: columns of b, negated, right of those of a.</summary>
    public static Tensor Beside(Tensor a, Tensor b, Scope scope)
    {
        int rows = a.Shape[0], left = a.Shape[1], right = b.Shape[1];
        double[] x = a.ToDoubles(), y = b.ToDoubles(), both = new double[rows * (left + right)];
        for (int i = 0; i < rows; i++)
        {
            for (int j = 0; j < left + right; j++)
            {
                both[(i * (left + right)) + j] = j < left ? x[(i * left) + j] : -y[(i * right) + j - left];
            }
        }
        return scope.Of([rows, left + right], both, a.DType);
    }

    private static void Require(LoraInit init, Site site, int rank, double scale)
    {
        int most = Math.Min(site.Outputs, site.Inputs);
        string? wrong = site.Kind != SiteKind.Linear ? $"init_lora_weights is {init} for {site.Path}, a layer of kind {site.Kind}, want a linear layer"
            : rank > most ? $"r is {rank} at {site.Path} {site.Weight.Value.Shape}, want at most {most} for init_lora_weights {init}"
            : !(scale > 0) && init.IsPissa ? $"lora_alpha over r is {scale} at {site.Path}, want more than 0 for init_lora_weights {init}"
            : null;
        if (wrong is not null)
        {
            throw new AdapterConfigException($"{nameof(LoraConfig)}: {wrong}");
        }
    }

    /// <summary>W ≈ U·S·Vt of rank r; A = √(S/s)·Vt, B = U·√(S/s).</summary>
    private static (Tensor A, Tensor B) Pissa(LoraInit init, Site site, int rank, double scale, Rng rng, Scope store)
    {
        Scope scope = store.Device.Current!;
        (Tensor u, Tensor s, Tensor vt) = Factor(site, w => init.Iterations is { } iterations
            ? Svd.Top(w, rank, scope, rng.Fork("pissa"), iterations)
            : Svd.Of(w, scope, rank));
        Tensor root = scope.Of(s.Shape, [.. s.ToDoubles().Select(value => Math.Sqrt(value / scale))], s.DType);
        return (new ScaleRows().Apply(vt, root), new Mul().Apply(u, root));
    }

    /// <summary>W = Q·R; A = the first r rows of R, B = the first r columns of Q. The scale is left to stand: the base loses s·B·A.</summary>
    private static (Tensor A, Tensor B) Olora(Site site, int rank, Scope store)
    {
        Scope scope = store.Device.Current!;
        (Tensor q, Tensor r) = Factor(site, w => Qr.Of(w, scope));
        double[] all = q.ToDoubles();
        double[] left = [.. all.Where((_, i) => i % q.Shape[1] < rank)];
        return (r.Slice(0, rank), scope.Of([q.Shape[0], rank], left, q.DType));
    }

    /// <summary>Q orthogonal [r,r] from normal numbers; A = (N [in,r/2]·Q[even rows])ᵀ/10, B = N [out,r/2]·Q[odd rows]/10.</summary>
    private static (Tensor A, Tensor B) Orthogonal(Site site, int rank, Rng rng, Scope store, DType type, Shape shapeA, Shape shapeB)
    {
        Scope scope = store.Device.Current!;
        double[] q = Qr.Of(Init.Normal(1).Make(scope, rng.Fork("orthogonal"), [rank, rank], DType.F64), scope).Q.ToDoubles();
        Tensor Half(int first) => scope.Of([rank / 2, rank], [.. q.Where((_, i) => i / rank % 2 == first)]);
        Tensor Normal(string name, int rows) => Init.Normal(1).Make(scope, rng.Fork(name), [rows, rank / 2], DType.F64);
        Tensor a = new MatMul(TransposeA: true, TransposeB: true, Scale: OrthogonalScale).Apply(Half(0), Normal("lora_A", site.Inputs));
        Tensor b = new MatMul(Scale: OrthogonalScale).Apply(Normal("lora_B", site.Outputs), Half(1));
        return (a.Reshape(shapeA).ConvertTo(type, store), b.Reshape(shapeB).ConvertTo(type, store));
    }

    private static T Factor<T>(Site site, Func<Tensor, T> factor)
    {
        try
        {
            return factor(site.WeightMatrix());
        }
        catch (NumericException error)
        {
            throw new NumericException($"{nameof(LoraConfig)}: {site.Path}.weight: {error.Message}");
        }
    }

    private static (Shape A, Shape B) Shapes(Site site, int rank)
    {
        Shape w = site.Weight.Value.Shape;
        return site.Kind switch
        {
            SiteKind.Linear => ([rank, site.Inputs], [site.Outputs, rank]),
            SiteKind.Embedding => ([rank, w[0]], [w[1], rank]),
            SiteKind.Stack => ([w[0] * rank, w[2]], [w[1], rank * w[0]]),
            _ => (Shape.Of([rank, .. w.Skip(1)]), Column(site, site.Outputs, rank)),
        };
    }

    /// <summary>[rows, cols, 1, ..] with as many dimensions as the weight of a convolution.</summary>
    public static Shape Column(Site site, int rows, int cols) => Shape.Of([rows, cols, .. Enumerable.Repeat(1, site.Weight.Value.Shape.Rank - 2)]);
}
