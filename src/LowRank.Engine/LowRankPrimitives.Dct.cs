namespace LowRank;

public static unsafe partial class LowRankPrimitives
{
    /// <summary>destination = C_m·x·C_nᵀ, the orthonormal 2-D cosine transform (DCT-II) of x [m, n], or C_mᵀ·x·C_n where <paramref name="inverse"/> is set;
    /// C_n[i,j] = √(2/n)·cos(πi(2j+1)/(2n)), row 0 over √2 (Makhoul 1980). Any m and n, primes too; float32 throughout.</summary>
    /// <exception cref="ShapeException">A matrix does not fit, or destination overlaps x in part.</exception>
    public static void Dct2(MatrixView<float> x, MatrixView<float> destination, bool inverse = false)
    {
        Require("destination", destination, x.Rows, x.Cols);
        if (x.Data != destination.Data)     // the result is written after all of x has been read
        {
            RequireApart("x", x, destination);
        }
        fixed (float* px = x.Data, py = destination.Data)
        {
            Cpu.Value.Launch(Kernels.Dct2, new Dct2Args { X = (nint)px, Y = (nint)py, Rows = x.Rows, Cols = x.Cols, Inverse = inverse ? 1 : 0, Scale = 1, DType = DType.F32 });
        }
    }

    /// <summary>w += scale·C_mᵀ·S·C_n from a few coefficients of the transform: S [m, n] is zero but for S[rows[j], cols[j]] += values[j]
    /// (LoCA's merge, arXiv 2502.06820). S is not formed where that is cheaper.</summary>
    /// <exception cref="ShapeException">The spans differ in length, or a place is outside of w.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite.</exception>
    public static void SparseDctMerge(MatrixView<float> w, ReadOnlySpan<float> values, ReadOnlySpan<int> rows, ReadOnlySpan<int> cols, double scale)
    {
        int[] places = Places(rows, cols, w.Rows, w.Cols);
        RequireLength("values", values.Length, rows.Length);
        for (int j = 0; j < values.Length; j++)
        {
            if (!float.IsFinite(values[j]))
            {
                throw new NumericException($"LowRankPrimitives: values[{j}] is {values[j]}, want a finite number");
            }
        }
        if (w.Data.IsEmpty)
        {
            return;
        }
        fixed (float* pw = w.Data, pa = values)
        fixed (int* loc = places)
        {
            Cpu.Value.Launch(Kernels.SparseDct, new SparseDctArgs { W = (nint)pw, A = (nint)pa, Loc = (nint)loc, Y = (nint)pw, Rows = w.Rows, Cols = w.Cols, Count = values.Length, Scale = scale, DType = DType.F32 });
        }
    }

    /// <summary>destination[j] = scale·(C_m·G·C_nᵀ)[rows[j], cols[j]], G = dyᵀ·x: what <see cref="SparseDctMerge"/>'s values get where y = x·wᵀ;
    /// x [tokens, n], dy [tokens, m]. G is never formed.</summary>
    /// <exception cref="ShapeException">A matrix or span does not fit, or a place is outside of [m, n].</exception>
    public static void SparseDctGradient(MatrixView<float> x, MatrixView<float> dy, ReadOnlySpan<int> rows, ReadOnlySpan<int> cols, double scale, Span<float> destination)
    {
        Require("dy", dy, x.Rows, dy.Cols);
        int[] places = Places(rows, cols, dy.Cols, x.Cols);
        RequireLength("destination", destination.Length, rows.Length);
        fixed (float* px = x.Data, pdy = dy.Data, pda = destination)
        fixed (int* loc = places)
        {
            Cpu.Value.Launch(Kernels.SparseDctBackward, new SparseDctGradArgs { X = (nint)px, Dy = (nint)pdy, Loc = (nint)loc, Da = (nint)pda, Tokens = x.Rows, Rows = dy.Cols, Cols = x.Cols, Count = destination.Length, Scale = scale, DType = DType.F32 });
        }
    }

    // Rows first, then columns, as the kernels take them.
    private static int[] Places(ReadOnlySpan<int> rows, ReadOnlySpan<int> cols, int m, int n)
    {
        RequireLength("cols", cols.Length, rows.Length);
        for (int j = 0; j < rows.Length; j++)
        {
            if ((uint)rows[j] >= (uint)m || (uint)cols[j] >= (uint)n)
            {
                throw new ShapeException($"LowRankPrimitives: place {j} is [{rows[j]}, {cols[j]}], want one inside of [{m}, {n}]");
            }
        }
        return [.. rows, .. cols];
    }

    private static void RequireLength(string operand, int length, int want)
    {
        if (length != want)
        {
            throw new ShapeException($"LowRankPrimitives: {operand} has {length} elements, want {want}");
        }
    }
}
