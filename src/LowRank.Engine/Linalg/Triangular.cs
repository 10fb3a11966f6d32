using System.Numerics;

namespace LowRank;

/// <summary>Systems with a triangular matrix.</summary>
internal static unsafe class Triangular
{
    private const int Block = 32;

    /// <summary>x [n, cols] ← L⁻¹·x for a lower triangular L; an upper one is given from its end with <paramref name="lower"/> false. A unit diagonal
    /// is not read.</summary>
    public static void Solve<T>(Strided<T> l, int n, bool lower, bool unit, T* x, nint ldx, int cols) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int done = 0; done < n; done += Block)
        {
            int size = Math.Min(Block, n - done), first = lower ? done : n - done - size;
            int solved = lower ? 0 : first + size;
            Products.Add(size, cols, done, -T.One, l.From(first, solved), new(x + (solved * ldx), ldx, 1), x + (first * ldx), ldx);
            for (int step = 0; step < size; step++)
            {
                int i = lower ? first + step : first + size - 1 - step;
                T* row = x + (i * ldx);
                for (int j = lower ? first : i + 1; j < (lower ? i : first + size); j++)
                {
                    Lanes.Axpy(-*l.At(i, j), x + (j * ldx), row, cols);
                }
                if (!unit)
                {
                    T pivot = *l.At(i, i);
                    for (int c = 0; c < cols; c++)
                    {
                        row[c] /= pivot;
                    }
                }
            }
        }
    }
}
