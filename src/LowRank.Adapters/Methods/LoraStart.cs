namespace LowRank.Adapters;

/// <summary>First values of A and B by PEFT's init names; shapes as <see cref="Lora"/> says.</summary>
internal static class LoraStart
{
    public static (Tensor A, Tensor B) Make(LoraInit init, Site site, int rank, double scale, Rng rng, Scope store, DType type)
    {
        (Shape shapeA, Shape shapeB) = Shapes(site, rank);
        Rng forA = rng.Fork("lora_A"), forB = rng.Fork("lora_B");
        if (site.Kind == SiteKind.Embedding)
        {
            Init tokens = init == LoraInit.None ? Init.Normal(1) : Init.Zeros;
            return (tokens.Make(store, forA, shapeA, type), Init.Normal(1).Make(store, forB, shapeB, type));
        }
        Init uniform = Init.KaimingUniform(Math.Sqrt(5));
        return (
            (init == LoraInit.Gaussian ? Init.Normal(1.0 / rank) : uniform).Make(store, forA, shapeA, type),
            (init == LoraInit.None ? uniform : Init.Zeros).Make(store, forB, shapeB, type));
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

    private static (Shape A, Shape B) Shapes(Site site, int rank)
    {
        Shape w = site.Weight.Value.Shape;
        return site.Kind switch
        {
            SiteKind.Linear => ([rank, site.Inputs], [site.Outputs, rank]),
            SiteKind.Conv2d => ([rank, w[1], w[2], w[3]], [site.Outputs, rank, 1, 1]),
            _ => ([rank, w[0]], [w[1], rank]),
        };
    }
}
