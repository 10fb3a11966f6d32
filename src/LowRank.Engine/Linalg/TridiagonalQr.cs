using System.Numerics;

namespace LowRank;

/// <summary>Eigenvalues of a symmetric tridiagonal matrix by the implicit QL or QR iteration with Wilkinson's shift, whichever goes from the larger
/// end of a block to the smaller. Scalars are float64.</summary>
internal static class TridiagonalQr
{
    private const int MostSweeps = 60;      // per eigenvalue; some two are usual

    /// <summary>Leaves the eigenvalues, in any order, in <paramref name="d"/> [n]; <paramref name="e"/> [n-1] is overwritten, the vectors turn along.</summary>
    /// <exception cref="NumericException">No convergence; not seen for finite input.</exception>
    public static void Run<T>(double[] d, double[] e, Rotations<T> vectors) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        double precision = typeof(T) == typeof(float) ? Math.ScaleB(1, -24) : Math.ScaleB(1, -53);
        long budget = (long)MostSweeps * d.Length;
        int start = 0;
        while (start < d.Length)
        {
            // The block [start, end] has no negligible element beside its diagonal.
            int end = start;
            while (end < d.Length - 1 && !IsNegligible(d, e, end, precision))
            {
                end++;
            }
            if (end < d.Length - 1)
            {
                e[end] = 0;
            }
            if (end == start)
            {
                start++;
                continue;
            }
            if (--budget < 0)
            {
                throw new NumericException($"Eigh: the QL iteration did not converge in {MostSweeps} sweeps per eigenvalue, want a matrix of finite values");
            }
            bool up = Math.Abs(d[end]) >= Math.Abs(d[start]);
            Sweep(d, e, up ? end : start, up ? start : end, vectors);
        }
        vectors.Flush();
    }

    private static bool IsNegligible(double[] d, double[] e, int i, double precision)
    {
        double square = e[i] * e[i];
        return square <= precision * Math.Abs(d[i]) * (precision * Math.Abs(d[i + 1])) + double.Epsilon;
    }

    /// <summary>One sweep from row <paramref name="from"/> to row <paramref name="to"/>, where an eigenvalue gathers.</summary>
    private static void Sweep<T>(double[] d, double[] e, int from, int to, Rotations<T> vectors) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int step = to > from ? 1 : -1, first = Math.Min(from, to), beside = step > 0 ? 0 : -1;
        vectors.Begin(first, Math.Abs(to - from), forward: step > 0);
        double near = e[to - step + beside];
        double g = (d[to - step] - d[to]) / (2 * near), r = double.Hypot(g, 1);
        g = d[from] - d[to] + (near / (g + Math.CopySign(r, g)));
        double c = 1, s = 1, p = 0;
        for (int i = from; i != to; i += step)
        {
            double f = s * e[i + beside], b = c * e[i + beside];
            (c, s, r) = PlaneRotation.Make(g, f);
            if (i != from)
            {
                e[i - step + beside] = r;
            }
            g = d[i] - p;
            r = ((d[i + step] - g) * s) + (2 * c * b);
            p = s * r;
            d[i] = g + p;
            g = (c * r) - b;
            vectors.Set(i + beside - first, c, step * s);
        }
        d[to] -= p;
        e[to - step + beside] = g;
    }
}
