namespace LowRank;

/// <summary>Float64 specifications of alternating least squares; formulas and shapes stand in lowrank.h. Rows are independent, so they run side by side.</summary>
internal static class AlsReferences
{
    private const int Together = 16;
    private static readonly double[] Extra = [0, 1e-6, 1e-4];

    public static void Solve(in AlsArgs args)
    {
        AlsArgs p = args;
        ByRow(p, (i, a, b) =>
        {
            var (x, flags) = (new Elements(p.X, p.DType), new Elements(p.Flags, DType.I32));
            double ridge = p.Ridge * (p.Weighted != 0 ? b.Length : 1);
            double[] z = new double[p.R];
            int flag = 0;
            if (b.Length > 0 && b.Length < p.DirectBelow)
            {
                flag = Direct(a, b, ridge, p.Thin, z);
            }
            else if (b.Length > 0)
            {
                for (int j = 0; j < p.R; j++)
                {
                    z[j] = x[((long)i * p.R) + j];
                }
                Gradients(p, a, b, ridge, z);
            }
            for (int j = 0; j < p.R; j++)
            {
                x[((long)i * p.R) + j] = z[j];
            }
            flags[i] = flag;
        });
    }

    public static void Product(in AlsArgs args)
    {
        AlsArgs p = args;
        ByRow(p, (i, a, b) =>
        {
            var x = new Elements(p.X, p.DType);
            for (int j = 0; j < p.R; j++)
            {
                x[((long)i * p.R) + j] = Down(a, b, p.R, j);
            }
        });
    }

    public static void Loss(in AlsArgs args)
    {
        AlsArgs p = args;
        ByRow(p, (i, a, b) =>
        {
            var (x, losses) = (new Elements(p.X, p.DType), new Elements(p.Losses, p.DType));
            double total = 0;
            for (int t = 0; t < b.Length; t++)
            {
                double error = b[t];
                for (int j = 0; j < p.R; j++)
                {
                    error -= a[(t * p.R) + j] * x[((long)i * p.R) + j];
                }
                total += error * error;
            }
            losses[i] = total;
        });
    }

    /// <summary>The body gets a row, its A [count,r] and its b [count].</summary>
    private static void ByRow(AlsArgs p, Action<int, double[], double[]> body) => Pool.For((p.Rows + Together - 1) / Together, chunk =>
    {
        var (y, starts, columns, values) = (new Elements(p.Y, p.DType), new Elements(p.Starts, DType.I64), new Elements(p.Columns, DType.I32), new Elements(p.Values, p.DType));
        for (int i = chunk * Together; i < Math.Min(p.Rows, (chunk + 1) * Together); i++)
        {
            long first = (long)starts[i];
            double[] b = new double[(long)starts[i + 1] - first], a = new double[b.LongLength * p.R];
            for (int t = 0; t < b.Length; t++)
            {
                b[t] = values[first + t];
                long row = (long)columns[first + t] * p.R;
                for (int j = 0; j < p.R; j++)
                {
                    a[(t * p.R) + j] = y[row + j];
                }
            }
            body(i, a, b);
        }
    });

    /// <summary>Σ_t b[t]·a[t,j].</summary>
    private static double Down(double[] a, double[] b, int r, int j)
    {
        double total = 0;
        for (int t = 0; t < b.Length; t++)
        {
            total += b[t] * a[(t * r) + j];
        }
        return total;
    }

    private static int Direct(double[] a, double[] b, double ridge, double thin, double[] z)
    {
        int r = z.Length;
        var normal = new double[r * r];
        double trace = 0;
        for (int i = 0; i < r; i++)
        {
            for (int j = 0; j <= i; j++)
            {
                double total = 0;
                for (int t = 0; t < b.Length; t++)
                {
                    total += a[(t * r) + i] * a[(t * r) + j];
                }
                normal[(i * r) + j] = total;
            }
            trace += normal[(i * r) + i];
        }
        double least = b.Length < 2 * r ? thin * trace / r : 0;
        foreach (double extra in Extra)
        {
            var l = (double[])normal.Clone();
            for (int i = 0; i < r; i++)
            {
                l[(i * r) + i] += Math.Max(ridge, least) + (extra * trace / r);
            }
            if (Factor(l, r))
            {
                Substitute(l, r, j => Down(a, b, r, j), z);
                return extra > 0 ? 1 : 0;
            }
        }
        Array.Clear(z);
        return 2;
    }

    private static bool Factor(double[] l, int r)
    {
        for (int j = 0; j < r; j++)
        {
            for (int i = j; i < r; i++)
            {
                double left = l[(i * r) + j];
                for (int k = 0; k < j; k++)
                {
                    left -= l[(i * r) + k] * l[(j * r) + k];
                }
                if (i == j && !(left > 0 && double.IsFinite(left)))
                {
                    return false;
                }
                l[(i * r) + j] = i == j ? Math.Sqrt(left) : left / l[(j * r) + j];
            }
        }
        return true;
    }

    private static void Substitute(double[] l, int r, Func<int, double> right, double[] z)
    {
        for (int i = 0; i < r; i++)
        {
            double left = right(i);
            for (int k = 0; k < i; k++)
            {
                left -= l[(i * r) + k] * z[k];
            }
            z[i] = left / l[(i * r) + i];
        }
        for (int i = r - 1; i >= 0; i--)
        {
            for (int k = i + 1; k < r; k++)
            {
                z[i] -= l[(k * r) + i] * z[k];
            }
            z[i] /= l[(i * r) + i];
        }
    }

    private static void Gradients(in AlsArgs p, double[] a, double[] b, double ridge, double[] x)
    {
        int r = p.R;
        double[] rest = (double[])b.Clone(), q = new double[b.Length], slope = new double[r];
        for (int t = 0; t < b.Length; t++)
        {
            rest[t] -= Across(a, t, x);
        }
        double Slope()
        {
            double total = 0;
            for (int j = 0; j < r; j++)
            {
                slope[j] = Down(a, rest, r, j) - (ridge * x[j]);
                total += slope[j] * slope[j];
            }
            return total;
        }
        double gamma = Slope(), stop = p.Stop * p.Stop * Squares(a) * Squares(b), enough = p.Reduction * p.Reduction * gamma;
        var move = (double[])slope.Clone();
        for (int step = 0; step < p.Steps && gamma > stop && gamma > enough; step++)
        {
            double curve = ridge * Squares(move);
            for (int t = 0; t < q.Length; t++)
            {
                q[t] = Across(a, t, move);
                curve += q[t] * q[t];
            }
            if (!(curve > 0))
            {
                return;
            }
            double length = gamma / curve;
            for (int j = 0; j < r; j++)
            {
                x[j] += length * move[j];
            }
            for (int t = 0; t < q.Length; t++)
            {
                rest[t] -= length * q[t];
            }
            double next = Slope(), turn = next / gamma;
            for (int j = 0; j < r; j++)
            {
                move[j] = slope[j] + (turn * move[j]);
            }
            gamma = next;
        }
    }

    /// <summary>Σ_j a[t,j]·x[j].</summary>
    private static double Across(double[] a, int t, double[] x)
    {
        double total = 0;
        for (int j = 0; j < x.Length; j++)
        {
            total += a[(t * x.Length) + j] * x[j];
        }
        return total;
    }

    private static double Squares(double[] x)
    {
        double total = 0;
        foreach (double value in x)
        {
            total += value * value;
        }
        return total;
    }
}
