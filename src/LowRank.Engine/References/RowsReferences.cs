namespace LowRank;

/// <summary>Float64 specifications of gathers, layout moves and losses; formulas and shapes stand in lowrank.h.</summary>
internal static class RowsReferences
{
    public static void GatherForward(in GatherArgs p)
    {
        var (table, ids, y) = (new Elements(p.Table, p.WType), new Elements(p.Ids, DType.I32), new Elements(p.Y, p.DType));
        for (int i = 0; i < p.Rows; i++)
        {
            for (int j = 0; j < p.Cols; j++)
            {
                y[((long)i * p.Cols) + j] = table[((long)ids[i] * p.Cols) + j];
            }
        }
    }

    public static void GatherBackward(in GatherGradArgs p)
    {
        var (ids, dy, dtable) = (new Elements(p.Ids, DType.I32), new Elements(p.Dy, p.DType), new Elements(p.Dtable, p.DType));
        for (long i = 0; (p.Add & 1) == 0 && i < (long)p.TableRows * p.Cols; i++)
        {
            dtable[i] = 0;
        }
        for (int i = 0; i < p.Rows; i++)
        {
            for (int j = 0; j < p.Cols; j++)
            {
                long at = ((long)ids[i] * p.Cols) + j;
                dtable[at] += dy[((long)i * p.Cols) + j];
            }
        }
    }

    public static void Rope(in RopeArgs p)
    {
        var (x, table, positions, y) = (new Elements(p.X, p.DType), MatrixReferences.Param(p.Table, p.DType), new Elements(p.Positions, DType.I32), new Elements(p.Y, p.DType));
        int half = p.Rotary / 2;
        for (long head = 0; head < (long)p.Rows * p.Heads; head++)
        {
            long at = head * p.Dim, angle = (long)positions[head / p.Heads] * 2 * half;
            for (int c = 0; c < half; c++)
            {
                double a = x[at + c], b = x[at + c + half], cosine = table[angle + (2 * c)], sine = (p.Inverse != 0 ? -1 : 1) * table[angle + (2 * c) + 1];
                y.Put(at + c, (a * cosine) - (b * sine), p.Add, 0);
                y.Put(at + c + half, (b * cosine) + (a * sine), p.Add, 0);
            }
            for (int c = 2 * half; c < p.Dim; c++)
            {
                y.Put(at + c, x[at + c], p.Add, 0);
            }
        }
    }

    public static void Columns(in ColumnsArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        for (long row = 0; row < p.Rows; row++)
        {
            for (int c = 0; c < (p.Inverse != 0 ? p.Cols : p.Count); c++)
            {
                if (p.Inverse == 0)
                {
                    y[(row * p.Count) + c] = x[(row * p.Cols) + p.Start + c];
                }
                else
                {
                    y.Put((row * p.Cols) + c, c >= p.Start && c < p.Start + p.Count ? x[(row * p.Count) + c - p.Start] : 0, p.Add, 0);
                }
            }
        }
    }

    public static void PrependForward(in PrependArgs p)
    {
        var (x, first, y) = (new Elements(p.X, p.DType), MatrixReferences.Param(p.First, p.DType), new Elements(p.Y, p.DType));
        for (int b = 0; b < p.Batch; b++)
        {
            for (int t = 0; t <= p.Tokens; t++)
            {
                for (int j = 0; j < p.Cols; j++)
                {
                    y[((((long)b * (p.Tokens + 1)) + t) * p.Cols) + j] = t == 0 ? first[j] : x[((((long)b * p.Tokens) + t - 1) * p.Cols) + j];
                }
            }
        }
    }

    public static void PrependBackward(in PrependGradArgs p)
    {
        var (dy, dx, dfirst) = (new Elements(p.Dy, p.DType), new Elements(p.Dx, p.DType), MatrixReferences.Param(p.Dfirst, p.DType));
        for (int j = 0; j < p.Cols; j++)
        {
            double sum = 0;
            for (int b = 0; b < p.Batch; b++)
            {
                sum += dy[((long)b * (p.Tokens + 1) * p.Cols) + j];
                for (int t = 0; t < p.Tokens; t++)
                {
                    dx.Put(((((long)b * p.Tokens) + t) * p.Cols) + j, dy[((((long)b * (p.Tokens + 1)) + t + 1) * p.Cols) + j], p.Add, 0);
                }
            }
            dfirst.Put(j, sum, p.Add, 1);
        }
    }

    public static void Transpose(in TransposeArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        long size = (long)p.Rows * p.Cols;
        for (int b = 0; b < p.Batch; b++)
        {
            for (int r = 0; r < p.Rows; r++)
            {
                for (int c = 0; c < p.Cols; c++)
                {
                    y.Put((b * size) + ((long)c * p.Rows) + r, x[(b * size) + ((long)r * p.Cols) + c], p.Add, 0);
                }
            }
        }
    }

    public static void Unfold(in UnfoldArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        long at = 0;
        for (int patch = 0; patch < p.Batch * p.OutH * p.OutW; patch++)
        {
            for (int tap = 0; tap < p.Channels * p.KernelH * p.KernelW; tap++)
            {
                long from = Source(p, patch, tap);
                y.Put(at++, from < 0 ? 0 : x[from], p.Add, 0);
            }
        }
    }

    /// <summary>The adjoint: here x holds the patches' gradients and y the image's.</summary>
    public static void Fold(in UnfoldArgs p)
    {
        var (x, y) = (new Elements(p.X, p.DType), new Elements(p.Y, p.DType));
        for (long i = 0; (p.Add & 1) == 0 && i < (long)p.Batch * p.Channels * p.Height * p.Width; i++)
        {
            y[i] = 0;
        }
        long at = 0;
        for (int patch = 0; patch < p.Batch * p.OutH * p.OutW; patch++)
        {
            for (int tap = 0; tap < p.Channels * p.KernelH * p.KernelW; tap++, at++)
            {
                long to = Source(p, patch, tap);
                if (to >= 0)
                {
                    y[to] += x[at];
                }
            }
        }
    }

    public static void CrossEntropyForward(in CrossEntropyArgs p)
    {
        var (logits, labels, dlogits) = (new Elements(p.Logits, p.DType), new Elements(p.Labels, DType.I32), new Elements(p.Dlogits, p.DType));
        var (loss, losses, lse, valid) = (MatrixReferences.Param(p.Loss, p.DType), MatrixReferences.Param(p.Losses, p.DType), MatrixReferences.Param(p.Lse, p.DType), MatrixReferences.Param(p.Valid, p.DType));
        double counted = 0, sum = 0;
        for (int i = 0; i < p.Total; i++)
        {
            counted += (int)labels[i] != p.Ignore ? 1 : 0;
        }
        valid[0] = counted;
        var z = new double[p.Cols];
        for (int i = 0; i < p.Rows; i++)
        {
            double max = double.NegativeInfinity, exps = 0, mean = 0;
            for (int j = 0; j < p.Cols; j++)
            {
                z[j] = PointwiseReferences.Capped(logits[((long)i * p.Cols) + j], p.Cap);
                max = Math.Max(max, z[j]);
                mean += z[j] / p.Cols;
            }
            for (int j = 0; j < p.Cols; j++)
            {
                exps += Math.Exp(z[j] - max);
            }
            int at = p.First + i, label = (int)labels[at];
            double log = max + Math.Log(exps);
            lse[at] = log;
            losses[at] = label == p.Ignore ? 0 : log - ((1 - p.Smoothing) * z[label]) - (p.Smoothing * mean);
            for (int j = 0; dlogits.Present && j < p.Cols; j++)
            {
                dlogits[((long)i * p.Cols) + j] = Slope(z[j], j, label, log, 1 / counted, p.Ignore, p.Smoothing, p.Cols, p.Cap);
            }
        }
        for (int i = 0; i < p.Total && p.First + p.Rows == p.Total; i++)
        {
            sum += losses[i];
        }
        loss[0] = counted == 0 ? 0 : sum / counted;
    }

    public static void CrossEntropyBackward(in CrossEntropyGradArgs p)
    {
        var (logits, labels, dlogits) = (new Elements(p.Logits, p.DType), new Elements(p.Labels, DType.I32), new Elements(p.Dlogits, p.DType));
        var (lse, valid, dloss) = (MatrixReferences.Param(p.Lse, p.DType), MatrixReferences.Param(p.Valid, p.DType), MatrixReferences.Param(p.Dloss, p.DType));
        for (int i = 0; i < p.Rows; i++)
        {
            for (int j = 0; j < p.Cols; j++)
            {
                long at = ((long)i * p.Cols) + j;
                dlogits.Put(at, Slope(PointwiseReferences.Capped(logits[at], p.Cap), j, (int)labels[i], lse[i], dloss[0] / valid[0], p.Ignore, p.Smoothing, p.Cols, p.Cap), p.Add, 0);
            }
        }
    }

    /// <summary>scale (softmax - q)_j dz_j/dlogits_j; 0 where the label does not count.</summary>
    private static double Slope(double z, int j, int label, double lse, double scale, int ignore, double smoothing, int cols, double cap)
    {
        double q = (j == label ? 1 - smoothing : 0) + (smoothing / cols);
        return label == ignore ? 0 : scale * (Math.Exp(z - lse) - q) * PointwiseReferences.CapSlope(z, cap);
    }

    public static void SquaredErrorForward(in SquaredErrorArgs p)
    {
        var (y, target, loss) = (new Elements(p.Y, p.DType), new Elements(p.Target, p.DType), MatrixReferences.Param(p.Loss, p.DType));
        double sum = 0;
        for (long i = 0; i < p.Count; i++)
        {
            sum += (y[i] - target[i]) * (y[i] - target[i]);
        }
        loss[0] = p.Count == 0 ? 0 : p.Scale * sum / p.Count;
    }

    public static void SquaredErrorBackward(in SquaredErrorGradArgs p)
    {
        var (y, target, dloss, dy) = (new Elements(p.Y, p.DType), new Elements(p.Target, p.DType), MatrixReferences.Param(p.Dloss, p.DType), new Elements(p.Dy, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            dy.Put(i, dloss[0] * 2 * p.Scale * (y[i] - target[i]) / p.Count, p.Add, 0);
        }
    }

    public static void BinaryCrossEntropyForward(in SquaredErrorArgs p)
    {
        var (y, target, loss) = (new Elements(p.Y, p.DType), new Elements(p.Target, p.DType), MatrixReferences.Param(p.Loss, p.DType));
        double sum = 0;
        for (long i = 0; i < p.Count; i++)
        {
            sum += Math.Max(y[i], 0) + double.LogP1(Math.Exp(-Math.Abs(y[i]))) - (y[i] * target[i]);
        }
        loss[0] = p.Count == 0 ? 0 : p.Scale * sum / p.Count;
    }

    public static void BinaryCrossEntropyBackward(in SquaredErrorGradArgs p)
    {
        var (y, target, dloss, dy) = (new Elements(p.Y, p.DType), new Elements(p.Target, p.DType), MatrixReferences.Param(p.Dloss, p.DType), new Elements(p.Dy, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            dy.Put(i, dloss[0] * p.Scale * (PointwiseReferences.Sigmoid(y[i]) - target[i]) / p.Count, p.Add, 0);
        }
    }

    private static long Source(in UnfoldArgs p, int patch, int tap)
    {
        int ow = patch % p.OutW, oh = patch / p.OutW % p.OutH, b = patch / p.OutW / p.OutH;
        int j = tap % p.KernelW, i = tap / p.KernelW % p.KernelH, c = tap / p.KernelW / p.KernelH;
        int h = (oh * p.Stride) - p.Pad + (i * p.Dilation), w = (ow * p.Stride) - p.Pad + (j * p.Dilation);
        return h < 0 || h >= p.Height || w < 0 || w >= p.Width ? -1 : (((((long)b * p.Channels) + c) * p.Height) + h) * p.Width + w;
    }
}
