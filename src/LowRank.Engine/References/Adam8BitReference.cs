namespace LowRank;

/// <summary>Float64 specification of Adam with moments in 8 bits; the formula stands in lowrank.h.</summary>
internal static unsafe class Adam8BitReference
{
    public static void Run(in Adam8BitArgs a)
    {
        double clip = OptimizerReferences.Clip(a.Norm2, a.MaxNorm);
        (double rate, double step) = OptimizerReferences.Pace(a.Progress, a.Lr, a.Step);
        for (int i = 0; i < a.SegmentCount; i++)
        {
            Segment s = ((Segment*)a.Segments)[i];
            double c1 = 1 - Math.Pow(a.Beta1, step - s.Paused), c2 = Math.Sqrt(1 - Math.Pow(a.Beta2, step - s.Paused));
            long first = ((long*)a.Blocks)[i];
            for (long from = 0; from < s.Count; from += CodedMoments.Block)
            {
                int count = (int)Math.Min(CodedMoments.Block, s.Count - from);
                long state = s.State + from, block = first + (from / CodedMoments.Block);
                Moment m = first < 0 ? new(a.M, state, a.DType) : new(a.Codes1, state, a.Max1, block, a.Book1, a.DType);
                Moment v = first < 0 ? new(a.V, state, a.DType) : new(a.Codes2, state, a.Max2, block, a.Book2, a.DType);
                var (firsts, seconds) = (new double[count], new double[count]);
                for (int j = 0; j < count; j++)
                {
                    Move(a, s, from + j, clip, rate, c1, c2, m[j], v[j], out firsts[j], out seconds[j]);
                }
                m.Keep(firsts);
                v.Keep(seconds);
            }
        }
    }

    private static void Move(in Adam8BitArgs a, in Segment s, long at, double clip, double rate, double c1, double c2, double m, double v, out double m1, out double v1)
    {
        var (p, g) = (new Elements(a.P, a.DType), new Elements(a.G, a.DType));
        double grad = clip * g[s.Start + at], lr = rate * s.LrScale;
        bool finite = double.IsFinite(grad);
        m1 = finite ? (a.Beta1 * m) + ((1 - a.Beta1) * grad) : 0;
        v1 = finite ? (a.Beta2 * v) + ((1 - a.Beta2) * grad * grad) : 0;
        if (finite)
        {
            p[s.Start + at] = (p[s.Start + at] - (lr * c2 / c1 * m1 / (Math.Sqrt(v1) + (c2 * a.Eps)))) * (1 - (lr * s.WeightDecay));
        }
    }

    /// <summary>A moment of up to 256 elements: floats, or codes with their largest magnitude.</summary>
    private readonly struct Moment(nint floats, long state, DType type)
    {
        private readonly Elements values = new(floats, type);
        private readonly byte* codes;
        private readonly nint most;
        private readonly long block;
        private readonly float* book;

        public Moment(nint codes, long state, nint most, long block, nint book, DType type)
            : this(0, state, type)
        {
            this.codes = (byte*)codes + state;
            this.book = (float*)book;
            (this.most, this.block) = (most, block);
        }

        public double this[int j] => codes is null ? values[state + j] : book[codes[j]] * new Elements(most, type)[block];

        public void Keep(double[] moments)
        {
            if (codes is null)
            {
                for (int j = 0; j < moments.Length; j++)
                {
                    Elements to = values;
                    to[state + j] = moments[j];
                }
                return;
            }
            double largest = moments.Max(Math.Abs);
            Elements maxima = new(most, type);
            maxima[block] = largest;
            var middles = new ReadOnlySpan<float>(book + 256, 255);
            for (int j = 0; j < moments.Length; j++)
            {
                double x = largest > 0 ? moments[j] / largest : 0;
                int below = 0;
                foreach (float middle in middles)
                {
                    below += middle < x ? 1 : 0;
                }
                codes[j] = (byte)below;
            }
        }
    }
}
