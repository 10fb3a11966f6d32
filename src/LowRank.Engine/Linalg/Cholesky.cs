using System.Numerics;

namespace LowRank;

/// <summary>Cholesky factors A = L·Lᵀ of symmetric positive definite F32 and F64 matrices, and systems with them; not differentiable.</summary>
public static unsafe class Cholesky
{
    private const string Name = "Cholesky";
    private const int Block = 64;

    /// <summary>a [n,n] → L [n,n], lower triangular with a positive diagonal. Only the lower triangle of a is read.</summary>
    /// <param name="a">Matrix [n,n] of F32 or F64.</param>
    /// <param name="scope">Where L lives.</param>
    /// <exception cref="ShapeException">a is no square matrix of F32 or F64.</exception>
    /// <exception cref="NumericException">a is not positive definite, or holds NaN or infinity.</exception>
    public static Tensor Of(Tensor a, Scope scope) => TryOf(a, scope, out int pivot)
        ?? throw new NumericException($"{Name}: a has no positive pivot at row {pivot}, want a positive definite matrix; add a multiple of the identity");

    /// <summary>As <see cref="Of"/>, but null where a is not positive definite; <paramref name="pivot"/> is then the row whose pivot is not positive, else n.</summary>
    /// <exception cref="ShapeException">a is no square matrix of F32 or F64.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static Tensor? TryOf(Tensor a, Scope scope, out int pivot)
    {
        Operand.RequireSquare(Name, "a", a);
        return a.DType == DType.F32 ? TryOf(Dense<float>.Of(Name, "a", a), scope, out pivot) : TryOf(Dense<double>.Of(Name, "a", a), scope, out pivot);
    }

    /// <summary>X with L·Lᵀ·X = b; l [n,n] from <see cref="Of"/>, b [n, any] → X of b's shape.</summary>
    /// <exception cref="ShapeException">Shapes or types do not fit.</exception>
    /// <exception cref="NumericException">An operand holds NaN or infinity, or l a zero on its diagonal.</exception>
    public static Tensor Solve(Tensor l, Tensor b, Scope scope)
    {
        Operand.RequireSquare(Name, "l", l);
        Operand.RequireRightSide(Name, b, l);
        return l.DType == DType.F32
            ? Solve(Dense<float>.Of(Name, "l", l), Dense<float>.Of(Name, "b", b), scope)
            : Solve(Dense<double>.Of(Name, "l", l), Dense<double>.Of(Name, "b", b), scope);
    }

    private static Tensor? TryOf<T>(Dense<T> a, Scope scope, out int pivot) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> work = a;
        pivot = Factor(a);
        return pivot == a.Rows ? a.ToTensor(scope) : null;
    }

    private static Tensor Solve<T>(Dense<T> l, Dense<T> b, Scope scope) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> left = l, right = b;
        for (int i = 0; i < l.Rows; i++)
        {
            if (l.Row(i)[i] == T.Zero)
            {
                throw new NumericException($"{Name}: l is 0 at [{i}, {i}], want a factor without zeros on its diagonal");
            }
        }
        Triangular.Solve(l.View, l.Rows, lower: true, unit: false, b.Data, b.Cols, b.Cols);
        Triangular.Solve(l.View.Transposed, l.Rows, lower: false, unit: false, b.Data, b.Cols, b.Cols);
        return b.ToTensor(scope);
    }

    /// <summary>Overwrites the lower triangle of a with L and the upper one with zeros; the row of the first pivot that is not positive, n for none.</summary>
    internal static int Factor<T>(Dense<T> a) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int n = a.Rows;
        for (int first = 0; first < n; first += Block)
        {
            int end = Math.Min(first + Block, n);
            for (int j = first; j < end; j++)
            {
                T* row = a.Row(j);
                T pivot = row[j] - Lanes.Dot(row + first, row + first, j - first);
                if (!(pivot > T.Zero))
                {
                    return j;
                }
                row[j] = T.Sqrt(pivot);
                new Span<T>(row + j + 1, n - j - 1).Clear();
                for (int i = j + 1; i < n; i++)
                {
                    T* below = a.Row(i);
                    below[j] = (below[j] - Lanes.Dot(below + first, row + first, j - first)) / row[j];
                }
            }
            // What is left, in stripes, so that little above the diagonal is computed in vain.
            for (int top = end; top < n; top += Block)
            {
                int rows = Math.Min(Block, n - top);
                Products.Add(rows, top + rows - end, end - first, -T.One, a.View.From(top, first), a.View.From(end, first).Transposed, a.Row(top) + end, a.Cols);
            }
        }
        return n;
    }
}
