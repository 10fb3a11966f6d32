using System.Numerics;

namespace LowRank;

/// <summary>A ≈ U·diag(S)·Vt, equal for k = min(m, n); k is that or the rank asked for: U [m,k], S [k] falling, Vt [k,n].</summary>
public sealed record SvdFactors(Tensor U, Tensor S, Tensor Vt);

/// <summary>Singular value decompositions of F32 and F64 matrices; not differentiable. The component of largest magnitude of every left vector is
/// positive, which fixes the signs. Errors are of the order of ε·‖A‖, whatever the rank.</summary>
public static unsafe class Svd
{
    private const string Name = "Svd";

    /// <summary>The thin decomposition of a [m,n]: QR first where one side is much longer, then bidiagonal form and the implicit QR iteration.</summary>
    /// <param name="a">Matrix of F32 or F64.</param>
    /// <param name="scope">Where the factors live.</param>
    /// <param name="rank">Keeps only so many of the largest singular values, 1 .. min(m, n); null keeps all.</param>
    /// <exception cref="ShapeException">a is no row-major matrix of F32 or F64, or the rank is out of range.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static SvdFactors Of(Tensor a, Scope scope, int? rank = null)
    {
        Operand.RequireMatrix(Name, "a", a);
        int kept = rank ?? Math.Min(a.Shape[0], a.Shape[1]);
        if (rank is not null)
        {
            RequireRank(a, kept);
        }
        return a.DType == DType.F32 ? Of(Dense<float>.Of(Name, "a", a), scope, kept) : Of(Dense<double>.Of(Name, "a", a), scope, kept);
    }

    /// <summary>Turns every row so that its entry of largest magnitude is positive: singular vectors leave their sign free, and methods that use one side alone
    /// fix it on that side.</summary>
    /// <param name="vectors">[count, length].</param>
    /// <param name="length">Of a row.</param>
    public static void TurnPositive(Span<double> vectors, int length)
    {
        for (; vectors.Length > 0; vectors = vectors[length..])
        {
            double largest = 0;
            foreach (double v in vectors[..length])
            {
                largest = Math.Abs(v) > Math.Abs(largest) ? v : largest;
            }
            for (int i = 0; i < length && largest < 0; i++)
            {
                vectors[i] = -vectors[i];
            }
        }
    }

    /// <summary>The same on spans: a [m,n] → u [m,k], s [k], vt [k,n], k = min(m, n).</summary>
    /// <exception cref="ShapeException">A shape or the element type does not fit.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static void Of<T>(MatrixView<T> a, MatrixView<T> u, Span<T> s, MatrixView<T> vt) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int k = Math.Min(a.Rows, a.Cols);
        Operand.RequireType<T>(Name);
        Operand.Require(Name, "u", u, a.Rows, k);
        Operand.Require(Name, "s", s.AsMatrix(1, s.Length), 1, k);
        Operand.Require(Name, "vt", vt, k, a.Cols);
        using Dense<T> work = Dense<T>.Of(Name, "a", a);
        using Factors<T> factors = Thin(work);
        factors.U.Span.CopyTo(u.Data);
        factors.S.CopyTo(s);
        factors.Vt.Span.CopyTo(vt.Data);
    }

    /// <summary>The <paramref name="rank"/> largest singular values and their vectors by a randomised range finder (Halko, Martinsson and Tropp 2011,
    /// algorithm 4.4): close to the exact ones where the values fall off, at a cost of 2·(iterations + 1) products with a skinny matrix.</summary>
    /// <param name="a">Matrix [m,n] of F32 or F64.</param>
    /// <param name="rank">Values wanted, 1 .. min(m, n).</param>
    /// <param name="scope">Where the factors live.</param>
    /// <param name="rng">Draws the test matrix: same stream, same factors.</param>
    /// <param name="iterations">Power iterations: each sharpens the values' decay by its square.</param>
    /// <param name="oversample">Columns of the test matrix beyond the rank.</param>
    /// <exception cref="ShapeException">a is no row-major matrix of F32 or F64, or an option is out of range.</exception>
    /// <exception cref="NumericException">a holds NaN or infinity.</exception>
    public static SvdFactors Top(Tensor a, int rank, Scope scope, Rng rng, int iterations = 2, int oversample = 8)
    {
        Operand.RequireMatrix(Name, "a", a);
        RequireRank(a, rank);
        if (iterations < 0 || oversample < 0)
        {
            throw new ShapeException($"{Name}: iterations and oversample are {iterations} and {oversample}, want 0 or more");
        }
        int columns = (int)Math.Min((long)rank + oversample, Math.Min(a.Shape[0], a.Shape[1]));
        return a.DType == DType.F32
            ? Top(Dense<float>.Of(Name, "a", a), rank, columns, scope, rng, iterations)
            : Top(Dense<double>.Of(Name, "a", a), rank, columns, scope, rng, iterations);
    }

    private static void RequireRank(Tensor a, int rank)
    {
        int most = Math.Min(a.Shape[0], a.Shape[1]);
        if (rank < 1 || rank > most)
        {
            throw new ShapeException($"{Name}: rank is {rank}, want 1 .. {most} for {a}");
        }
    }

    private static SvdFactors Of<T>(Dense<T> a, Scope scope, int rank) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using (a)
        {
            using Factors<T> factors = Thin(a);
            return factors.ToTensors(scope, rank);
        }
    }

    private static SvdFactors Top<T>(Dense<T> a, int rank, int columns, Scope scope, Rng rng, int iterations) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using Dense<T> work = a;
        if (columns == Math.Min(a.Rows, a.Cols))
        {
            using Factors<T> all = Thin(a);
            return all.ToTensors(scope, rank);
        }
        T scale = a.Normalize();
        using Dense<T> range = Range(a, columns, rng, iterations);                        // [m, columns], orthonormal
        using var small = new Dense<T>(columns, a.Cols);
        Products.Add(columns, a.Cols, a.Rows, T.One, range.View.Transposed, a.View, small.Data, small.Cols);
        using Factors<T> inner = Thin(small);
        using var u = new Dense<T>(a.Rows, columns);
        Products.Add(a.Rows, columns, columns, T.One, range.View, inner.U.View, u.Data, columns);
        FixSigns(u, inner.Vt);
        using var factors = new Factors<T>(u, [.. inner.S.Select(s => s * scale)], inner.Vt);
        return factors.ToTensors(scope, rank);
    }

    private static Dense<T> Range<T>(Dense<T> a, int columns, Rng rng, int iterations) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using var test = new Dense<T>(a.Cols, columns);
        var drawn = new float[test.Span.Length];
        rng.FillNormal(drawn, 0, 1);
        for (int i = 0; i < drawn.Length; i++)
        {
            test.Data[i] = T.CreateChecked(drawn[i]);
        }
        Dense<T> range = Orthonormal(a.View, test, a.Rows);
        for (int i = 0; i < iterations; i++)
        {
            using Dense<T> before = range;
            using Dense<T> rows = Orthonormal(a.View.Transposed, before, a.Cols);
            range = Orthonormal(a.View, rows, a.Rows);
        }
        return range;
    }

    private static Dense<T> Orthonormal<T>(Strided<T> a, Dense<T> x, int rows) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using var y = new Dense<T>(rows, x.Cols);
        Products.Add(rows, x.Cols, x.Rows, T.One, a, x.View, y.Data, y.Cols);
        using var qr = new HouseholderQr<T>(y);
        return qr.Q();
    }

    private static void FixSigns<T>(Dense<T> u, Dense<T> vt) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var largest = new T[u.Cols];
        for (int i = 0; i < u.Rows; i++)
        {
            T* row = u.Row(i);
            for (int r = 0; r < largest.Length; r++)
            {
                largest[r] = T.Abs(row[r]) > T.Abs(largest[r]) ? row[r] : largest[r];
            }
        }
        for (int i = 0; i < u.Rows; i++)
        {
            T* row = u.Row(i);
            for (int r = 0; r < largest.Length; r++)
            {
                row[r] = largest[r] < T.Zero ? -row[r] : row[r];
            }
        }
        for (int r = 0; r < largest.Length; r++)
        {
            Lanes.Scale(largest[r] < T.Zero ? -T.One : T.One, vt.Row(r), vt.Cols);
        }
    }

    /// <summary>Overwrites a.</summary>
    private static Factors<T> Thin<T>(Dense<T> a) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (a.Rows < a.Cols)
        {
            using Dense<T> turned = a.Transposed();
            using Factors<T> other = Thin(turned);
            var swapped = new Factors<T>(other.Vt.Transposed(), other.S, other.U.Transposed());
            FixSigns(swapped.U, swapped.Vt);
            return swapped;
        }
        T scale = a.Normalize();
        if (a.Rows < a.Cols * 3L / 2 || a.Cols == 0)
        {
            return Bidiagonal(a, scale, null);
        }
        using var qr = new HouseholderQr<T>(a);
        using Dense<T> r = qr.R();
        return Bidiagonal(r, scale, qr);
    }

    private static Factors<T> Bidiagonal<T>(Dense<T> a, T scale, HouseholderQr<T>? qr) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        using var form = new Bidiagonal<T>(a);
        using Dense<T> q = form.Q(), p = form.P();
        using var left = new Rotations<T>(new Slices<T>(q));
        using var right = new Rotations<T>(new Slices<T>(p));
        using Slices<T> us = left.Vectors, vs = right.Vectors;
        BidiagonalQr<T>.Run(form.Diagonal, form.Above, left, right);
        int n = a.Cols;
        int[] order = [.. Enumerable.Range(0, n).OrderByDescending(i => Math.Abs(form.Diagonal[i]))];
        T[] signs = us.Signs();
        var factors = new Factors<T>(new Dense<T>(a.Rows, n), [.. order.Select(i => T.CreateChecked(Math.Abs(form.Diagonal[i])) * scale)], new Dense<T>(n, n));
        us.ToColumns(order, [.. order.Select(i => signs[i])], factors.U);
        vs.ToRows(order, [.. order.Select(i => form.Diagonal[i] < 0 ? -signs[i] : signs[i])], factors.Vt);
        if (qr is null)
        {
            return factors;
        }
        var u = new Dense<T>(qr.Rows, n);
        for (int i = 0; i < n; i++)
        {
            new Span<T>(factors.U.Row(i), n).CopyTo(new Span<T>(u.Row(i), n));
        }
        qr.Apply(u);
        factors.U.Dispose();
        FixSigns(u, factors.Vt);
        return new Factors<T>(u, factors.S, factors.Vt);
    }

    private sealed record Factors<T>(Dense<T> U, T[] S, Dense<T> Vt) : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Dispose()
        {
            U.Dispose();
            Vt.Dispose();
        }

        public SvdFactors ToTensors(Scope scope, int rank)
        {
            using var s = new Dense<T>(1, rank);
            S.AsSpan(0, rank).CopyTo(s.Span);
            using var u = new Dense<T>(U.Rows, rank);
            for (int i = 0; i < U.Rows; i++)
            {
                new Span<T>(U.Row(i), rank).CopyTo(new Span<T>(u.Row(i), rank));
            }
            using var vt = new Dense<T>(rank, Vt.Cols);
            Vt.Span[..vt.Span.Length].CopyTo(vt.Span);
            return new(u.ToTensor(scope), s.ToTensor(scope).Reshape([rank]), vt.ToTensor(scope));
        }
    }
}
