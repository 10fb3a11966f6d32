namespace LowRank;

/// <summary>Float64 specifications of merges, of Concrete's mask, and of the entropy of predictions; formulas stand in lowrank.h.</summary>
internal static unsafe class MergeReferences
{
    private const int AllDraws = 1 << 24;

    public static void Merge(in MergeArgs a)
    {
        var inputs = new ReadOnlySpan<MergeInput>((void*)a.Inputs, a.InputCount);
        int models = a.InputCount, width = MergeArgs.Width(models);
        var (start, scale, y) = (new Elements(a.Start, a.StartType), new Elements(a.Scale, a.DType), new Elements(a.Y, a.YType));
        double[] moves = new double[models], used = new double[models];
        Span<double> figures = stackalloc double[0];
        for (long i = 0; i < a.Count; i++)
        {
            if (i % MergeArgs.Block == 0)
            {
                figures = new Span<double>((double*)a.Figures + (i / MergeArgs.Block * width), width);
                figures.Clear();
            }
            double from = start.Present ? start[i] : 0, election = 0, mean = 0;
            for (int t = 0; t < models; t++)
            {
                moves[t] = new Elements(inputs[t].X, inputs[t].DType)[i] - from;
                double kept = Kept(in inputs[t], i, moves[t]);
                kept = Math.Abs(kept) > inputs[t].Least || (Math.Abs(kept) == inputs[t].Least && i < inputs[t].Cut) ? kept : 0;
                figures[MergeArgs.FixedFigures + (2 * t)] += Math.Abs(moves[t]);
                figures[MergeArgs.FixedFigures + (2 * t) + 1] += Math.Abs(kept);
                used[t] = inputs[t].Weight * kept;
                election += used[t];
                mean += start.Present ? 0 : moves[t] / models;
            }
            if (a.Compares != 0)
            {
                Compare(moves, mean, figures);
            }
            double merged = a.Rule == MergeRule.Sum ? election : Elected(in a, inputs, used, election, figures);
            if (y.Present)
            {
                double change = a.Lambda * (scale.Present ? scale[i] : 1) * merged;
                y[i] = a.Lambda != 0 ? from + change : from;
                double off = Math.Abs(from - y[i] + change);
                figures[3] += change * change;
                figures[4] = Math.Max(figures[4], off);
                figures[5] += off * off;
            }
        }
    }

    public static void Count(in MergeCountArgs a)
    {
        var counts = (long*)a.Counts;
        var start = new Elements(a.Start, a.StartType);
        for (int t = 0; t < a.InputCount; t++)
        {
            MergeInput input = ((MergeInput*)a.Inputs)[t];
            var x = new Elements(input.X, input.DType);
            for (long i = 0; i < a.Count; i++)
            {
                double v = Math.Abs(Kept(in input, i, x[i] - (start.Present ? start[i] : 0)));
                ulong bits = a.DType == DType.F64 ? BitConverter.DoubleToUInt64Bits(v) : BitConverter.SingleToUInt32Bits((float)v);
                long bin = a.Span > 0 ? (i - a.Origin) / a.Span : (long)((bits >> a.Shift) & ((1UL << a.Width) - 1));
                if (a.Span > 0 ? bits == input.Found && i >= a.Origin && bin < MergeCountArgs.Bins : bits >> a.Shift >> a.Width == input.Found)
                {
                    counts[((long)t * MergeCountArgs.Bins) + bin]++;
                }
            }
        }
    }

    public static void MaskForward(in ConcreteMaskArgs a)
    {
        var (x, u, s) = (new Elements(a.X, a.DType), new Elements(a.U, a.DType), new Elements(a.S, a.DType));
        double unit = a.DType.Epsilon(), edge = Math.Log((1 - unit) / unit), sum = 0;
        for (long i = 0; i < a.Count; i++)
        {
            double draw = Math.Clamp(u.Present ? u[i] : Philox.Uniform(a.Seed, a.Stream, i), unit, 1 - unit);
            double z = (Math.Log(draw) - double.LogP1(-draw) + Math.Clamp(x[i], -edge, edge)) / a.Temperature;
            s[i] = Math.Clamp(1 / (1 + Math.Exp(-z)), Tiny(a.DType), 1 - unit);
            sum += s[i];
        }
        double mean = sum / a.Count;
        new Elements(a.Mean, a.DType)[0] = mean;
        for (long i = 0; i < a.Count; i++)
        {
            s[i] /= mean;
        }
    }

    public static void MaskBackward(in ConcreteMaskGradArgs a)
    {
        var (x, s, ds, dx) = (new Elements(a.X, a.DType), new Elements(a.S, a.DType), new Elements(a.Ds, a.DType), new Elements(a.Dx, a.DType));
        double unit = a.DType.Epsilon(), edge = Math.Log((1 - unit) / unit), mean = new Elements(a.Mean, a.DType)[0], level = 0;
        for (long i = 0; i < a.Count; i++)
        {
            level += ds[i] * s[i] / a.Count;
        }
        for (long i = 0; i < a.Count; i++)
        {
            double m = s[i] * mean;
            bool free = Math.Abs(x[i]) <= edge && m < 1 - (2 * unit) && m > 2 * Tiny(a.DType);
            dx.Put(i, free ? (ds[i] - level) * s[i] * (1 - m) / a.Temperature : 0, a.Add, 0);
        }
    }

    public static void EntropyForward(in MeanEntropyArgs a)
    {
        DType parameters = a.DType.ForParameters();
        var (z, losses, stats) = (new Elements(a.Logits, a.DType), new Elements(a.Losses, parameters), new Elements(a.Stats, parameters));
        double total = 0;
        for (long row = 0; row < a.Rows; row++)
        {
            double top = double.NegativeInfinity, exps = 0, entropy = 0, mean = 0;
            for (long i = row * a.Cols; i < (row + 1) * a.Cols; i++)
            {
                top = Math.Max(top, z[i]);
            }
            for (long i = row * a.Cols; i < (row + 1) * a.Cols; i++)
            {
                exps += Math.Exp(z[i] - top);
            }
            double lse = top + Math.Log(exps);
            for (long i = row * a.Cols; i < (row + 1) * a.Cols; i++)
            {
                double log = z[i] - lse, share = Math.Exp(log);
                if (share != 0)
                {
                    entropy -= share * Surprise(share, log, a.Epsilon);
                    mean += share * (Surprise(share, log, a.Epsilon) + (share / (share + a.Epsilon)));
                }
            }
            total += losses[row] = entropy;
            stats[2 * row] = lse;
            stats[(2 * row) + 1] = mean;
        }
        new Elements(a.Loss, parameters)[0] = total / a.Rows;
    }

    public static void EntropyBackward(in MeanEntropyGradArgs a)
    {
        DType parameters = a.DType.ForParameters();
        var (z, dz, stats) = (new Elements(a.Logits, a.DType), new Elements(a.Dlogits, a.DType), new Elements(a.Stats, parameters));
        double scale = new Elements(a.Dloss, parameters)[0] / a.Rows;
        for (long i = 0; i < (long)a.Rows * a.Cols; i++)
        {
            long row = i / a.Cols;
            double log = z[i] - stats[2 * row], share = Math.Exp(log);
            dz.Put(i, share == 0 ? 0 : -scale * share * (Surprise(share, log, a.Epsilon) + (share / (share + a.Epsilon)) - stats[(2 * row) + 1]), a.Add, 0);
        }
    }

    private static double Surprise(double share, double log, double epsilon) => epsilon > 0 ? Math.Log(share + epsilon) : log;

    private static double Tiny(DType type) => type == DType.F64 ? 2.2250738585072014e-308 : 1.1754943508222875e-38;

    /// <summary>v of an entry that moved so far.</summary>
    private static double Kept(in MergeInput input, long i, double move)
    {
        uint draw = input.From > 0 || input.To < AllDraws ? Philox.Bits(input.Seed, input.Stream, i) >> 8 : 0;
        bool stays = (input.Keep == 0 || ((byte*)input.Keep)[i] != 0) && (input.From == 0 || draw >= input.From) && (input.To == AllDraws || draw < input.To);
        return stays ? input.Factor * move : 0;
    }

    private static void Compare(double[] moves, double mean, Span<double> figures)
    {
        int at = MergeArgs.FixedFigures + (2 * moves.Length);
        bool above = false, below = false;
        for (int t = 0; t < moves.Length; t++)
        {
            above |= moves[t] - mean > 0;
            below |= moves[t] - mean < 0;
            for (int b = 0; b <= t; b++)
            {
                figures[at++] += (moves[t] - mean) * (moves[b] - mean);
            }
        }
        figures[2] += above && below ? 1 : 0;
    }

    private static double Elected(in MergeArgs a, ReadOnlySpan<MergeInput> inputs, double[] used, double election, Span<double> figures)
    {
        int sign = Math.Sign(election) is var s && s != 0 ? s : a.Even;
        figures[0] += Math.Sign(election);
        figures[1] += election == 0 ? 1 : 0;
        double total = 0, shares = 0, most = 0;
        for (int t = 0; t < used.Length; t++)
        {
            if (sign > 0 ? used[t] > 0 : used[t] < 0)
            {
                total += used[t];
                shares += inputs[t].Share;
                most = Math.Max(most, Math.Abs(used[t]));
            }
        }
        return a.Rule switch
        {
            MergeRule.Agreeing => total,
            MergeRule.MeanOfAgreeing => shares != 0 ? total / shares : total,
            _ => most * sign,
        };
    }
}
