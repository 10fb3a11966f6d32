namespace LowRank.Adapters;

/// <summary>What of a task vector stays.</summary>
internal enum Sparsity
{
    /// <summary>All.</summary>
    None,
    /// <summary>The largest magnitudes (TIES, arXiv 2306.01708).</summary>
    Largest,
    /// <summary>Any, at random (DARE, arXiv 2311.03099).</summary>
    Random,
    /// <summary>At random, large ones more likely in each row (DELLA, arXiv 2406.11617).</summary>
    ByRank,
    /// <summary>Neither the largest nor the smallest (Model Breadcrumbs, arXiv 2312.06795).</summary>
    Middle,
}

/// <summary>Merges of task vectors D = X - B, one tensor at a time, by mergekit's rules.</summary>
internal static class TaskVectorRules
{
    /// <summary>B + λ·Σ w·D' (/ Σ w), D' what the sparsity leaves; with an election of the entries that have the sign of Σ w·D' alone, 0 counting as plus.</summary>
    public static MergeFigures Merge(MergeTensor t, Sparsity sparsity, bool elects)
    {
        IReadOnlyList<MergeTerm> terms = [.. t.Parts.Select(p => Sparse(t, p, sparsity))];
        if (sparsity == Sparsity.Largest)
        {
            terms = TensorMerge.KeepLargest(t.Start, terms, [.. t.Parts.Select(p => Density(p) is > 0 and < 1 and var d ? Math.Max(1, (long)(d * t.Count)) : t.Count)]);
        }
        double[] rescaled = [.. t.Parts.Select(_ => 1.0)];
        if (t.Flag("rescale") && sparsity != Sparsity.None)
        {
            const double least = 1e-7;
            MergeFigures sums = TensorMerge.Run(t.Start, terms, MergeRule.Sum, null);
            rescaled = [.. sums.Magnitudes.Zip(sums.Kept, (before, after) => before >= least && after >= least ? before / after : 1)];
        }
        terms = [.. terms.Select((term, i) => term with { Weight = t.Parts[i].Settings["weight"] * rescaled[i], Share = t.Parts[i].Settings["weight"] })];
        return elects
            ? TensorMerge.Run(t.Start, terms, t.Flag("normalize") ? MergeRule.MeanOfAgreeing : MergeRule.Agreeing, t.Y, t.Settings["lambda"], compares: t.Compares)
            : MergeRules.Sum(t, terms, t.Settings["lambda"]);
    }

    /// <summary>r = N·c/(1 + (N-1)·c) of the mean cosine c between task vectors; B + r·mean D (Model Stock, arXiv 2403.19522).</summary>
    public static double[] ModelStock(MergeTensor t)
    {
        const double least = 1e-6;
        double[][] vectors = t.Differences();
        int rows = t.Flag("filter_wise") ? t.Rows : 1, cols = rows == 0 ? 0 : t.Count / rows, n = vectors.Length;
        double[] merged = MergeRules.Sum(vectors, [.. vectors.Select(_ => 1.0 / n)], normalize: false);
        for (int row = 0; row < rows; row++)
        {
            ReadOnlySpan<double> Row(int vector) => vectors[vector].AsSpan(row * cols, cols);
            double sum = 0;
            for (int i = 0; i < n; i++)
            {
                for (int j = i + 1; j < n; j++)
                {
                    double norms = Math.Sqrt(MergeRules.Dot(Row(i), Row(i))) * Math.Sqrt(MergeRules.Dot(Row(j), Row(j)));
                    sum += Math.Clamp(MergeRules.Dot(Row(i), Row(j)) / Math.Max(least, norms), -1, 1);
                }
            }
            double cosine = sum / (n * (n - 1) / 2), ratio = n * cosine / (1 + ((n - 1) * cosine));
            foreach (ref double value in merged.AsSpan(row * cols, cols))
            {
                value *= ratio;
            }
        }
        MergeRules.Add(merged, 1, t.Base!);
        return merged;
    }

    /// <summary>Of the entries that vary most over the models; w = mean D² over their sum; the mean of those that have the sign of Σ D (SCE, arXiv 2408.07990).</summary>
    public static double[] Sce(MergeTensor t)
    {
        const double least = 1e-6;
        double[][] vectors = t.Differences();
        double share = t.Settings["select_topk"];
        if (share < 1)
        {
            double[] variances = [.. Enumerable.Range(0, t.Count).Select(i => Variance(vectors, i))];
            Magnitudes.KeepLargest(variances, Math.Max(0, (int)(share * variances.Count(v => v != 0))));
            foreach (double[] vector in vectors)
            {
                for (int i = 0; i < vector.Length; i++)
                {
                    vector[i] = variances[i] == 0 ? 0 : vector[i];
                }
            }
        }
        double[] weights = [.. vectors.Select(v => MergeRules.Dot(v, v) / Math.Max(1, v.Length))];
        double total = weights.Sum();
        weights = [.. weights.Select(w => Math.Abs(total) < least ? 1.0 / vectors.Length : w / total)];
        var merged = new double[t.Count];
        for (int i = 0; i < merged.Length; i++)
        {
            double election = 0, sum = 0, agreeing = 0;
            foreach (double[] vector in vectors)
            {
                election += vector[i];
            }
            for (int v = 0; v < vectors.Length; v++)
            {
                if (Math.Sign(vectors[v][i]) == (election >= 0 ? 1 : -1))
                {
                    sum += weights[v] * vectors[v][i];
                    agreeing += weights[v];
                }
            }
            merged[i] = t.Base![i] + (sum / Math.Max(least, agreeing));
        }
        return merged;
    }

    /// <summary>B + f·D, f = min(1, t/|D|): entries that lie near the other model's become those.</summary>
    public static double[] NearSwap(MergeTensor t)
    {
        double near = t.Settings["t"];
        double[] vector = t.Differences()[0];
        for (int i = 0; i < vector.Length; i++)
        {
            double share = vector[i] == 0 ? 1 : Math.Clamp(near / Math.Abs(vector[i]), 0, 1);
            vector[i] = t.Base![i] + (share * vector[i]);
        }
        return vector;
    }

    /// <summary>B + D where the importance |D|·KL(softmax X ‖ softmax B) of a row is at least the median and 1.5 times the distance of the quartiles.</summary>
    public static double[] ArceeFusion(MergeTensor t)
    {
        const double epsilon = 1e-8;
        double[] x = t.Parts[0].Values, importance = new double[t.Count];
        double[] p = new double[t.Cols], q = new double[t.Cols];
        for (int row = 0; row < t.Rows; row++)
        {
            Softmax(x.AsSpan(row * t.Cols, t.Cols), p);
            Softmax(t.Base!.AsSpan(row * t.Cols, t.Cols), q);
            double divergence = 0;
            for (int j = 0; j < t.Cols; j++)
            {
                divergence += (p[j] + epsilon) * Math.Log((p[j] + epsilon) / (q[j] + epsilon));
            }
            for (int i = row * t.Cols; i < (row + 1) * t.Cols; i++)
            {
                importance[i] = Math.Abs(x[i] - t.Base![i]) * divergence;
            }
        }
        double[] sorted = [.. importance.Order()];
        double Quantile(double share) => sorted[(int)(share * (sorted.Length - 1))];
        double threshold = sorted.Length == 0 ? 0 : Quantile(0.5) + (1.5 * (Quantile(0.75) - Quantile(0.25)));
        return [.. x.Select((v, i) => importance[i] >= threshold ? v : t.Base![i])];
    }

    private static double Variance(double[][] vectors, int at)
    {
        double mean = vectors.Average(v => v[at]);
        return vectors.Average(v => (v[at] - mean) * (v[at] - mean));
    }

    private static void Softmax(ReadOnlySpan<double> logits, double[] probabilities)
    {
        double most = double.NegativeInfinity, sum = 0;
        foreach (double logit in logits)
        {
            most = Math.Max(most, logit);
        }
        for (int j = 0; j < logits.Length; j++)
        {
            sum += probabilities[j] = Math.Exp(logits[j] - most);
        }
        MergeRules.Scale(probabilities, 1 / sum);
    }

    private static double Density(MergePart part) => part.Settings["density"];

    /// <summary>What stays of an input, the largest aside.</summary>
    private static MergeTerm Sparse(MergeTensor t, MergePart part, Sparsity sparsity)
    {
        var all = new MergeTerm(part.Tensor);
        if (sparsity == Sparsity.None || Density(part) >= 1)
        {
            return all;
        }
        double density = Density(part);
        return density <= 0 ? all with { Draws = MergeDraws.All with { To = 0 } } : sparsity switch
        {
            Sparsity.Random => t.Draws(part, null, density),
            Sparsity.ByRank => t.Draws(part, ByRank(t, part, density), density),
            Sparsity.Middle => all with { Keep = Middle(t, part, density) },
            _ => all,
        };
    }

    /// <summary>1 for the entries that are neither among the largest nor among the smallest.</summary>
    private static Tensor Middle(MergeTensor t, MergePart part, double density)
    {
        double[] vector = t.Difference(part);
        int keep = (int)(density * vector.Length), from = Math.Max(0, vector.Length - keep - (int)(part.Settings["gamma"] * vector.Length));
        Magnitudes.KeepRanks(vector, from, from + keep);
        return part.Tensor.Device.Current!.Of([vector.Length], [.. vector.Select(v => v != 0 ? (byte)1 : (byte)0)]);
    }

    /// <summary>density - ε for the smallest magnitude of a row to density + ε for the largest, by rank.</summary>
    private static Func<int, double> ByRank(MergeTensor t, MergePart part, double density)
    {
        double epsilon = part.Settings["epsilon"];
        if (density + epsilon >= 1 || density - epsilon <= 0)
        {
            throw t.Bad($"density with epsilon {epsilon} of {part.Model}", density, "both density + epsilon below 1 and density - epsilon above 0");
        }
        double[] vector = t.Difference(part), probabilities = new double[vector.Length];
        for (int row = 0; row < t.Rows; row++)
        {
            int begin = row * t.Cols;
            int[] order = [.. Enumerable.Range(begin, t.Cols).OrderBy(i => Math.Abs(vector[i]))];
            for (int rank = 0; rank < order.Length; rank++)
            {
                probabilities[order[rank]] = density - epsilon + (2 * epsilon * rank / Math.Max(1, order.Length - 1));
            }
        }
        return i => probabilities[i];
    }
}
