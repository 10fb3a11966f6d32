namespace LowRank;

/// <summary>Float64 specifications of the elementwise and norm kernels; formulas and shapes stand in lowrank.h.</summary>
internal static class PointwiseReferences
{
    private const double GeluC = 0.044715;
    private static readonly double SqrtTwoOverPi = Math.Sqrt(2 / Math.PI);

    public static KernelReference<UnaryArgs> Unary(Func<double, double> f) => (in UnaryArgs p) =>
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = f(x[i]);
        }
    };

    public static KernelReference<UnaryGradArgs> UnaryGrad(Func<double, double> derivative) => (in UnaryGradArgs p) =>
    {
        var (x, dy, dx) = (new Elements(p.X, p.DType), new Elements(p.Dy, p.DType), new Elements(p.Dx, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            dx.Put(i, dy[i] * derivative(x[i]), p.Add, 0);
        }
    };

    public static double Gelu(double x) => 0.5 * x * (1 + Erf(x / Math.Sqrt(2)));

    public static double GeluSlope(double x) => (0.5 * (1 + Erf(x / Math.Sqrt(2)))) + (x * Math.Exp(-0.5 * x * x) / Math.Sqrt(2 * Math.PI));

    public static double GeluTanh(double x) => 0.5 * x * (1 + Math.Tanh(SqrtTwoOverPi * (x + (GeluC * x * x * x))));

    public static double GeluTanhSlope(double x)
    {
        double t = Math.Tanh(SqrtTwoOverPi * (x + (GeluC * x * x * x)));
        return (0.5 * (1 + t)) + (0.5 * x * (1 - (t * t)) * SqrtTwoOverPi * (1 + (3 * GeluC * x * x)));
    }

    /// <summary>z = cap·tanh(x/cap); x where there is no cap.</summary>
    public static double Capped(double x, double cap) => cap > 0 ? cap * Math.Tanh(x / cap) : x;

    /// <summary>dz/dx by z.</summary>
    public static double CapSlope(double z, double cap) => cap > 0 ? (1 - (z / cap)) * (1 + (z / cap)) : 1;

    public static double TanhSlope(double x) => 1 - (Math.Tanh(x) * Math.Tanh(x));

    public static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));

    public static double SigmoidSlope(double x) => Sigmoid(x) * (1 - Sigmoid(x));

    public static double Silu(double x) => x * Sigmoid(x);

    public static double SiluSlope(double x) => Sigmoid(x) * (1 + (x * (1 - Sigmoid(x))));

    public static double QuickGelu(double x) => x * Sigmoid(1.702 * x);

    public static double QuickGeluSlope(double x) => Sigmoid(1.702 * x) * (1 + (1.702 * x * (1 - Sigmoid(1.702 * x))));

    public static KernelReference<BinaryArgs> Gated(Func<double, double> f) => (in BinaryArgs p) =>
    {
        var (x, z, y) = (new Elements(p.X, p.DType), new Elements(p.Z, p.ZType), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = f(x[i]) * z[i];
        }
    };

    public static KernelReference<BinaryGradArgs> GatedGrad(Func<double, double> f, Func<double, double> derivative) => (in BinaryGradArgs p) =>
    {
        var (x, z, dy) = (new Elements(p.X, p.DType), new Elements(p.Z, p.ZType), new Elements(p.Dy, p.DType));
        var (dx, dz) = (new Elements(p.Dx, p.DType), new Elements(p.Dz, p.ZType));
        for (long i = 0; i < p.Count; i++)
        {
            double gate = x[i], up = dy[i], other = z[i];
            if (dx.Present)
            {
                dx.Put(i, up * other * derivative(gate), p.Add, 0);
            }
            if (dz.Present)
            {
                dz.Put(i, up * f(gate), p.Add, 1);
            }
        }
    };

    /// <summary>erf by the all-positive series 2/√π e^(-x²) Σ 2^n x^(2n+1)/(1·3·…·(2n+1)), full precision below 6 and ±1 above.</summary>
    public static double Erf(double x)
    {
        if (double.IsNaN(x) || Math.Abs(x) > 6)
        {
            return double.IsNaN(x) ? x : Math.Sign(x);
        }
        double term = x, sum = x;
        for (int n = 1; Math.Abs(term) > 1e-17 * Math.Abs(sum); n++)
        {
            term *= 2 * x * x / ((2 * n) + 1);
            sum += term;
        }
        return 2 / Math.Sqrt(Math.PI) * Math.Exp(-x * x) * sum;
    }

    public static void AddForward(in BinaryArgs p)
    {
        var (x, z, y) = (new Elements(p.X, p.DType), new Elements(p.Z, p.ZType), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = x[i] + (p.Alpha * z[i % p.Period]);
        }
    }

    public static void AddBackward(in BinaryGradArgs p)
    {
        var (dy, dx, dz) = (new Elements(p.Dy, p.DType), new Elements(p.Dx, p.DType), new Elements(p.Dz, p.ZType));
        for (long i = 0; dx.Present && i < p.Count; i++)
        {
            dx.Put(i, dy[i], p.Add, 0);
        }
        SumPeriods(p, dz, i => dy[i]);
    }

    public static void MulForward(in BinaryArgs p)
    {
        var (x, z, y) = (new Elements(p.X, p.DType), new Elements(p.Z, p.ZType), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = x[i] * z[i % p.Period];
        }
    }

    public static void MulBackward(in BinaryGradArgs p)
    {
        var (x, z, dy) = (new Elements(p.X, p.DType), new Elements(p.Z, p.ZType), new Elements(p.Dy, p.DType));
        var (dx, dz) = (new Elements(p.Dx, p.DType), new Elements(p.Dz, p.ZType));
        for (long i = 0; dx.Present && i < p.Count; i++)
        {
            dx.Put(i, dy[i] * z[i % p.Period], p.Add, 0);
        }
        SumPeriods(p, dz, i => dy[i] * x[i]);
    }

    public static void ScaleRowsForward(in ScaleRowsArgs p)
    {
        var (x, c, y) = (new Elements(p.X, p.DType), MatrixReferences.Param(p.C, p.DType), new Elements(p.Y, p.DType));
        for (long i = 0; i < (long)p.Rows * p.Cols; i++)
        {
            y[i] = c[i / p.Cols] * x[i];
        }
    }

    public static void ScaleRowsBackward(in ScaleRowsGradArgs p)
    {
        var (x, c, dy) = (new Elements(p.X, p.DType), MatrixReferences.Param(p.C, p.DType), new Elements(p.Dy, p.DType));
        var (dx, dc) = (new Elements(p.Dx, p.DType), MatrixReferences.Param(p.Dc, p.DType));
        for (int i = 0; i < p.Rows; i++)
        {
            double sum = 0;
            for (int j = 0; j < p.Cols; j++)
            {
                long at = ((long)i * p.Cols) + j;
                sum += dy[at] * x[at];
                dx.Put(at, c[i] * dy[at], p.Add, 0);
            }
            dc.Put(i, sum, p.Add, 1);
        }
    }

    public static void Dropout(in DropoutArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y.Put(i, Philox.Uniform(p.Seed, p.Stream, i) >= (float)p.P ? x[i] / (1 - p.P) : 0, p.Add, 0);
        }
    }

    public static void Convert(in ConvertArgs p)
    {
        var (x, y) = (new Elements(p.X, p.From), new Elements(p.Y, p.To));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = x[i];
        }
    }

    public static void Fill(in FillArgs p)
    {
        var y = new Elements(p.Y, p.DType);
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = p.Value;
        }
    }

    public static void LayerNormForward(in LayerNormArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        var (weight, bias, stats) = (MatrixReferences.Param(p.Weight, p.DType), MatrixReferences.Param(p.Bias, p.DType), MatrixReferences.Param(p.Stats, p.DType));
        for (int i = 0; i < p.Rows; i++)
        {
            long row = (long)i * p.Cols;
            double mean = 0, variance = 0;
            for (int j = 0; j < p.Cols; j++)
            {
                mean += p.Rms != 0 ? 0 : x[row + j] / p.Cols;
            }
            for (int j = 0; j < p.Cols; j++)
            {
                variance += (x[row + j] - mean) * (x[row + j] - mean) / p.Cols;
            }
            double rstd = 1 / Math.Sqrt(variance + p.Eps);
            for (int j = 0; j < p.Cols; j++)
            {
                y[row + j] = ((x[row + j] - mean) * rstd * (weight.Present ? weight[j] : 1)) + (bias.Present ? bias[j] : 0);
            }
            stats[2 * i] = mean;
            stats[(2 * i) + 1] = rstd;
        }
    }

    public static void LayerNormBackward(in LayerNormGradArgs p)
    {
        var (x, dy, dx) = (new Elements(p.X, p.DType), new Elements(p.Dy, p.DType), new Elements(p.Dx, p.DType));
        var (weight, stats) = (MatrixReferences.Param(p.Weight, p.DType), MatrixReferences.Param(p.Stats, p.DType));
        var (dweight, dbias) = (MatrixReferences.Param(p.Dweight, p.DType), MatrixReferences.Param(p.Dbias, p.DType));
        var (sumWeight, sumBias) = (new double[p.Cols], new double[p.Cols]);
        for (int i = 0; i < p.Rows; i++)
        {
            long row = (long)i * p.Cols;
            double mean = stats[2 * i], rstd = stats[(2 * i) + 1], g1 = 0, g2 = 0;
            for (int j = 0; j < p.Cols; j++)
            {
                double hat = (x[row + j] - mean) * rstd, g = dy[row + j] * (weight.Present ? weight[j] : 1);
                g1 += p.Rms != 0 ? 0 : g / p.Cols;
                g2 += g * hat / p.Cols;
                sumWeight[j] += dy[row + j] * hat;
                sumBias[j] += dy[row + j];
            }
            for (int j = 0; dx.Present && j < p.Cols; j++)
            {
                double hat = (x[row + j] - mean) * rstd, g = dy[row + j] * (weight.Present ? weight[j] : 1);
                dx.Put(row + j, rstd * (g - g1 - (hat * g2)), p.Add, 0);
            }
        }
        for (int j = 0; j < p.Cols; j++)
        {
            dweight.Put(j, sumWeight[j], p.Add, 1);
            dbias.Put(j, sumBias[j], p.Add, 2);
        }
    }

    private static void SumPeriods(in BinaryGradArgs p, Elements dz, Func<long, double> part)
    {
        for (long j = 0; dz.Present && j < p.Period; j++)
        {
            double sum = 0;
            for (long i = j; i < p.Count; i += p.Period)
            {
                sum += part(i);
            }
            dz.Put(j, p.Alpha * sum, p.Add, 1);
        }
    }
}
