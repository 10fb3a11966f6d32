using System.Numerics;

namespace LowRank;

/// <summary>A = Q·R for A [m,n] by Householder reflections in blocks. The signs are LAPACK's: R's diagonal opposes the element it came from.</summary>
internal sealed unsafe class HouseholderQr<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private readonly Dense<T> a, v, taus;

    /// <summary>Factors <paramref name="a"/>, which then holds R on and above its diagonal; it stays the caller's and must outlive this.</summary>
    public HouseholderQr(Dense<T> a)
    {
        (this.a, Rank) = (a, Math.Min(a.Rows, a.Cols));
        (v, taus) = (new(Rank, a.Rows), new(1, Rank));
        for (int first = 0; first < Rank; first += Reflectors.Block)
        {
            int size = Math.Min(Reflectors.Block, Rank - first);
            Panel(first, size);
            if (first + size < a.Cols)
            {
                using Dense<T> t = Triangle(first, size);
                Reflectors.Apply(v.View.From(first, first), size, a.Rows - first, t, transpose: true, a.Row(first) + first + size, a.Cols, a.Cols - first - size);
            }
        }
    }

    public int Rows => a.Rows;

    private int Rank { get; }

    public void Dispose()
    {
        v.Dispose();
        taus.Dispose();
    }

    /// <summary>Q [m, min(m,n)].</summary>
    public Dense<T> Q() => Reflectors.Orthonormal(v, taus.Data, Rank, 0, a.Rows, Rank);

    /// <summary>R [min(m,n), n].</summary>
    public Dense<T> R()
    {
        var r = new Dense<T>(Rank, a.Cols);
        for (int i = 0; i < Rank; i++)
        {
            new Span<T>(a.Row(i) + i, a.Cols - i).CopyTo(new Span<T>(r.Row(i) + i, a.Cols - i));
        }
        return r;
    }

    /// <summary>c ← Q·c with the full Q; c [m, any].</summary>
    public void Apply(Dense<T> c)
    {
        for (int first = (Rank - 1) / Reflectors.Block * Reflectors.Block; first >= 0 && Rank > 0; first -= Reflectors.Block)
        {
            int size = Math.Min(Reflectors.Block, Rank - first);
            using Dense<T> t = Triangle(first, size);
            Reflectors.Apply(v.View.From(first, first), size, a.Rows - first, t, transpose: false, c.Row(first), c.Cols, c.Cols);
        }
    }

    private Dense<T> Triangle(int first, int size)
    {
        var t = new Dense<T>(size, size);
        Reflectors.Triangle(v.View.From(first, first), size, a.Rows - first, taus.Data + first, t);
        return t;
    }

    // The panel's columns are worked on as rows of v, where they lie together.
    private void Panel(int first, int size)
    {
        int length = a.Rows - first;
        for (int i = 0; i < length; i++)
        {
            T* row = a.Row(first + i) + first;
            for (int j = 0; j < size; j++)
            {
                v.Row(first + j)[first + i] = row[j];
            }
        }
        T* s = stackalloc T[Reflectors.Block];
        for (int j = 0; j < size; j++)
        {
            int pivot = first + j, left = size - j - 1;
            T* column = v.Row(pivot);
            for (int i = first; i < pivot; i++)
            {
                a.Row(i)[pivot] = column[i];
                column[i] = T.Zero;
            }
            (T beta, T tau) = Reflectors.Make(column + pivot, a.Rows - pivot);
            (a.Row(pivot)[pivot], taus.Data[pivot]) = (beta, tau);
            if (left > 0 && tau != T.Zero)
            {
                Lanes.RowDots(v.Row(pivot + 1) + pivot, v.Cols, left, column + pivot, a.Rows - pivot, s);
                for (int k = 0; k < left; k++)
                {
                    Lanes.Axpy(-tau * s[k], column + pivot, v.Row(pivot + 1 + k) + pivot, a.Rows - pivot);
                }
            }
        }
    }
}
