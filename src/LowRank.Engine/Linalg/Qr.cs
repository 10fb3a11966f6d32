using System.Numerics;

namespace LowRank;

/// <summary>A = Q·R: Q [m,k] with orthonormal columns, R [k,n] upper triangular, k = min(m, n).</summary>
public sealed record QrFactors(Tensor Q, Tensor R);

/// <summary>Thin QR decompositions of F32 and F64 matrices by blocked Householder reflections; not differentiable. Signs are LAPACK's.</summary>
public static class Qr
{
    private const string Name = "Qr";

    /// <summary>a [m,n] → Q [m,k], R [k,n], k = min(m, n).</summary>
    /// <param name="a">Matrix of F32 or F64.</param>
    /// <param name="scope">Where the factors live.</param>
    /// <exception cref="ShapeException">a is no row-major matrix of F32 or F64.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static QrFactors Of(Tensor a, Scope scope)
    {
        Operand.RequireMatrix(Name, "a", a);
        return a.DType == DType.F32 ? Of(Dense<float>.Of(Name, "a", a), scope) : Of(Dense<double>.Of(Name, "a", a), scope);
    }

    /// <summary>The same on spans: a [m,n] → q [m,k], r [k,n].</summary>
    /// <exception cref="ShapeException">A shape or the element type does not fit.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static void Of<T>(MatrixView<T> a, MatrixView<T> q, MatrixView<T> r) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int k = Math.Min(a.Rows, a.Cols);
        Operand.RequireType<T>(Name);
        Operand.Require(Name, "q", q, a.Rows, k);
        Operand.Require(Name, "r", r, k, a.Cols);
        (Dense<T> left, Dense<T> right) = Factor(Dense<T>.Of(Name, "a", a));
        using (left)
        using (right)
        {
            left.Span.CopyTo(q.Data);
            right.Span.CopyTo(r.Data);
        }
    }

    private static QrFactors Of<T>(Dense<T> a, Scope scope) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        (Dense<T> q, Dense<T> r) = Factor(a);
        using (q)
        using (r)
        {
            return new(q.ToTensor(scope), r.ToTensor(scope));
        }
    }

    private static unsafe (Dense<T> Q, Dense<T> R) Factor<T>(Dense<T> a) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> work = a;
        T scale = a.Normalize();
        using var qr = new HouseholderQr<T>(a);
        Dense<T> r = qr.R();
        Lanes.Scale(scale, r.Data, r.Span.Length);
        return (qr.Q(), r);
    }
}
