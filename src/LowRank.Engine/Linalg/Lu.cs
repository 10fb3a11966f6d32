using System.Numerics;

namespace LowRank;

/// <summary>A[Rows[i], :] = (L·U)[i, :], so A = P·L·U with P[Rows[i], i] = 1: L [m,k] unit lower triangular, U [k,n] upper triangular, k = min(m, n).</summary>
public sealed record LuFactors(Tensor L, Tensor U, int[] Rows)
{
    /// <summary>The permutation as a matrix P [m,m] of L's type: A = P·L·U.</summary>
    public Tensor Permutation(Scope scope)
    {
        var p = new double[checked(Rows.Length * Rows.Length)];
        for (int i = 0; i < Rows.Length; i++)
        {
            p[(Rows[i] * Rows.Length) + i] = 1;
        }
        return scope.Of([Rows.Length, Rows.Length], p, L.DType);
    }

    /// <summary>X with A·X = b for a square A; b [n, any] → X of b's shape.</summary>
    /// <exception cref="ShapeException">A is not square, or b does not fit.</exception>
    /// <exception cref="NumericException">A is singular, or b holds NaN or infinity.</exception>
    public Tensor Solve(Tensor b, Scope scope) => Lu.Solve(this, b, scope);
}

/// <summary>LU decompositions of F32 and F64 matrices with partial pivoting, in blocks; not differentiable.</summary>
public static unsafe class Lu
{
    private const string Name = "Lu";
    private const int Block = 32;

    /// <summary>a [m,n] → L, U and the order of rows. A singular matrix has factors too: zeros on U's diagonal.</summary>
    /// <param name="a">Matrix of F32 or F64.</param>
    /// <param name="scope">Where the factors live.</param>
    /// <exception cref="ShapeException">a is no row-major matrix of F32 or F64.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static LuFactors Of(Tensor a, Scope scope)
    {
        Operand.RequireMatrix(Name, "a", a);
        return a.DType == DType.F32 ? Of(Dense<float>.Of(Name, "a", a), scope) : Of(Dense<double>.Of(Name, "a", a), scope);
    }

    internal static Tensor Solve(LuFactors lu, Tensor b, Scope scope)
    {
        if (lu.L.Shape != lu.U.Shape)
        {
            throw new ShapeException($"{Name}: factors are {lu.L} and {lu.U}, want those of a square matrix");
        }
        Operand.RequireRightSide(Name, b, lu.L);
        return b.DType == DType.F32
            ? Solve(Dense<float>.Of(Name, "l", lu.L), Dense<float>.Of(Name, "u", lu.U), lu.Rows, Dense<float>.Of(Name, "b", b), scope)
            : Solve(Dense<double>.Of(Name, "l", lu.L), Dense<double>.Of(Name, "u", lu.U), lu.Rows, Dense<double>.Of(Name, "b", b), scope);
    }

    private static Tensor Solve<T>(Dense<T> l, Dense<T> u, int[] rows, Dense<T> b, Scope scope) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> left = l, right = u, given = b;
        for (int i = 0; i < u.Rows; i++)
        {
            if (u.Row(i)[i] == T.Zero)
            {
                throw new NumericException($"{Name}: a is singular, U is 0 at [{i}, {i}]; want a matrix of full rank");
            }
        }
        using var x = new Dense<T>(b.Rows, b.Cols);
        for (int i = 0; i < b.Rows; i++)
        {
            new Span<T>(b.Row(rows[i]), b.Cols).CopyTo(new Span<T>(x.Row(i), b.Cols));
        }
        Triangular.Solve(l.View, l.Rows, lower: true, unit: true, x.Data, x.Cols, x.Cols);
        Triangular.Solve(u.View, u.Rows, lower: false, unit: false, x.Data, x.Cols, x.Cols);
        return x.ToTensor(scope);
    }

    private static LuFactors Of<T>(Dense<T> a, Scope scope) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> work = a;
        int[] rows = Factor(a);
        int k = Math.Min(a.Rows, a.Cols);
        using Dense<T> l = new(a.Rows, k), u = new(k, a.Cols);
        for (int i = 0; i < a.Rows; i++)
        {
            int below = Math.Min(i, k);
            new Span<T>(a.Row(i), below).CopyTo(new Span<T>(l.Row(i), below));
            if (i < k)
            {
                l.Row(i)[i] = T.One;
                new Span<T>(a.Row(i) + i, a.Cols - i).CopyTo(new Span<T>(u.Row(i) + i, a.Cols - i));
            }
        }
        return new(l.ToTensor(scope), u.ToTensor(scope), rows);
    }

    private static int[] Factor<T>(Dense<T> a) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        (int m, int n, int k) = (a.Rows, a.Cols, Math.Min(a.Rows, a.Cols));
        int[] rows = [.. Enumerable.Range(0, m)];
        using var panel = new Dense<T>(Block, m);
        for (int first = 0; first < k; first += Block)
        {
            int size = Math.Min(Block, k - first), end = first + size;
            Panel(a, panel, first, size, rows);
            Triangular.Solve(a.View.From(first, first), size, lower: true, unit: true, a.Row(first) + end, a.Cols, n - end);
            Products.Add(m - end, n - end, size, -T.One, a.View.From(end, first), a.View.From(first, end), a.Row(end) + end, a.Cols);
        }
        return rows;
    }

    // The panel's columns are worked on where they lie together; rows of the whole matrix change places at once.
    private static void Panel<T>(Dense<T> a, Dense<T> panel, int first, int size, int[] rows) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int i = first; i < a.Rows; i++)
        {
            for (int j = 0; j < size; j++)
            {
                panel.Row(j)[i] = a.Row(i)[first + j];
            }
        }
        for (int j = 0; j < size; j++)
        {
            int at = first + j, pivot = at;
            T* column = panel.Row(j);
            for (int i = at + 1; i < a.Rows; i++)
            {
                pivot = T.Abs(column[i]) > T.Abs(column[pivot]) ? i : pivot;
            }
            if (pivot != at)
            {
                (rows[at], rows[pivot]) = (rows[pivot], rows[at]);
                for (int c = 0; c < a.Cols; c++)
                {
                    (a.Row(at)[c], a.Row(pivot)[c]) = (a.Row(pivot)[c], a.Row(at)[c]);
                }
                for (int c = 0; c < size; c++)
                {
                    (panel.Row(c)[at], panel.Row(c)[pivot]) = (panel.Row(c)[pivot], panel.Row(c)[at]);
                }
            }
            T divisor = column[at];
            for (int i = at + 1; i < a.Rows && divisor != T.Zero; i++)
            {
                column[i] /= divisor;
            }
            for (int c = j + 1; c < size; c++)
            {
                Lanes.Axpy(-panel.Row(c)[at], column + at + 1, panel.Row(c) + at + 1, a.Rows - at - 1);
            }
        }
        for (int i = first; i < a.Rows; i++)
        {
            for (int j = 0; j < size; j++)
            {
                a.Row(i)[first + j] = panel.Row(j)[i];
            }
        }
    }
}
