namespace LowRank;

/// <summary>Float64 specifications of SNELL and of SoRA's threshold; formulas stand in lowrank.h.</summary>
internal static unsafe class SnellReferences
{
    public static void Select(in SnellSelectArgs a)
    {
        var tables = new Tables(a.P, a.Q, a.DType, a.N, a.K, a.R, a.Scale, a.Norm);
        var sizes = new double[checked((long)a.N * a.K)];
        for (int i = 0; i < a.K; i++)
        {
            for (int o = 0; o < a.N; o++)
            {
                sizes[((long)i * a.N) + o] = Math.Abs(tables.Distance(i, o));
            }
        }
        Array.Sort(sizes);
        var tau = new Elements(a.Tau, a.DType);
        double low = sizes[a.Rank], high = sizes[Math.Min(a.Rank + 1, sizes.Length - 1)];
        tau[0] = double.IsFinite(sizes[^1]) && !double.IsNaN(sizes[0]) ? low + (a.Fraction * (high - low)) : double.NaN;
    }

    public static void Forward(in SnellArgs a)
    {
        DType parameters = a.DType.ForParameters();
        var tables = new Tables(a.P, a.Q, parameters, a.N, a.K, a.R, a.Scale, a.Norm);
        var (w, tau) = (new Matrix(a.W, a.WType, a.WLayout, a.N, a.K), new Elements(a.Tau, parameters)[0]);
        var (x, bias, y) = (new Elements(a.X, a.DType), new Elements(a.Bias, parameters), new Elements(a.Y, a.DType));
        var sums = new double[a.X == 0 ? 0 : a.Tokens];
        for (int o = 0; o < a.N; o++)
        {
            Array.Fill(sums, bias.Present ? bias[o] : 0);
            for (int i = 0; i < a.K; i++)
            {
                double d = tables.Distance(i, o), weight = (a.W == 0 ? 0 : w[o, i]) + (d * Factor(a.Mode, tau, d));
                for (int t = 0; t < sums.Length; t++)
                {
                    sums[t] += x[((long)t * a.K) + i] * weight;
                }
                if (a.X == 0)
                {
                    y[((long)o * a.K) + i] = weight;
                }
            }
            for (int t = 0; t < sums.Length; t++)
            {
                y[((long)t * a.N) + o] = sums[t];
            }
        }
    }

    public static void Backward(in SnellGradArgs a)
    {
        DType parameters = a.DType.ForParameters();
        var tables = new Tables(a.P, a.Q, parameters, a.N, a.K, a.R, a.Scale, a.Norm);
        var (w, tau) = (new Matrix(a.W, a.WType, a.WLayout, a.N, a.K), new Elements(a.Tau, parameters)[0]);
        var (x, dy, dx, dbias) = (new Elements(a.X, a.DType), new Elements(a.Dy, a.DType), new Elements(a.Dx, a.DType), new Elements(a.Dbias, parameters));
        double[] dxs = new double[dx.Present ? (long)a.Tokens * a.K : 0], dp = new double[2L * a.K * a.R], dq = new double[2L * a.N * a.R];
        for (int o = 0; o < a.N; o++)
        {
            for (int i = 0; i < a.K; i++)
            {
                double d = tables.Distance(i, o), factor = Factor(a.Mode, tau, d), weight = (a.W == 0 ? 0 : w[o, i]) + (d * factor);
                double sum = x.Present ? 0 : dy[((long)o * a.K) + i];
                for (int t = 0; x.Present && t < a.Tokens; t++)
                {
                    double up = dy[((long)t * a.N) + o];
                    sum += x[((long)t * a.K) + i] * up;
                    if (dxs.Length > 0)
                    {
                        dxs[((long)t * a.K) + i] += up * weight;
                    }
                }
                tables.AddGradients(i, o, sum * factor, dp, dq);
            }
        }
        Put(dxs, dx, a.Add, 0);
        Put(dp, new Elements(a.Dp, parameters), a.Add, 1);
        Put(dq, new Elements(a.Dq, parameters), a.Add, 2);
        for (int o = 0; dbias.Present && o < a.N; o++)
        {
            double sum = 0;
            for (int t = 0; t < a.Tokens; t++)
            {
                sum += dy[((long)t * a.N) + o];
            }
            dbias.Put(o, sum, a.Add, 3);
        }
    }

    public static void GateThreshold(in GateThresholdArgs a)
    {
        var g = new Elements(a.G, a.DType);
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)a.Segments, a.SegmentCount))
        {
            for (long i = s.Start; i < s.Start + s.Count; i++)
            {
                double before = g[i], moved = before > a.Level ? before - a.Level : before < -a.Level ? before + a.Level : before;
                g[i] = (a.Paper != 0 ? Math.Abs(before) <= a.Level : Math.Abs(moved) < a.Level) ? 0 : moved;
            }
        }
    }

    private static void Put(double[] from, Elements to, uint add, int bit)
    {
        for (long i = 0; to.Present && i < from.LongLength; i++)
        {
            to.Put(i, from[i], add, bit);
        }
    }

    private static double Factor(SnellMode mode, double tau, double d)
    {
        double size = Math.Abs(d);
        return mode == SnellMode.Distances ? 1 : size <= tau ? 0 : mode == SnellMode.PaperSoft ? size - tau : size;
    }

    private readonly struct Tables(nint p, nint q, DType type, int n, int k, int r, double scale, double norm)
    {
        private readonly Elements p = new(p, type), q = new(q, type);

        public double Distance(int i, int o) => scale * (Distance(0, i, o) - Distance(1, i, o));

        /// <summary>Adds dD·dD[i,o]/dP and /dQ.</summary>
        public void AddGradients(int i, int o, double dd, double[] dp, double[] dq)
        {
            for (int h = 0; h < 2; h++)
            {
                double d = Distance(h, i, o), share = (h == 0 ? scale : -scale) * dd;
                for (int c = 0; c < r && d > 0; c++)
                {
                    double z = Difference(h, i, o, c), u = z == 0 ? 0 : Math.Sign(z) * Math.Pow(Math.Abs(z) / d, norm - 1);
                    dp[((((long)h * k) + i) * r) + c] += share * u;
                    dq[((((long)h * n) + o) * r) + c] -= share * u;
                }
            }
        }

        private double Difference(int h, int i, int o, int c) => p[((((long)h * k) + i) * r) + c] - q[((((long)h * n) + o) * r) + c];

        private double Distance(int h, int i, int o)
        {
            double sum = 0;
            for (int c = 0; c < r; c++)
            {
                double z = Difference(h, i, o, c);
                sum += norm == 2 ? z * z : Math.Pow(Math.Abs(z), norm);
            }
            return norm == 2 ? Math.Sqrt(sum) : Math.Pow(sum, 1 / norm);
        }
    }
}
