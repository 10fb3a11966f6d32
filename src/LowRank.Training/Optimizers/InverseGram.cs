namespace LowRank.Training;

/// <summary>(x·xᵀ + δI)⁺ of a factor with few rows, or (xᵀ·x + δI)⁺ of one with few columns: what preconditions the gradient of the other factor.</summary>
internal static class InverseGram
{
    /// <summary>The inverse [r,r]. Directions that are nought to the rounding unit of the factor's type stay nought, as in torch.linalg.pinv.</summary>
    /// <param name="factor">[r, ...], or [..., r] with <paramref name="columns"/>.</param>
    /// <param name="columns">The columns span the space.</param>
    /// <param name="delta">δ.</param>
    /// <param name="scope">Where the inverse lives.</param>
    public static Tensor Of(Tensor factor, bool columns, double delta, Scope scope)
    {
        Tensor x = Matrix(factor);
        double[] gram = new MatMul(TransposeA: columns, TransposeB: !columns).Apply(x, x).ToDoubles();
        int r = columns ? x.Shape[1] : x.Shape[0];
        for (int i = 0; i < r; i++)
        {
            gram[(i * r) + i] += delta;
        }
        double[] values = new double[r], vectors = new double[r * r], inverse = new double[r * r];
        Eigh.Of(gram.AsMatrix(r, r), values, vectors.AsMatrix(r, r));
        double least = r * factor.DType.Epsilon() * values.Max(Math.Abs);
        for (int i = 0; i < r * r; i++)
        {
            for (int k = 0; k < r; k++)
            {
                inverse[i] += Math.Abs(values[k]) > least ? vectors[(i / r * r) + k] / values[k] * vectors[(i % r * r) + k] : 0;
            }
        }
        return scope.Of([r, r], inverse, factor.DType);
    }

    /// <summary>A factor as a matrix: a convolution's A [r,c,kh,kw] is [r, c·kh·kw], its B [out,r,1,1] is [out,r].</summary>
    public static Tensor Matrix(Tensor factor) => factor.Shape.Rank == 2 ? factor : factor.Reshape([factor.Shape[0], checked((int)(factor.Shape.Count / factor.Shape[0]))]);
}
