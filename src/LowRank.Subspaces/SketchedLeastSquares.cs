namespace LowRank.Subspaces;

/// <summary>A sparse sign sketch S [sketchRows, rows]: column i has ±1/√ζ at ζ different rows (OSNAP, Nelson and Nguyen 2013).</summary>
/// <param name="SketchRows">Rows of S.</param>
/// <param name="Places">The ζ rows of every column; [rows, ζ].</param>
/// <param name="Weights">The values there; [rows, ζ].</param>
public sealed record SparseSketch(int SketchRows, int[] Places, double[] Weights)
{
    /// <summary>Draws one.</summary>
    /// <param name="rows">Columns of S: rows of what is sketched.</param>
    /// <param name="sketchRows">s: 4 to 8 times the unknowns.</param>
    /// <param name="nonZeros">ζ, at most s.</param>
    /// <param name="rng">Draws.</param>
    public static SparseSketch Draw(int rows, int sketchRows, int nonZeros, Rng rng)
    {
        if (rows < 1 || nonZeros < 1 || sketchRows < nonZeros)
        {
            throw new ShapeException($"SparseSketch: {rows} rows, {sketchRows} sketch rows and {nonZeros} non-zeros, want at least 1 of each and no more non-zeros than sketch rows");
        }
        int[] places = new int[rows * nonZeros];
        double[] weights = new double[rows * nonZeros];
        for (int i = 0; i < rows; i++)
        {
            Span<int> mine = places.AsSpan(i * nonZeros, nonZeros);
            for (int z = 0; z < nonZeros; z++)
            {
                do
                {
                    mine[z] = rng.Below(sketchRows);
                }
                while (mine[..z].Contains(mine[z]));
                weights[(i * nonZeros) + z] = (rng.Below(2) == 0 ? -1 : 1) / Math.Sqrt(nonZeros);
            }
        }
        return new SparseSketch(sketchRows, places, weights);
    }

    /// <summary>S·a for a [rows, cols].</summary>
    internal double[] Times(ReadOnlySpan<double> a, int rows, int cols)
    {
        int nonZeros = Places.Length / rows;
        var sketched = new double[SketchRows * cols];
        for (int i = 0; i < Places.Length; i++)
        {
            for (int j = 0; j < cols; j++)
            {
                sketched[(Places[i] * cols) + j] += Weights[i] * a[(i / nonZeros * cols) + j];
            }
        }
        return sketched;
    }
}

/// <summary>min ‖A·x − b‖ for tall A [n,k] in float64 by iterations on A·R⁻¹, whose condition is small whatever A's, R from the QR decomposition of a
/// sketch S·A (arXiv 2302.11068; Rokhlin and Tygert 2008): cond(A·R⁻¹) ≤ (1 + √(k/s))/(1 − √(k/s)), 3 for s = 4k.</summary>
public sealed class SketchedLeastSquares
{
    private readonly double[] a, factor, start;     // [n,k] [k,k] [k]: Qᵀ·S·b
    private readonly double[] b;
    private readonly int n, k;

    /// <summary>Sketches a system.</summary>
    /// <param name="a">A [n,k], row by row.</param>
    /// <param name="b">b [n].</param>
    /// <param name="k">Unknowns.</param>
    /// <param name="sketch">S for n rows.</param>
    /// <param name="ridge">Of ‖x‖², 0 or more: √ridge·I is put below A, and below S·A as it is.</param>
    /// <exception cref="ShapeException">Sizes do not fit.</exception>
    /// <exception cref="NumericException">A value is not finite.</exception>
    public SketchedLeastSquares(double[] a, double[] b, int k, SparseSketch sketch, double ridge = 0)
    {
        if (k < 1 || a.Length != (long)b.Length * k || sketch.Places.Length % Math.Max(1, b.Length) != 0 || sketch.SketchRows < k || !(ridge >= 0))
        {
            throw new ShapeException($"SketchedLeastSquares: A has {a.Length} values, b {b.Length}, k is {k}, the sketch {sketch.SketchRows} rows and the ridge {ridge}, want A [b's length, k], at least k sketch rows and a ridge of 0 or more");
        }
        (this.k, n) = (k, b.Length + (ridge > 0 ? k : 0));
        double[] sa = sketch.Times(a, b.Length, k), sb = sketch.Times(b, b.Length, 1);
        if (ridge > 0)
        {
            double[] below = new double[k * k];
            for (int j = 0; j < k; j++)
            {
                below[(j * k) + j] = Math.Sqrt(ridge);
            }
            (a, b, sa, sb) = ([.. a, .. below], [.. b, .. new double[k]], [.. sa, .. below], [.. sb, .. new double[k]]);
        }
        (this.a, this.b) = (a, b);
        double[] q = new double[sa.Length];
        factor = new double[k * k];
        Qr.Of(sa.AsMatrix(sb.Length, k), q.AsMatrix(sb.Length, k), factor.AsMatrix(k, k));
        start = new double[k];
        for (int j = 0; j < k; j++)
        {
            double sign = factor[(j * k) + j] < 0 ? -1 : 1;      // a positive diagonal makes the factor unique
            for (int c = j; c < k; c++)
            {
                factor[(j * k) + c] *= sign;
            }
            for (int t = 0; t < sb.Length; t++)
            {
                start[j] += sign * q[(t * k) + j] * sb[t];
            }
        }
    }

    /// <summary>R [k,k], upper triangular with a positive diagonal.</summary>
    public IReadOnlyList<double> Factor => factor;

    /// <summary>The solution of the sketched system, R⁻¹·Qᵀ·S·b.</summary>
    public double[] SketchedSolution() => Back(start);

    /// <summary>Conjugate gradients on A·R⁻¹ from x or from <see cref="SketchedSolution"/>; at most <paramref name="steps"/>, fewer where the rest is rounding.
    /// The error of A·x falls by about 1/2 a step.</summary>
    /// <param name="steps">Iterations.</param>
    /// <param name="x">Where to start; null: the sketched solution.</param>
    /// <param name="each">Sees x after each step.</param>
    public double[] Gradients(int steps, double[]? x = null, Action<double[]>? each = null)
    {
        double[] y = x is null ? [.. start] : Forward(x), rest = Rest(y), slope = Slope(rest), move = [.. slope];
        double gamma = Dot(slope, slope), stop = 1e-26 * k * Dot(b, b);      // ‖A·R⁻¹‖_F² is about k
        for (int step = 0; step < steps && gamma > stop; step++)
        {
            double[] q = Image(move);
            double length = gamma / Dot(q, q);
            for (int j = 0; j < k; j++)
            {
                y[j] += length * move[j];
            }
            for (int t = 0; t < n; t++)
            {
                rest[t] -= length * q[t];
            }
            slope = Slope(rest);
            double next = Dot(slope, slope);
            for (int j = 0; j < k; j++)
            {
                move[j] = slope[j] + (next / gamma * move[j]);
            }
            gamma = next;
            each?.Invoke(Back(y));
        }
        return Back(y);
    }

    /// <summary>The damped fixed point x += ω·R⁻¹·R⁻ᵀ·Aᵀ·(b − A·x) from the sketched solution with <see cref="Damping"/>; undamped it diverges below s = 12k.</summary>
    /// <param name="steps">Iterations.</param>
    /// <param name="each">Sees x after each step.</param>
    public double[] FixedPoint(int steps, Action<double[]>? each = null)
    {
        double omega = Damping();
        double[] y = [.. start];
        for (int step = 0; step < steps; step++)
        {
            double[] slope = Slope(Rest(y));
            for (int j = 0; j < k; j++)
            {
                y[j] += omega * slope[j];
            }
            each?.Invoke(Back(y));
        }
        return Back(y);
    }

    /// <summary>ω = 2/(σ_min² + σ_max²) for the singular values of A·R⁻¹.</summary>
    public double Damping()
    {
        double[] s = SingularValues();
        return 2 / ((s[^1] * s[^1]) + (s[0] * s[0]));
    }

    /// <summary>cond(A·R⁻¹).</summary>
    public double Condition()
    {
        double[] s = SingularValues();
        return s[0] / s[^1];
    }

    private double[] SingularValues()
    {
        using Device device = Device.Cpu();
        using Scope scope = device.NewStore();
        var image = new double[n * k];
        for (int j = 0; j < k; j++)
        {
            double[] unit = new double[k];
            unit[j] = 1;
            double[] column = Image(unit);
            for (int t = 0; t < n; t++)
            {
                image[(t * k) + j] = column[t];
            }
        }
        return Svd.Of(scope.Of([n, k], image, DType.F64), scope).S.ToDoubles();
    }

    /// <summary>A·R⁻¹·y.</summary>
    private double[] Image(double[] y)
    {
        double[] x = Back(y), image = new double[n];
        for (int t = 0; t < n; t++)
        {
            image[t] = Dot(a.AsSpan(t * k, k), x);
        }
        return image;
    }

    private double[] Rest(double[] y)
    {
        double[] rest = Image(y);
        for (int t = 0; t < n; t++)
        {
            rest[t] = b[t] - rest[t];
        }
        return rest;
    }

    /// <summary>R⁻ᵀ·Aᵀ·rest.</summary>
    private double[] Slope(double[] rest)
    {
        var slope = new double[k];
        for (int t = 0; t < n; t++)
        {
            for (int j = 0; j < k; j++)
            {
                slope[j] += rest[t] * a[(t * k) + j];
            }
        }
        for (int i = 0; i < k; i++)
        {
            for (int j = 0; j < i; j++)
            {
                slope[i] -= factor[(j * k) + i] * slope[j];
            }
            slope[i] = factor[(i * k) + i] == 0 ? 0 : slope[i] / factor[(i * k) + i];
        }
        return slope;
    }

    /// <summary>R·x.</summary>
    private double[] Forward(double[] x)
    {
        var y = new double[k];
        for (int i = 0; i < k; i++)
        {
            y[i] = Dot(factor.AsSpan(i * k, k), x);
        }
        return y;
    }

    /// <summary>R⁻¹·y; a direction that A does not have gets 0.</summary>
    private double[] Back(double[] y)
    {
        double[] x = [.. y];
        for (int i = k - 1; i >= 0; i--)
        {
            for (int j = i + 1; j < k; j++)
            {
                x[i] -= factor[(i * k) + j] * x[j];
            }
            x[i] = factor[(i * k) + i] == 0 ? 0 : x[i] / factor[(i * k) + i];
        }
        return x;
    }

    private static double Dot(ReadOnlySpan<double> x, ReadOnlySpan<double> y)
    {
        double total = 0;
        for (int i = 0; i < x.Length; i++)
        {
            total += x[i] * y[i];
        }
        return total;
    }
}
