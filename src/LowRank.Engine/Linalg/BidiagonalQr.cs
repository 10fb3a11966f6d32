using System.Numerics;

namespace LowRank;

/// <summary>Singular values of an upper bidiagonal matrix by the implicit QR iteration that takes a zero shift where a shift would spoil small values
/// (Demmel and Kahan 1990, LAPACK working note 3). Scalars are float64; what turns the vectors is handed on chain by chain.</summary>
internal sealed class BidiagonalQr<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private const int MostSweeps = 60;      // per singular value; some two are usual
    private readonly double[] d, e;         // diagonal [n], above it [n-1]
    private readonly Rotations<T> left, right;
    private readonly double precision, tolerance, threshold;

    private BidiagonalQr(double[] diagonal, double[] above, Rotations<T> left, Rotations<T> right)
    {
        (d, e, this.left, this.right) = (diagonal, above, left, right);
        precision = typeof(T) == typeof(float) ? Math.ScaleB(1, -24) : Math.ScaleB(1, -53);
        tolerance = Math.Max(10, Math.Min(100, Math.Pow(precision, -0.125))) * precision;
        double mu = d.Length > 0 ? Math.Abs(d[0]) : 0, least = mu;
        for (int i = 1; i < d.Length && least > 0; i++)
        {
            mu = Math.Abs(d[i]) * (mu / (mu + Math.Abs(e[i - 1])));
            least = Math.Min(least, mu);
        }
        threshold = Math.Max(tolerance * least / Math.Sqrt(Math.Max(1, d.Length)), Math.ScaleB(1, -1000));
    }

    /// <summary>Leaves the singular values, any sign and order, in <paramref name="diagonal"/>; vectors of the left and right turn along.</summary>
    /// <exception cref="NumericException">No convergence; not seen for finite input.</exception>
    public static void Run(double[] diagonal, double[] above, Rotations<T> left, Rotations<T> right)
    {
        new BidiagonalQr<T>(diagonal, above, left, right).Run();
        left.Flush();
        right.Flush();
    }

    private void Run()
    {
        long budget = (long)MostSweeps * d.Length * d.Length;
        int last = d.Length - 1, seenFirst = -1, seenLast = -1;
        bool down = true;       // chase from the first row to the last
        while (last > 0)
        {
            // The block [first, last] has no zero above its diagonal.
            int first = last;
            double largest = Math.Abs(d[last]);
            while (first > 0 && Math.Abs(e[first - 1]) > threshold)
            {
                first--;
                largest = Math.Max(largest, Math.Max(Math.Abs(d[first]), Math.Abs(e[first])));
            }
            if (first > 0)
            {
                e[first - 1] = 0;
            }
            if (first == last)
            {
                last--;
                continue;
            }
            if (first > seenLast || last < seenFirst || seenFirst < 0)
            {
                down = Math.Abs(d[first]) >= Math.Abs(d[last]);
            }
            if (Splits(first, last, down, out double least))
            {
                continue;
            }
            (seenFirst, seenLast) = (first, last);
            double shift = Shift(first, last, down, least, largest);
            budget -= last - first;
            if (budget < 0)
            {
                throw new NumericException($"Svd: the QR iteration did not converge in {MostSweeps} sweeps per singular value, want a matrix of finite values");
            }
            Sweep(first, last, down, shift);
        }
    }

    /// <summary>Sets a negligible element to zero, if there is one; otherwise tells a lower bound of the smallest singular value.</summary>
    private bool Splits(int first, int last, bool down, out double least)
    {
        int from = down ? first : last, step = down ? 1 : -1;
        least = Math.Abs(d[from]);
        ref double end = ref e[down ? last - 1 : first];
        if (Math.Abs(end) <= tolerance * Math.Abs(d[down ? last : first]))
        {
            end = 0;
            return true;
        }
        double mu = least;
        for (int i = from; i != (down ? last : first); i += step)
        {
            ref double off = ref e[down ? i : i - 1];
            if (Math.Abs(off) <= tolerance * mu)
            {
                off = 0;
                return true;
            }
            mu = Math.Abs(d[i + step]) * (mu / (mu + Math.Abs(off)));
            least = Math.Min(least, mu);
        }
        return false;
    }

    private double Shift(int first, int last, bool down, double least, double largest)
    {
        if (d.Length * tolerance * (least / largest) <= Math.Max(precision, 0.01 * tolerance))
        {
            return 0;
        }
        double start = Math.Abs(d[down ? first : last]);
        double shift = down
            ? PlaneRotation.SmallerSingularValue(d[last - 1], e[last - 1], d[last])
            : PlaneRotation.SmallerSingularValue(d[first], e[first], d[first + 1]);
        double ratio = start > 0 ? shift / start : 0;
        return start > 0 && ratio * ratio < precision ? 0 : shift;
    }

    /// <summary>One sweep; upwards it is the sweep of the transposed matrix read from its end, so left and right change places.</summary>
    private void Sweep(int first, int last, bool down, double shift)
    {
        Rotations<T> leading = down ? right : left, following = down ? left : right;
        leading.Begin(first, last - first, down);
        following.Begin(first, last - first, down);
        int step = down ? 1 : -1, from = down ? first : last, to = down ? last : first;
        double sign = step;     // of a sine: a pair turned the other way round
        if (shift == 0)
        {
            double c = 1, oldC = 1, s = 0, oldS = 0;
            for (int i = from; i != to; i += step)
            {
                (c, s, double r) = PlaneRotation.Make(d[i] * c, e[Beside(i, step)]);
                if (i != from)
                {
                    e[Beside(i - step, step)] = oldS * r;
                }
                (oldC, oldS, d[i]) = PlaneRotation.Make(oldC * r, d[i + step] * s);
                Set(leading, i, step, first, c, sign * s);
                Set(following, i, step, first, oldC, sign * oldS);
            }
            double h = d[to] * c;
            d[to] = h * oldC;
            e[Beside(to - step, step)] = h * oldS;
        }
        else
        {
            double f = (Math.Abs(d[from]) - shift) * (Math.CopySign(1, d[from]) + (shift / d[from])), g = e[Beside(from, step)];
            for (int i = from; i != to; i += step)
            {
                int off = Beside(i, step);
                (double c, double s, double r) = PlaneRotation.Make(f, g);
                if (i != from)
                {
                    e[Beside(i - step, step)] = r;
                }
                f = (c * d[i]) + (s * e[off]);
                e[off] = (c * e[off]) - (s * d[i]);
                g = s * d[i + step];
                d[i + step] = c * d[i + step];
                (double c2, double s2, d[i]) = PlaneRotation.Make(f, g);
                f = (c2 * e[off]) + (s2 * d[i + step]);
                d[i + step] = (c2 * d[i + step]) - (s2 * e[off]);
                if (i + step != to)
                {
                    ref double next = ref e[Beside(i + step, step)];
                    g = s2 * next;
                    next = c2 * next;
                }
                Set(leading, i, step, first, c, sign * s);
                Set(following, i, step, first, c2, sign * s2);
            }
            e[Beside(to - step, step)] = f;
        }
        ref double end = ref e[Beside(to - step, step)];
        end = Math.Abs(end) <= threshold ? 0 : end;
    }

    /// <summary>Where the element between i and i + step stands.</summary>
    private static int Beside(int i, int step) => step > 0 ? i : i - 1;

    private static void Set(Rotations<T> chain, int i, int step, int first, double c, double s) => chain.Set(Beside(i, step) - first, c, s);
}
