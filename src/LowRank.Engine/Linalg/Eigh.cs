using System.Numerics;

namespace LowRank;

/// <summary>A = V·diag(Values)·Vᵀ: Values [n] rising, V [n,n] with the eigenvectors as columns.</summary>
public sealed record EighFactors(Tensor Values, Tensor V);

/// <summary>Eigenvalues and eigenvectors of symmetric F32 and F64 matrices; not differentiable. The component of largest magnitude of every vector is
/// positive.</summary>
public static unsafe class Eigh
{
    private const string Name = "Eigh";

    /// <summary>The decomposition of a symmetric matrix: tridiagonal form, then the implicit QL iteration. Only the lower triangle is read.</summary>
    /// <param name="a">Matrix [n,n] of F32 or F64.</param>
    /// <param name="scope">Where the factors live.</param>
    /// <exception cref="ShapeException">a is no square matrix of F32 or F64.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static EighFactors Of(Tensor a, Scope scope)
    {
        Operand.RequireSquare(Name, "a", a);
        return a.DType == DType.F32 ? Of(Dense<float>.Of(Name, "a", a), scope) : Of(Dense<double>.Of(Name, "a", a), scope);
    }

    /// <summary>The same on spans: a [n,n] → values [n], v [n,n].</summary>
    /// <exception cref="ShapeException">A shape or the element type does not fit.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static void Of<T>(MatrixView<T> a, Span<T> values, MatrixView<T> v) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Operand.RequireType<T>(Name);
        Operand.Require(Name, "a", a, a.Rows, a.Rows);
        Operand.Require(Name, "values", values.AsMatrix(1, values.Length), 1, a.Rows);
        Operand.Require(Name, "v", v, a.Rows, a.Rows);
        using Dense<T> work = Dense<T>.Of(Name, "a", a);
        (Dense<T> found, Dense<T> vectors) = Factor(work);
        using (found)
        using (vectors)
        {
            found.Span.CopyTo(values);
            vectors.Span.CopyTo(v.Data);
        }
    }

    private static EighFactors Of<T>(Dense<T> a, Scope scope) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> work = a;
        (Dense<T> values, Dense<T> vectors) = Factor(a);
        using (values)
        using (vectors)
        {
            return new(values.ToTensor(scope).Reshape([a.Rows]), vectors.ToTensor(scope));
        }
    }

    private static (Dense<T> Values, Dense<T> Vectors) Factor<T>(Dense<T> a) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int n = a.Rows;
        for (int i = 0; i < n; i++)
        {
            for (int j = i + 1; j < n; j++)
            {
                a.Row(i)[j] = a.Row(j)[i];
            }
        }
        T scale = a.Normalize();
        using var form = new Tridiagonal<T>(a);
        using Dense<T> q = form.Q();
        using var rotations = new Rotations<T>(new Slices<T>(q));
        using Slices<T> found = rotations.Vectors;
        TridiagonalQr.Run(form.Diagonal, form.Beside, rotations);
        int[] order = [.. Enumerable.Range(0, n).OrderBy(i => form.Diagonal[i])];
        T[] signs = found.Signs();
        Dense<T> values = new(1, n), vectors = new(n, n);
        for (int i = 0; i < n; i++)
        {
            values.Data[i] = T.CreateChecked(form.Diagonal[order[i]]) * scale;
        }
        found.ToColumns(order, [.. order.Select(i => signs[i])], vectors);
        return (values, vectors);
    }
}
