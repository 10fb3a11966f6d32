using System.Numerics;

namespace LowRank;

/// <summary>A = Q·B·Pᵀ for A [m,n], m ≥ n, B upper bidiagonal, by Householder reflections from both sides in blocks: of the 8/3·n³ multiply-adds
/// (m = n) half are matrix-vector products bound by memory, half one product a block (Dongarra, Sorensen and Hammarling 1989).</summary>
internal sealed unsafe class Bidiagonal<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private readonly int m, n;
    private readonly Dense<T> a, left, right, x, y, tauLeft, tauRight, partial;

    /// <summary>Factors <paramref name="a"/>, which is overwritten.</summary>
    public Bidiagonal(Dense<T> a)
    {
        (this.a, m, n) = (a, a.Rows, a.Cols);
        (Diagonal, Above) = (new double[n], new double[Math.Max(0, n - 1)]);
        (left, right) = (new(n, m), new(n, n));
        (x, y) = (new(Reflectors.Block, m), new(Reflectors.Block, n));
        (tauLeft, tauRight, partial) = (new(1, n), new(1, n), new(GeneralProducts.Parts, n));
        for (int first = 0; first < n; first += Reflectors.Block)
        {
            Panel(first, Math.Min(Reflectors.Block, n - first));
        }
    }

    /// <summary>B's diagonal [n].</summary>
    public double[] Diagonal { get; }

    /// <summary>What stands right of it [n-1].</summary>
    public double[] Above { get; }

    /// <summary>Q [m,n].</summary>
    public Dense<T> Q() => Reflectors.Orthonormal(left, tauLeft.Data, n, 0, m, n);

    /// <summary>P [n,n].</summary>
    public Dense<T> P() => Reflectors.Orthonormal(right, tauRight.Data, n - 1, 1, n, n);

    public void Dispose()
    {
        foreach (Dense<T> block in (ReadOnlySpan<Dense<T>>)[left, right, x, y, tauLeft, tauRight, partial])
        {
            block.Dispose();
        }
    }

    // A stays as it was while a panel is worked on; what it would be is A - V·Yᵀ - X·Uᵀ, V and U the reflections so far, Y = τ(Aᵀv - …), X = τ(A·u - …).
    private void Panel(int first, int size)
    {
        T* s = stackalloc T[Reflectors.Block];
        for (int i = first; i < first + size; i++)
        {
            int before = i - first, below = m - i - 1, beside = n - i - 1;
            T* v = left.Row(i) + i;
            for (int r = 0; r <= below; r++)
            {
                v[r] = a.Row(i + r)[i];
            }
            for (int j = 0; j < before; j++)
            {
                Lanes.Axpy(-y.Row(j)[i], left.Row(first + j) + i, v, below + 1);
                Lanes.Axpy(-right.Row(first + j)[i], x.Row(j) + i, v, below + 1);
            }
            (T beta, T tau) = Reflectors.Make(v, below + 1);
            (Diagonal[i], tauLeft.Data[i]) = (double.CreateChecked(beta), tau);
            if (beside == 0)
            {
                return;
            }

            int next = i + 1;
            T* yi = y.Row(before) + next;
            GeneralProducts.Sums(a.Row(i) + next, a.Cols, below + 1, v, beside, yi, partial);
            Lanes.RowDots(left.Row(first) + i, left.Cols, before, v, below + 1, s);
            Subtract(s, before, y.Row(0) + next, y.Cols, yi, beside);
            Lanes.RowDots(x.Row(0) + i, x.Cols, before, v, below + 1, s);
            Subtract(s, before, right.Row(first) + next, right.Cols, yi, beside);
            Lanes.Scale(tau, yi, beside);

            T* u = right.Row(i) + next;
            new Span<T>(a.Row(i) + next, beside).CopyTo(new Span<T>(u, beside));
            for (int j = 0; j <= before; j++)
            {
                Lanes.Axpy(-left.Row(first + j)[i], y.Row(j) + next, u, beside);
            }
            for (int j = 0; j < before; j++)
            {
                Lanes.Axpy(-x.Row(j)[i], right.Row(first + j) + next, u, beside);
            }
            (beta, tau) = Reflectors.Make(u, beside);
            (Above[i], tauRight.Data[i]) = (double.CreateChecked(beta), tau);

            T* xi = x.Row(before) + next;
            GeneralProducts.Dots(a.Row(next) + next, a.Cols, below, u, beside, xi);
            Lanes.RowDots(y.Row(0) + next, y.Cols, before + 1, u, beside, s);
            Subtract(s, before + 1, left.Row(first) + next, left.Cols, xi, below);
            Lanes.RowDots(right.Row(first) + next, right.Cols, before, u, beside, s);
            Subtract(s, before, x.Row(0) + next, x.Cols, xi, below);
            Lanes.Scale(tau, xi, below);
        }
        int end = first + size;
        Products.Add(m - end, n - end, size, -T.One, left.View.From(first, end).Transposed, y.View.From(0, end), a.Row(end) + end, a.Cols);
        Products.Add(m - end, n - end, size, -T.One, x.View.From(0, end).Transposed, right.View.From(first, end), a.Row(end) + end, a.Cols);
    }

    private static void Subtract(T* factors, int count, T* rows, nint stride, T* from, int length)
    {
        for (int j = 0; j < count; j++)
        {
            factors[j] = -factors[j];
        }
        Lanes.RowSums(rows, stride, count, factors, length, from);
    }
}

/// <summary>Matrix-vector products over the thread pool, in a number of parts that depends on the shape only.</summary>
internal static unsafe class GeneralProducts
{
    /// <summary>Most parts of a product.</summary>
    public const int Parts = 8;
    private const long Grain = 16384;       // elements below which a hand-over to other threads costs more than it gains

    /// <summary>y [rows] = A·x.</summary>
    public static void Dots<T>(T* a, nint stride, int rows, T* x, int cols, T* y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int part = PartRows(rows, cols);
        Pool.For(Count(rows, part), i => Lanes.RowDots(a + (i * part * stride), stride, Math.Min(part, rows - (i * part)), x, cols, y + (i * part)));
    }

    /// <summary>y [cols] = Aᵀ·f; <paramref name="partial"/> is workspace [Parts, cols].</summary>
    public static void Sums<T>(T* a, nint stride, int rows, T* f, int cols, T* y, Dense<T> partial) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int part = PartRows(rows, cols), parts = Count(rows, part);
        Pool.For(parts, i =>
        {
            T* to = i == 0 ? y : partial.Row(i);
            new Span<T>(to, cols).Clear();
            Lanes.RowSums(a + (i * part * stride), stride, Math.Min(part, rows - (i * part)), f + (i * part), cols, to);
        });
        for (int i = 1; i < parts; i++)
        {
            Lanes.Axpy(T.One, partial.Row(i), y, cols);
        }
    }

    private static int PartRows(int rows, int cols)
    {
        long parts = Math.Clamp((long)rows * cols / Grain, 1, Parts);
        return (int)((rows + parts - 1) / parts + 3) / 4 * 4;
    }

    private static int Count(int rows, int part) => part == 0 ? 0 : (rows + part - 1) / part;
}
