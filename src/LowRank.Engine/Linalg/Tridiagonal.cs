using System.Numerics;

namespace LowRank;

/// <summary>A = Q·T·Qᵀ for symmetric A [n,n], T tridiagonal, by Householder reflections in blocks; half of the work is matrix-vector products.</summary>
internal sealed unsafe class Tridiagonal<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private readonly int n;
    private readonly Dense<T> a, v, w, taus;

    /// <summary>Factors <paramref name="a"/>, both triangles given; it is overwritten.</summary>
    public Tridiagonal(Dense<T> a)
    {
        (this.a, n) = (a, a.Rows);
        (Diagonal, Beside) = (new double[n], new double[Math.Max(0, n - 1)]);
        (v, w, taus) = (new(n, n), new(Reflectors.Block, n), new(1, n));
        for (int first = 0; first < n; first += Reflectors.Block)
        {
            Panel(first, Math.Min(Reflectors.Block, n - first));
        }
    }

    /// <summary>T's diagonal [n].</summary>
    public double[] Diagonal { get; }

    /// <summary>What stands beside it [n-1].</summary>
    public double[] Beside { get; }

    /// <summary>Q [n,n].</summary>
    public Dense<T> Q() => Reflectors.Orthonormal(v, taus.Data, n - 1, 1, n, n);

    public void Dispose()
    {
        foreach (Dense<T> block in (ReadOnlySpan<Dense<T>>)[v, w, taus])
        {
            block.Dispose();
        }
    }

    // A stays as it was while a panel is worked on; what it would be is A - V·Wᵀ - W·Vᵀ.
    private void Panel(int first, int size)
    {
        T* s = stackalloc T[Reflectors.Block];
        for (int i = first; i < first + size; i++)
        {
            int before = i - first, rest = n - i - 1, next = i + 1;
            T* row = a.Row(i) + i;
            for (int j = 0; j < before; j++)
            {
                Lanes.Axpy(-v.Row(first + j)[i], w.Row(j) + i, row, rest + 1);
                Lanes.Axpy(-w.Row(j)[i], v.Row(first + j) + i, row, rest + 1);
            }
            Diagonal[i] = double.CreateChecked(row[0]);
            if (rest == 0)
            {
                return;
            }
            T* u = v.Row(i) + next, wi = w.Row(before) + next;
            new Span<T>(row + 1, rest).CopyTo(new Span<T>(u, rest));
            (T beta, T tau) = Reflectors.Make(u, rest);
            (Beside[i], taus.Data[i]) = (double.CreateChecked(beta), tau);

            GeneralProducts.Dots(a.Row(next) + next, a.Cols, rest, u, rest, wi);
            Subtract(w.Row(0) + next, v.Row(first) + next, before, u, s, wi, rest);
            Subtract(v.Row(first) + next, w.Row(0) + next, before, u, s, wi, rest);
            Lanes.Scale(tau, wi, rest);
            Lanes.Axpy(-tau / (T.One + T.One) * Lanes.Dot(wi, u, rest), u, wi, rest);
        }
        int end = first + size;
        Products.Add(n - end, n - end, size, -T.One, v.View.From(first, end).Transposed, w.View.From(0, end), a.Row(end) + end, a.Cols);
        Products.Add(n - end, n - end, size, -T.One, w.View.From(0, end).Transposed, v.View.From(first, end), a.Row(end) + end, a.Cols);
    }

    /// <summary>from -= Rowsᵀ·(Others·u), both [count, n] in memory.</summary>
    private void Subtract(T* others, T* rows, int count, T* u, T* s, T* from, int length)
    {
        Lanes.RowDots(others, n, count, u, length, s);
        for (int j = 0; j < count; j++)
        {
            s[j] = -s[j];
        }
        Lanes.RowSums(rows, n, count, s, length, from);
    }
}
