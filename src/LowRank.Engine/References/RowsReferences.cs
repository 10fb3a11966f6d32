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
        var (logits, labels) = (new Elements(p.Logits, p.DType), new Elements(p.Labels, DType.I32));
        var (loss, lse, valid) = (MatrixReferences.Param(p.Loss, p.DType), MatrixReferences.Param(p.Lse, p.DType), MatrixReferences.Param(p.Valid, p.DType));
        double sum = 0;
        int counted = 0;
        for (int i = 0; i < p.Rows; i++)
        {
            long row = (long)i * p.Cols;
            double max = double.NegativeInfinity, exps = 0, mean = 0;
            for (int j = 0; j < p.Cols; j++)
            {
                max = Math.Max(max, logits[row + j]);
                mean += logits[row + j] / p.Cols;
            }
            for (int j = 0; j < p.Cols; j++)
            {
                exps += Math.Exp(logits[row + j] - max);
            }
            double log = max + Math.Log(exps);
            lse[i] = log;
            if ((int)labels[i] != p.Ignore)
            {
                counted++;
                sum += log - ((1 - p.Smoothing) * logits[row + (int)labels[i]]) - (p.Smoothing * mean);
            }
        }
        loss[0] = counted == 0 ? 0 : sum / counted;
        valid[0] = counted;
    }

    public static void CrossEntropyBackward(in CrossEntropyGradArgs p)
    {
        var (logits, labels, dlogits) = (new Elements(p.Logits, p.DType), new Elements(p.Labels, DType.I32), new Elements(p.Dlogits, p.DType));
        var (lse, valid, dloss) = (MatrixReferences.Param(p.Lse, p.DType), MatrixReferences.Param(p.Valid, p.DType), MatrixReferences.Param(p.Dloss, p.DType));
        for (int i = 0; i < p.Rows; i++)
        {
            int label = (int)labels[i];
            for (int j = 0; j < p.Cols; j++)
            {
                long at = ((long)i * p.Cols) + j;
                double q = (j == label ? 1 - p.Smoothing : 0) + (p.Smoothing / p.Cols);
                dlogits.Put(at, label == p.Ignore ? 0 : dloss[0] / valid[0] * (Math.Exp(logits[at] - lse[i]) - q), p.Add, 0);
            }
        }
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
