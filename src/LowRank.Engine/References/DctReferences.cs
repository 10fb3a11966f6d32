namespace LowRank;

/// <summary>Float64 specifications of the cosine transforms; formulas and shapes stand in lowrank.h.</summary>
internal static unsafe class DctReferences
{
    public static void Dct2(in Dct2Args a)
    {
        var (x, y) = (new Elements(a.X, a.DType), new Elements(a.Y, a.DType));
        double[] left = Matrix(a.Rows), right = Matrix(a.Cols), half = new double[(long)a.Rows * a.Cols];
        bool inverse = a.Inverse != 0;
        for (int i = 0; i < a.Rows; i++)
        {
            for (int j = 0; j < a.Cols; j++)
            {
                double sum = 0;
                for (int c = 0; c < a.Cols; c++)
                {
                    sum += x[((long)i * a.Cols) + c] * (inverse ? right[((long)c * a.Cols) + j] : right[((long)j * a.Cols) + c]);
                }
                half[((long)i * a.Cols) + j] = a.Scale * sum;
            }
        }
        for (int i = 0; i < a.Rows; i++)
        {
            for (int j = 0; j < a.Cols; j++)
            {
                double sum = 0;
                for (int r = 0; r < a.Rows; r++)
                {
                    sum += (inverse ? left[((long)r * a.Rows) + i] : left[((long)i * a.Rows) + r]) * half[((long)r * a.Cols) + j];
                }
                y.Put(((long)i * a.Cols) + j, sum, a.Add, 0);
            }
        }
    }

    public static void SparseDct(in SparseDctArgs a)
    {
        DType type = a.DType.ForParameters();
        var (w, values, y) = (new Elements(a.W, type), new Elements(a.A, type), new Elements(a.Y, type));
        long count = (long)a.Rows * a.Cols;
        var sums = new double[count];
        for (int j = 0; j < a.Count; j++)
        {
            Place at = PlaceOf(a.U, a.Loc, type, j, a.Count, a.Rows, a.Cols);
            double value = at.IsNaN ? double.NaN : a.Scale * values[j];
            for (int r = 0; r < a.Rows; r++)
            {
                double row = value * Cosine(a.Rows, at.Row, r);
                for (int c = 0; c < a.Cols; c++)
                {
                    sums[((long)r * a.Cols) + c] += row * Cosine(a.Cols, at.Col, c);
                }
            }
        }
        for (long i = 0; i < count; i++)
        {
            y[i] = w.Present ? w[i] + sums[i] : sums[i];
        }
    }

    public static void SparseDctBackward(in SparseDctGradArgs p)
    {
        DType type = p.DType.ForParameters();
        var (x, dy) = (new Elements(p.X, p.DType), new Elements(p.Dy, p.DType));
        var (values, u, da, du) = (new Elements(p.A, type), new Elements(p.U, type), new Elements(p.Da, type), new Elements(p.Du, type));
        (int tokens, int rows, int cols, double scale) = (p.Tokens, p.Rows, p.Cols, p.Scale);
        for (int j = 0; j < p.Count; j++)
        {
            Place at = PlaceOf(p.U, p.Loc, type, j, p.Count, rows, cols);
            da.Put(j, Spectrum(at.Row, at.Col), p.Add, 0);
            if (!du.Present)
            {
                continue;
            }
            double half = values[j] / 2;
            double down = half * (Spectrum(Math.Min(at.Row + 1, rows - 1), at.Col) - Spectrum(Math.Max(at.Row - 1, 0), at.Col));
            double right = half * (Spectrum(at.Row, Math.Min(at.Col + 1, cols - 1)) - Spectrum(at.Row, Math.Max(at.Col - 1, 0)));
            du.Put(j, Inside(u[j], type) ? (rows - 1) * Math.Clamp(down, -1, 1) : 0, p.Add, 1);
            du.Put(p.Count + j, Inside(u[p.Count + j], type) ? (cols - 1) * Math.Clamp(right, -1, 1) : 0, p.Add, 1);
        }

        double Spectrum(int row, int col)
        {
            double sum = 0;
            for (int t = 0; t < tokens; t++)
            {
                double z = 0, v = 0;
                for (int c = 0; c < cols; c++)
                {
                    z += Cosine(cols, col, c) * x[((long)t * cols) + c];
                }
                if (!dy.Present)
                {
                    v = Cosine(rows, row, t);
                }
                for (int r = 0; r < rows && dy.Present; r++)
                {
                    v += Cosine(rows, row, r) * dy[((long)t * rows) + r];
                }
                sum += v * z;
            }
            return scale * sum;
        }
    }

    /// <summary>Largest u that is taken as it is: the rounded constant, as the type of u holds it.</summary>
    private static double Limit(DType type) => type == DType.F64 ? 0.999 : 0.999f;

    private static bool Inside(double u, DType type) => u >= 0 && u <= Limit(type);

    private static Place PlaceOf(nint u, nint loc, DType type, int j, int count, int rows, int cols)
    {
        if (loc != 0)
        {
            return new(((int*)loc)[j], ((int*)loc)[count + j], false);
        }
        var values = new Elements(u, type);
        double first = values[j], second = values[count + j];
        return double.IsNaN(first) || double.IsNaN(second) ? new(0, 0, true) : new(On(first, rows), On(second, cols), false);

        int On(double value, int n) => (int)Math.Round(Math.Clamp(value, 0, Limit(type)) * (n - 1), MidpointRounding.ToEven);
    }

    // C_n[i, j]; the angle is reduced in integers, so that it is as exact for large i·j as for small ones.
    private static double Cosine(int n, int i, int j) => Math.Sqrt((i == 0 ? 1.0 : 2.0) / n) * Math.Cos(Math.PI * (i * ((2L * j) + 1) % (4L * n)) / (2.0 * n));

    private static double[] Matrix(int n)
    {
        var c = new double[(long)n * n];
        for (int i = 0; i < n; i++)
        {
            for (int j = 0; j < n; j++)
            {
                c[((long)i * n) + j] = Cosine(n, i, j);
            }
        }
        return c;
    }

    private readonly record struct Place(int Row, int Col, bool IsNaN);
}
