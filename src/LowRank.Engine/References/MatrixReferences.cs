namespace LowRank;

/// <summary>Float64 specifications of the matrix kernels; formulas and shapes stand in lowrank.h.</summary>
internal static class MatrixReferences
{
    public static void Pack(in PackArgs a)
    {
        var (src, dst) = (new Elements(a.Src, a.DType), new Elements(a.Dst, a.DType));
        if (a.Unpack == 0)
        {
            for (long i = 0; i < Matrix.PanelCount(a.N, a.K, a.DType); i++)
            {
                dst[i] = 0;
            }
        }
        for (int i = 0; i < a.N; i++)
        {
            for (int j = 0; j < a.K; j++)
            {
                long rows = ((long)i * a.K) + j, panel = Matrix.PanelIndex(i, j, a.K, a.DType);
                if (a.Unpack == 0)
                {
                    dst[panel] = src[rows];
                }
                else
                {
                    dst[rows] = src[panel];
                }
            }
        }
    }

    public static void Dequantize(in DequantizeArgs a)
    {
        var (w, y) = (new Matrix(a.W, default, a.WLayout, a.N, a.K), new Elements(a.Y, a.DType));
        for (int i = 0; i < a.N; i++)
        {
            for (int j = 0; j < a.K; j++)
            {
                y[((long)i * a.K) + j] = w[i, j];
            }
        }
    }

    public static void LinearForward(in LinearArgs a)
    {
        var (x, w, bias, y) = (new Elements(a.X, a.DType), new Matrix(a.W, a.WType, a.WLayout, a.N, a.K), Param(a.Bias, a.DType), new Elements(a.Y, a.DType));
        for (int i = 0; i < a.Tokens; i++)
        {
            for (int j = 0; j < a.N; j++)
            {
                double sum = bias.Present ? bias[j] : 0;
                for (int c = 0; c < a.K; c++)
                {
                    sum += x[((long)i * a.K) + c] * w[j, c];
                }
                y[((long)i * a.N) + j] = sum;
            }
        }
    }

    public static void LinearBackward(in LinearGradArgs a)
    {
        var (x, w, dy) = (new Elements(a.X, a.DType), new Matrix(a.W, a.WType, a.WLayout, a.N, a.K), new Elements(a.Dy, a.DType));
        var (dx, dw, dbias) = (new Elements(a.Dx, a.DType), new Elements(a.Dw, a.WType), Param(a.Dbias, a.DType));
        for (int i = 0; dx.Present && i < a.Tokens; i++)
        {
            for (int c = 0; c < a.K; c++)
            {
                double sum = 0;
                for (int j = 0; j < a.N; j++)
                {
                    sum += dy[((long)i * a.N) + j] * w[j, c];
                }
                dx.Put(((long)i * a.K) + c, sum, a.Add, 0);
            }
        }
        for (int j = 0; dw.Present && j < a.N; j++)
        {
            for (int c = 0; c < a.K; c++)
            {
                double sum = 0;
                for (int i = 0; i < a.Tokens; i++)
                {
                    sum += dy[((long)i * a.N) + j] * x[((long)i * a.K) + c];
                }
                dw.Put(((long)j * a.K) + c, sum, a.Add, 1);
            }
        }
        ColumnSums(dy, default, dbias, a.Tokens, a.N, a.Add, 2);
    }

    public static void MatMul(in MatMulArgs p)
    {
        var (a, b, c) = (new Elements(p.A, p.DType), new Elements(p.B, p.DType), new Elements(p.C, p.DType));
        for (int i = 0; i < p.M; i++)
        {
            for (int j = 0; j < p.N; j++)
            {
                double sum = 0;
                for (int l = 0; l < p.K; l++)
                {
                    sum += a[p.TransposeA == 0 ? ((long)i * p.K) + l : ((long)l * p.M) + i] * b[p.TransposeB == 0 ? ((long)l * p.N) + j : ((long)j * p.K) + l];
                }
                c.Put(((long)i * p.N) + j, p.Scale * sum, p.Add, 0);
            }
        }
    }

    public static void GatedLinearForward(in GatedLinearArgs p)
    {
        LoraForward(p.GateLayer);
        LoraForward(p.UpLayer);
        PointwiseReferences.Gated(p.Gate == GateFunction.Silu ? PointwiseReferences.Silu : PointwiseReferences.GeluTanh)(p.Product);
    }

    public static void LoraForward(in LoraArgs p)
    {
        var (x, xa, w) = (new Elements(p.X, p.DType), new Elements(p.Xa == 0 ? p.X : p.Xa, p.DType), new Matrix(p.W, p.WType, p.WLayout, p.N, p.K));
        var (a, b, bias, scale) = (Param(p.A, p.DType), Param(p.B, p.DType), Param(p.Bias, p.DType), Param(p.C, p.DType));
        var (y, y0, t) = (new Elements(p.Y, p.DType), new Elements(p.Y0, p.DType), Param(p.T, p.DType));
        for (int i = 0; i < p.Tokens; i++)
        {
            for (int q = 0; q < p.R; q++)
            {
                double sum = 0;
                for (int c = 0; c < p.K; c++)
                {
                    sum += xa[((long)i * p.K) + c] * a[((long)q * p.K) + c];
                }
                t[((long)i * p.R) + q] = p.Scale * sum;
            }
            for (int j = 0; j < p.N; j++)
            {
                double sum = 0;
                for (int c = 0; c < p.K; c++)
                {
                    sum += x[((long)i * p.K) + c] * w[j, c];
                }
                for (int q = 0; q < p.R; q++)
                {
                    sum += t[((long)i * p.R) + q] * b[((long)j * p.R) + q];
                }
                if (y0.Present)
                {
                    y0[((long)i * p.N) + j] = sum;
                }
                y[((long)i * p.N) + j] = (scale.Present ? scale[j] * sum : sum) + (bias.Present ? bias[j] : 0);
            }
        }
    }

    public static void LoraBackward(in LoraGradArgs p)
    {
        var (x, xa, w) = (new Elements(p.X, p.DType), new Elements(p.Xa == 0 ? p.X : p.Xa, p.DType), new Matrix(p.W, p.WType, p.WLayout, p.N, p.K));
        var (a, b, scale, t) = (Param(p.A, p.DType), Param(p.B, p.DType), Param(p.C, p.DType), Param(p.T, p.DType));
        var (y0, dy, dx, dxa) = (new Elements(p.Y0, p.DType), new Elements(p.Dy, p.DType), new Elements(p.Dx, p.DType), new Elements(p.Dxa, p.DType));
        var (da, db, dbias, dc) = (Param(p.Da, p.DType), Param(p.Db, p.DType), Param(p.Dbias, p.DType), Param(p.Dc, p.DType));
        var u = new double[(long)p.Tokens * p.R];
        for (int i = 0; i < p.Tokens; i++)
        {
            for (int q = 0; q < p.R; q++)
            {
                double sum = 0;
                for (int j = 0; j < p.N; j++)
                {
                    sum += Scaled(dy, scale, i, j, p.N) * b[((long)j * p.R) + q];
                }
                u[((long)i * p.R) + q] = p.Scale * sum;
            }
            for (int c = 0; c < p.K; c++)
            {
                double low = 0, high = 0;
                for (int q = 0; q < p.R; q++)
                {
                    low += u[((long)i * p.R) + q] * a[((long)q * p.K) + c];
                }
                for (int j = 0; dx.Present && j < p.N; j++)
                {
                    high += Scaled(dy, scale, i, j, p.N) * w[j, c];
                }
                dx.Put(((long)i * p.K) + c, p.Xa == 0 ? high + low : high, p.Add, 0);
                dxa.Put(((long)i * p.K) + c, low, p.Add, 1);
            }
        }
        for (int q = 0; q < p.R; q++)
        {
            for (int c = 0; da.Present && c < p.K; c++)
            {
                double sum = 0;
                for (int i = 0; i < p.Tokens; i++)
                {
                    sum += u[((long)i * p.R) + q] * xa[((long)i * p.K) + c];
                }
                da.Put(((long)q * p.K) + c, sum, p.Add, 2);
            }
            for (int j = 0; db.Present && j < p.N; j++)
            {
                double sum = 0;
                for (int i = 0; i < p.Tokens; i++)
                {
                    sum += Scaled(dy, scale, i, j, p.N) * t[((long)i * p.R) + q];
                }
                db.Put(((long)j * p.R) + q, sum, p.Add, 3);
            }
        }
        ColumnSums(dy, default, dbias, p.Tokens, p.N, p.Add, 4);
        ColumnSums(dy, y0, dc, p.Tokens, p.N, p.Add, 5);
    }

    public static unsafe void MultiLoraForward(in MultiLoraArgs p)
    {
        var (x, w, bias, y) = (new Elements(p.X, p.DType), new Matrix(p.W, p.WType, p.WLayout, p.N, p.K), Param(p.Bias, p.DType), new Elements(p.Y, p.DType));
        var (a, b) = (new Elements(p.A, p.AbType), new Elements(p.B, p.AbType));
        var ranges = (LoraRange*)p.Ranges;
        var pieces = (LoraPiece*)p.Pieces;
        int piece = 0;
        for (int i = 0; i < p.Tokens; i++)
        {
            while (piece < p.PieceCount && pieces[piece].First + pieces[piece].Tokens <= i)
            {
                piece++;
            }
            LoraRange range = piece < p.PieceCount && pieces[piece].First <= i ? ranges[pieces[piece].Adapter] : default;
            var t = new double[range.Rank];
            for (int q = 0; q < t.Length; q++)
            {
                for (int c = 0; c < p.K; c++)
                {
                    t[q] += range.Scale * x[((long)i * p.K) + c] * a[((long)(range.First + q) * p.K) + c];
                }
            }
            for (int j = 0; j < p.N; j++)
            {
                double sum = bias.Present ? bias[j] : 0;
                for (int c = 0; c < p.K; c++)
                {
                    sum += x[((long)i * p.K) + c] * w[j, c];
                }
                for (int q = 0; q < t.Length; q++)
                {
                    sum += t[q] * b[((long)(range.First + q) * p.N) + j];
                }
                y[((long)i * p.N) + j] = sum;
            }
        }
    }

    public static void AddMatMul(in AddMatMulArgs p)
    {
        DType param = p.DType.ForParameters();
        var (w, b, a, y) = (new Elements(p.W, p.WType), new Elements(p.B, param), new Elements(p.A, param), new Elements(p.Y, p.DType));
        for (int i = 0; i < p.N; i++)
        {
            for (int j = 0; j < p.K; j++)
            {
                double sum = 0;
                for (int q = 0; q < p.R; q++)
                {
                    sum += p.Transpose == 0 ? b[((long)i * p.R) + q] * a[((long)q * p.K) + j] : b[((long)j * p.R) + q] * a[((long)q * p.N) + i];
                }
                long at = ((long)i * p.K) + j;
                y[at] = w[at] + (p.Scale * sum);
            }
        }
    }

    public static void RowNorm(in RowNormArgs p)
    {
        var w = new Matrix(p.W, p.WType, p.WLayout, p.N, p.K);
        var (a, b, w2) = (Param(p.A, p.DType), Param(p.B, p.DType), Param(p.W2, p.DType));
        var (norm, inverse) = (Param(p.Norm, p.DType), Param(p.Inverse, p.DType));
        for (int i = 0; i < p.N; i++)
        {
            double square = 0, frozen = 0;
            for (int c = 0; c < p.K; c++)
            {
                double delta = 0;
                for (int q = 0; a.Present && q < p.R; q++)
                {
                    delta += b[((long)i * p.R) + q] * a[((long)q * p.K) + c];
                }
                frozen += w[i, c] * w[i, c];
                double v = w[i, c] + (p.Scale * delta);
                square += v * v;
            }
            if (p.WantW2 != 0 && w2.Present)
            {
                w2[i] = frozen;
            }
            norm.Put(i, Math.Sqrt(square), 0, 0);
            inverse.Put(i, 1 / Math.Max(Math.Sqrt(square), 1e-30), 0, 0);
        }
    }

    internal static Elements Param(nint data, DType activations) => new(data, activations.ForParameters());

    private static double Scaled(Elements dy, Elements scale, int i, int j, int n) => dy[((long)i * n) + j] * (scale.Present ? scale[j] : 1);

    private static void ColumnSums(Elements dy, Elements factor, Elements to, int rows, int cols, uint add, int bit)
    {
        for (int j = 0; to.Present && j < cols; j++)
        {
            double sum = 0;
            for (int i = 0; i < rows; i++)
            {
                long at = ((long)i * cols) + j;
                sum += dy[at] * (factor.Present ? factor[at] : 1);
            }
            to.Put(j, sum, add, bit);
        }
    }
}
