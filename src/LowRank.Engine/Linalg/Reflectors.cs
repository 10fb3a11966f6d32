using System.Numerics;

namespace LowRank;

/// <summary>Householder reflections H = I - τ·v·vᵀ, each v a row with v = 0 before its pivot and 1 on it, and products of a block of them as
/// I - V·T·Vᵀ with T upper triangular (Schreiber and Van Loan 1989, compact WY).</summary>
internal static unsafe class Reflectors
{
    /// <summary>Reflections a block.</summary>
    public const int Block = 32;

    /// <summary>Turns x [count] into v, v[0] = 1, such that H·x = β·e₀; returns β and τ. Below the smallest normal number over ε what is not the
    /// pivot counts as zero: τ = 0, β = x[0] (the matrix has been scaled to about 1).</summary>
    public static (T Beta, T Tau) Make<T>(T* x, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T alpha = x[0], rest = count > 1 ? Lanes.Norm(x + 1, count - 1) : T.Zero;
        x[0] = T.One;
        if (rest <= Least<T>())
        {
            new Span<T>(x + 1, (int)(count - 1)).Clear();
            return (alpha, T.Zero);
        }
        T beta = -T.CopySign(T.Hypot(alpha, rest), alpha);
        Lanes.Scale(T.One / (alpha - beta), x + 1, count - 1);
        return (beta, (beta - alpha) / beta);
    }

    /// <summary>T [count, count] of a block: V rows [count] of <paramref name="length"/> elements.</summary>
    public static void Triangle<T>(Strided<T> v, int count, nint length, T* taus, Dense<T> t) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T* s = stackalloc T[count];
        t.Span.Clear();
        for (int j = 0; j < count; j++)
        {
            T tau = taus[j];
            t.Row(j)[j] = tau;
            if (j == 0 || tau == T.Zero)
            {
                continue;
            }
            Lanes.RowDots(v.Data, v.Row, j, v.At(j, 0), length, s);
            for (int i = 0; i < j; i++)
            {
                t.Row(i)[j] = -tau * Lanes.Dot(t.Row(i) + i, s + i, j - i);
            }
        }
    }

    /// <summary>C [length, cols] ← (I - V·op(T)·Vᵀ)·C; op transposes where the reflections are to be undone.</summary>
    public static void Apply<T>(Strided<T> v, int count, int length, Dense<T> t, bool transpose, T* c, nint ldc, int cols) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (cols <= 0)
        {
            return;
        }
        using var w = new Dense<T>(count, cols);
        using var tw = new Dense<T>(count, cols);
        Products.Add(count, cols, length, T.One, v, new(c, ldc, 1), w.Data, cols);
        Products.Add(count, cols, count, T.One, transpose ? t.View.Transposed : t.View, w.View, tw.Data, cols);
        Products.Add(length, cols, count, -T.One, v.Transposed, tw.View, c, ldc);
    }

    /// <summary>The first columns of H₀·H₁·…: an orthonormal matrix [rows, cols]. Row j of <paramref name="v"/> is vⱼ with its pivot at j + shift.</summary>
    public static Dense<T> Orthonormal<T>(Dense<T> v, T* taus, int count, int shift, int rows, int cols) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var q = new Dense<T>(rows, cols);
        for (int i = 0; i < Math.Min(rows, cols); i++)
        {
            q.Row(i)[i] = T.One;
        }
        for (int first = (count - 1) / Block * Block; first >= 0 && count > 0; first -= Block)
        {
            int size = Math.Min(Block, count - first), pivot = first + shift;
            using var t = new Dense<T>(size, size);
            Strided<T> block = v.View.From(first, pivot);
            Triangle(block, size, rows - pivot, taus + first, t);
            Apply(block, size, rows - pivot, t, transpose: false, q.Row(pivot) + pivot, q.Cols, cols - pivot);
        }
        return q;
    }

    private static T Least<T>() where T : unmanaged, IBinaryFloatingPointIeee754<T> => typeof(T) == typeof(float) ? T.CreateChecked(1e-31) : T.CreateChecked(1e-292);
}
