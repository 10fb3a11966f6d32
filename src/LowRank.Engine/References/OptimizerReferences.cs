namespace LowRank;

/// <summary>Float64 specifications of the optimisers; formulas stand in lowrank.h.</summary>
internal static unsafe class OptimizerReferences
{
    public static void SquareSum(in SquareSumArgs p)
    {
        var g = new Elements(p.G, p.DType);
        double sum = 0;
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)p.Segments, p.SegmentCount))
        {
            for (long i = s.Start; i < s.Start + s.Count; i++)
            {
                sum += g[i] * g[i];
            }
        }
        *(double*)p.Norm2 = sum;
    }

    public static void AdamW(in AdamWArgs a)
    {
        var (p, g, m, v) = (new Elements(a.P, a.DType), new Elements(a.G, a.DType), new Elements(a.M, a.DType), new Elements(a.V, a.DType));
        double clip = Clip(a.Norm2, a.MaxNorm);
        (double rate, double step) = Pace(a.Progress, a.Lr, a.Step);
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)a.Segments, a.SegmentCount))
        {
            double steps = step - s.Paused;
            double correct1 = a.Uncorrected != 0 ? 1 : 1 - Math.Pow(a.Beta1, steps), correct2 = a.Uncorrected != 0 ? 1 : 1 - Math.Pow(a.Beta2, steps);
            double lr = rate * s.LrScale;
            for (long i = s.Start, at = s.State; i < s.Start + s.Count; i++, at++)
            {
                double value = p[i], grad = clip * g[i];
                if (a.Coupled != 0)
                {
                    grad += s.WeightDecay * value;
                }
                else if (a.Late == 0)
                {
                    value -= lr * s.WeightDecay * value;
                }
                m[at] = (a.Beta1 * m[at]) + ((1 - a.Beta1) * grad);
                v[at] = (a.Beta2 * v[at]) + ((1 - a.Beta2) * grad * grad);
                value -= a.Late != 0
                    ? lr * Math.Sqrt(correct2) / correct1 * m[at] / (Math.Sqrt(v[at]) + a.Eps)
                    : lr / correct1 * m[at] / (Math.Sqrt(v[at] / correct2) + a.Eps);
                p[i] = a.Late != 0 && a.Coupled == 0 ? value - (lr * s.WeightDecay * value) : value;
            }
        }
    }

    public static void Sgd(in SgdArgs a)
    {
        var (p, g, buf) = (new Elements(a.P, a.DType), new Elements(a.G, a.DType), new Elements(a.Buf, a.DType));
        double clip = Clip(a.Norm2, a.MaxNorm);
        (double rate, double step) = Pace(a.Progress, a.Lr, a.Step);
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)a.Segments, a.SegmentCount))
        {
            double lr = rate * s.LrScale;
            for (long i = s.Start, at = s.State; i < s.Start + s.Count; i++, at++)
            {
                double grad = (clip * g[i]) + (s.WeightDecay * p[i]);
                if (buf.Present)
                {
                    buf[at] = step == 1 ? grad : (a.Momentum * buf[at]) + ((1 - a.Dampening) * grad);
                    grad = a.Nesterov != 0 ? grad + (a.Momentum * buf[at]) : buf[at];
                }
                p[i] -= lr * grad;
            }
        }
    }

    public static void RmsProp(in RmsPropArgs a)
    {
        var (p, g, v) = (new Elements(a.P, a.DType), new Elements(a.G, a.DType), new Elements(a.V, a.DType));
        var (mean, buf) = (new Elements(a.Mean, a.DType), new Elements(a.Buf, a.DType));
        double clip = Clip(a.Norm2, a.MaxNorm);
        (double rate, _) = Pace(a.Progress, a.Lr, a.Step);
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)a.Segments, a.SegmentCount))
        {
            for (long i = s.Start, at = s.State; i < s.Start + s.Count; i++, at++)
            {
                double grad = (clip * g[i]) + (s.WeightDecay * p[i]);
                double spread = v[at] = (a.Alpha * v[at]) + ((1 - a.Alpha) * grad * grad);
                if (mean.Present)
                {
                    mean[at] = (a.Alpha * mean[at]) + ((1 - a.Alpha) * grad);
                    spread -= mean[at] * mean[at];
                }
                double move = grad / (Math.Sqrt(spread) + a.Eps);
                if (buf.Present)
                {
                    move = buf[at] = (a.Momentum * buf[at]) + move;
                }
                p[i] -= rate * s.LrScale * move;
            }
        }
    }

    public static void Adafactor(in AdafactorArgs a)
    {
        var (p, g, row, col) = (new Elements(a.P, a.DType), new Elements(a.G, a.DType), new Elements(a.Row, a.DType), new Elements(a.Col, a.DType));
        double clip = Clip(a.Norm2, a.MaxNorm);
        (double rate, double step) = Pace(a.Progress, a.Lr, a.Step);
        double fresh = Math.Pow(step, -a.Decay);
        foreach (Factored t in new ReadOnlySpan<Factored>((void*)a.Tensors, a.TensorCount))
        {
            var squares = new double[t.Cols];
            double moments = 0, values = 0, norm = 0;
            for (long r = 0; r < t.Rows; r++)
            {
                double sum = 0;
                for (long c = 0; c < t.Cols; c++)
                {
                    double grad = clip * g[t.Start + (r * t.Cols) + c], value = p[t.Start + (r * t.Cols) + c];
                    sum += grad * grad;
                    squares[c] += grad * grad;
                    values += value * value;
                }
                if (t.RowState >= 0)
                {
                    moments += row[t.RowState + r] += fresh * ((sum / t.Cols) - row[t.RowState + r]);
                }
            }
            for (long c = 0; c < t.Cols; c++)
            {
                col[t.ColState + c] += fresh * ((squares[c] / t.Rows) - col[t.ColState + c]);
            }
            double mean = Math.Max(moments / t.Rows, a.Eps1);
            var update = new double[t.Rows * t.Cols];
            for (long i = 0; i < update.Length; i++)
            {
                double v = (t.RowState >= 0 ? row[t.RowState + (i / t.Cols)] / mean : 1) * col[t.ColState + (i % t.Cols)];
                update[i] = clip * g[t.Start + i] / Math.Max(Math.Sqrt(v), a.Eps1);
                norm += update[i] * update[i];
            }
            double size = Math.Max(a.Eps2, Math.Sqrt(values / update.Length)) * Math.Min(rate, 1 / Math.Sqrt(step)) * t.LrScale;
            size /= Math.Max(1, Math.Sqrt(norm / update.Length) / a.Threshold);
            for (long i = 0; i < update.Length; i++)
            {
                p[t.Start + i] = (p[t.Start + i] * (1 - (rate * t.LrScale * t.WeightDecay))) - (size * update[i]);
            }
        }
    }

    internal static (double Lr, double Step) Pace(nint progress, double lr, long step) => progress == 0 ? (lr, step) : (((double*)progress)[0], ((double*)progress)[1]);

    internal static double Clip(nint norm2, double maxNorm) => norm2 == 0 || maxNorm <= 0 ? 1 : Math.Min(1, maxNorm / (Math.Sqrt(*(double*)norm2) + 1e-6));
}
