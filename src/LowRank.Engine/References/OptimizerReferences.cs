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
        double correct1 = 1 - Math.Pow(a.Beta1, step), correct2 = 1 - Math.Pow(a.Beta2, step);
        foreach (Segment s in new ReadOnlySpan<Segment>((void*)a.Segments, a.SegmentCount))
        {
            double lr = rate * s.LrScale;
            for (long i = s.Start; i < s.Start + s.Count; i++)
            {
                double value = p[i], grad = clip * g[i];
                if (a.Coupled != 0)
                {
                    grad += s.WeightDecay * value;
                }
                else
                {
                    value -= lr * s.WeightDecay * value;
                }
                m[i] = (a.Beta1 * m[i]) + ((1 - a.Beta1) * grad);
                v[i] = (a.Beta2 * v[i]) + ((1 - a.Beta2) * grad * grad);
                p[i] = value - (lr / correct1 * m[i] / (Math.Sqrt(v[i] / correct2) + a.Eps));
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
            for (long i = s.Start; i < s.Start + s.Count; i++)
            {
                double grad = (clip * g[i]) + (s.WeightDecay * p[i]);
                if (buf.Present)
                {
                    buf[i] = step == 1 ? grad : (a.Momentum * buf[i]) + ((1 - a.Dampening) * grad);
                    grad = a.Nesterov != 0 ? grad + (a.Momentum * buf[i]) : buf[i];
                }
                p[i] -= lr * grad;
            }
        }
    }

    private static (double Lr, double Step) Pace(nint progress, double lr, long step) => progress == 0 ? (lr, step) : (((double*)progress)[0], ((double*)progress)[1]);

    private static double Clip(nint norm2, double maxNorm) => norm2 == 0 || maxNorm <= 0 ? 1 : Math.Min(1, maxNorm / (Math.Sqrt(*(double*)norm2) + 1e-6));
}
