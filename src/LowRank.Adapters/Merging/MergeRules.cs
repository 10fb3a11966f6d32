namespace LowRank.Adapters;

/// <summary>Merges of whole weights, one tensor at a time in float64, by mergekit's rules.</summary>
internal static class MergeRules
{
    private const double Parallel = 0.9995;        // |cos| above which two tensors are mixed linearly

    /// <summary>Σ wX, over Σ w where normalised.</summary>
    public static MergeFigures Linear(MergeTensor t) => Sum(t, [.. t.Parts.Select(p => new MergeTerm(p.Tensor) { Weight = p.Settings["weight"] })], 1);

    /// <summary>B + λ·Σ u of terms, over Σ w where normalised, into the result.</summary>
    public static MergeFigures Sum(MergeTensor t, IReadOnlyList<MergeTerm> terms, double lambda) =>
        TensorMerge.Run(t.Start, terms, MergeRule.Sum, t.Y, lambda / Divisor(t.Weights(), t.Flag("normalize")), compares: t.Compares);

    /// <summary>Σ wV, over Σ w where <paramref name="normalize"/> and it is not 0.</summary>
    public static double[] Sum(double[][] vectors, double[] weights, bool normalize)
    {
        var sum = new double[vectors[0].Length];
        for (int v = 0; v < vectors.Length; v++)
        {
            Add(sum, weights[v], vectors[v]);
        }
        Scale(sum, 1 / Divisor(weights, normalize));
        return sum;
    }

    /// <summary>scale·X.</summary>
    public static double[] Passthrough(MergeTensor t)
    {
        Scale(t.Parts[0].Values, t.Parts[0].Settings["scale"]);
        return t.Parts[0].Values;
    }

    /// <summary>From the base at t = 0 to the other at t = 1; norms serve the angle alone, the inputs themselves are mixed.</summary>
    public static double[] Slerp(MergeTensor t)
    {
        const double least = 1e-8;
        (double[] from, double[] to) = (t.Base!, t.Parts[0].Values);
        double at = t.Settings["t"], dot = Dot(from, to);
        foreach (double norm in (ReadOnlySpan<double>)[Norm(from), Norm(to)])
        {
            dot /= norm > least ? norm : 1;
        }
        (double first, double second) = (1 - at, at);
        if (Math.Abs(dot) <= Parallel)
        {
            double angle = Math.Acos(dot), sine = Math.Sin(angle);
            (first, second) = (Math.Sin((1 - at) * angle) / sine, Math.Sin(at * angle) / sine);
        }
        return Sum([from, to], [first, second], normalize: false);
    }

    /// <summary>From the first at 0 to the second at 1; whole tensors, or lines of them: row-wise normalises along the first axis, as mergekit has it.</summary>
    public static double[] NuSlerp(MergeTensor t)
    {
        const double leastNorm = 1e-7, leastSine = 1e-8;
        double[] weights = t.Weights();
        double sum = weights.Sum(), at = Math.Abs(sum) < 1e-6 ? 0.5 : weights[1] / sum;
        double[][] ends = t.Base is null ? [.. t.Parts.Select(p => p.Values)] : t.Differences();
        var mixed = new double[t.Count];
        bool flat = t.Flag("nuslerp_flatten") || t.Rows <= 1, down = t.Flag("nuslerp_row_wise");
        (int lines, int length, int step, int next) = flat ? (1, t.Count, 1, 0) : down ? (t.Cols, t.Rows, t.Cols, 1) : (t.Rows, t.Cols, 1, t.Cols);
        for (int line = 0; line < lines; line++)
        {
            int begin = line * next;
            double dot = 0, first = 0, second = 0;
            for (int i = 0, j = begin; i < length; i++, j += step)
            {
                dot += ends[0][j] * ends[1][j];
                first += ends[0][j] * ends[0][j];
                second += ends[1][j] * ends[1][j];
            }
            double cosine = Math.Clamp(dot / (Math.Max(leastNorm, Math.Sqrt(first)) * Math.Max(leastNorm, Math.Sqrt(second))), -1, 1), angle = Math.Acos(cosine), sine = Math.Sin(angle);
            bool straight = Math.Abs(sine) < leastSine;
            double a = straight ? 1 - at : Math.Sin((1 - at) * angle) / sine, b = straight ? at : Math.Sin(at * angle) / sine;
            for (int i = 0, j = begin; i < length; i++, j += step)
            {
                mixed[j] = (a * ends[0][j]) + (b * ends[1][j]) + (t.Base is null ? 0 : t.Base[j]);
            }
        }
        return mixed;
    }

    /// <summary>The unit vectors are brought to the tangent plane at their weighted mean direction, summed there and brought back; length Σ w·‖X‖.</summary>
    public static double[] MultiSlerp(MergeTensor t)
    {
        double epsilon = t.Settings["eps"];
        double[] weights = t.Weights();
        double[][] units = t.Base is null ? [.. t.Parts.Select(p => p.Values)] : t.Differences();
        if (t.Flag("normalize_weights"))
        {
            double total = weights.Sum();
            weights = total != 0 ? [.. weights.Select(w => w / total)] : throw t.Bad("the sum of the weights", total, "another number than 0 with normalize_weights");
        }
        double[] norms = [.. units.Select(Norm)];
        for (int i = 0; i < units.Length; i++)
        {
            Scale(units[i], 1 / (norms[i] + epsilon));
        }
        double[] mean = Sum(units, weights, normalize: false);
        double length = Norm(mean);
        if (length < epsilon)
        {
            throw t.Bad("the norm of the mean direction", length, "more than eps: the inputs cancel out");
        }
        Scale(mean, 1 / length);
        var tangent = new double[mean.Length];
        for (int i = 0; i < units.Length; i++)
        {
            Add(tangent, weights[i], units[i]);
            Add(tangent, -weights[i] * Dot(units[i], mean), mean);
        }
        double angle = Norm(tangent) + epsilon, radius = norms.Zip(weights, (n, w) => n * w).Sum();
        Scale(mean, radius * Math.Cos(angle));
        Add(mean, radius * Math.Sin(angle) / angle, tangent);
        if (t.Base is not null)
        {
            Add(mean, 1, t.Base);
        }
        return mean;
    }

    /// <summary>Mean on the unit sphere by steps along the mean of the logarithms, times the mean of the norms.</summary>
    public static double[] Karcher(MergeTensor t)
    {
        double tolerance = t.Settings["tol"];
        double[][] units = [.. t.Parts.Select(p => p.Values).Where(v => Norm(v) > tolerance)];
        if (units.Length == 0)
        {
            return new double[t.Count];
        }
        double share = 1.0 / units.Length, radius = units.Average(Norm);
        Array.ForEach(units, u => Scale(u, 1 / Norm(u)));
        double[] mean = Sum(units, [.. units.Select(_ => share)], normalize: false);
        double length = Norm(mean);
        if (length < tolerance)
        {
            (mean, length) = ([.. units[0]], 1);
        }
        Scale(mean, 1 / length);
        for (int step = 0; step < (int)t.Settings["max_iter"]; step++)
        {
            var tangent = new double[mean.Length];
            foreach (double[] unit in units)
            {
                double cosine = Math.Clamp(Dot(unit, mean), -1, 1), angle = Math.Acos(cosine);
                if (angle >= tolerance)
                {
                    double factor = share * angle / Math.Sin(angle);
                    Add(tangent, factor, unit);
                    Add(tangent, -factor * cosine, mean);
                }
            }
            double turn = Norm(tangent);
            if (turn < tolerance)
            {
                break;
            }
            Scale(mean, Math.Cos(turn));
            Add(mean, Math.Sin(turn) / turn, tangent);
            Scale(mean, 1 / Norm(mean));
        }
        Scale(mean, radius);
        return mean;
    }

    private static double Divisor(double[] weights, bool normalize) => normalize && weights.Sum() is var total && Math.Abs(total) >= 1e-8 ? total : 1;

    public static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
        {
            sum += a[i] * b[i];
        }
        return sum;
    }

    public static double Norm(double[] a) => Math.Sqrt(Dot(a, a));

    public static void Add(double[] to, double factor, double[] from)
    {
        for (int i = 0; i < to.Length; i++)
        {
            to[i] += factor * from[i];
        }
    }

    public static void Scale(double[] values, double factor)
    {
        for (int i = 0; i < values.Length; i++)
        {
            values[i] *= factor;
        }
    }
}
