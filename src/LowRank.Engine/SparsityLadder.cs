namespace LowRank;

/// <summary>How the thresholds of a <see cref="SparsityLadder"/> lie between the first and the last.</summary>
public enum LadderKind
{
    /// <summary>At equal distances.</summary>
    Linear,
    /// <summary>Logarithms of numbers at equal distances between the exponentials of the ends.</summary>
    LogLinear,
    /// <summary>Exponentials of numbers at equal distances between the logarithms of the ends.</summary>
    ExpLinear,
}

/// <summary>What a stage of a sparsifying schedule led to.</summary>
/// <param name="Threshold">λ₂ of the stage.</param>
/// <param name="Sparsity">Share of the gates that are 0, in percent.</param>
/// <param name="Memorization">Metric on the training data over the best of all stages, in percent.</param>
/// <param name="Generalization">The same on data kept to measure with.</param>
public sealed record SparsityStage(double Threshold, double Sparsity, double Memorization, double Generalization);

/// <summary>The sparsifying schedule of SoRA (arXiv 2311.11696, official code): thresholds λ₂ that rise from stage to stage over the same weights and moments.</summary>
public sealed class SparsityLadder
{
    /// <summary>A list of thresholds.</summary>
    /// <param name="kind">How they lie.</param>
    /// <param name="first">λ₂ of the first stage, often 0: dense.</param>
    /// <param name="last">λ₂ of the last.</param>
    /// <param name="count">Stages.</param>
    /// <exception cref="ShapeException">An end is negative or not finite, there are fewer than two, or an exponential ladder begins at 0.</exception>
    public SparsityLadder(LadderKind kind, double first, double last, int count)
    {
        (string What, object Got, string Want)? fault = !(first >= 0 && double.IsFinite(first)) ? ("first", first, "0 or more")
            : !(last >= 0 && double.IsFinite(last)) ? ("last", last, "0 or more")
            : count < 2 ? ("count", count, "at least 2")
            : kind == LadderKind.ExpLinear && !(first > 0 && last > 0) ? ("first", Math.Min(first, last), "more than 0: the ladder is made of its logarithm")
            : null;
        if (fault is var (what, got, want))
        {
            throw new ShapeException($"SparsityLadder: {what} is {got}, want {want}");
        }
        Func<double, double> into = kind switch { LadderKind.LogLinear => Math.Exp, LadderKind.ExpLinear => Math.Log, _ => v => v };
        Func<double, double> back = kind switch { LadderKind.LogLinear => Math.Log, LadderKind.ExpLinear => Math.Exp, _ => v => v };
        Thresholds = [.. Enumerable.Range(0, count).Select(i => back(into(first) + ((into(last) - into(first)) * i / (count - 1))))];
    }

    /// <summary>λ₂ by stage.</summary>
    public IReadOnlyList<double> Thresholds { get; }

    /// <summary>λ₂ after so many changes of stage; the last one stays.</summary>
    public double At(int stage) => Thresholds[Math.Clamp(stage, 0, Thresholds.Count - 1)];

    /// <summary>Trains through all stages with one optimiser.</summary>
    /// <param name="optimizer">Its threshold is set before each stage.</param>
    /// <param name="gates">The gates, to be counted.</param>
    /// <param name="frozenRate">Stages after the first run at a learning rate of 0, so that only the threshold acts, as the official scheduler seems to leave it;
    /// false: each stage warms up anew.</param>
    /// <param name="train">Trains a stage at its number and a factor on the learning rate (1, or 0 where it is frozen); gives the metrics on the training data and on
    /// the data kept to measure with, higher being better.</param>
    public IReadOnlyList<SparsityStage> Run(GatedAdamW optimizer, IReadOnlyList<Parameter> gates, bool frozenRate, Func<int, double, (double Train, double Kept)> train)
    {
        List<(double Sparsity, double Train, double Kept)> stages = [];
        for (int stage = 0; stage < Thresholds.Count; stage++)
        {
            optimizer.Threshold = Thresholds[stage];
            (double onTraining, double onKept) = train(stage, frozenRate && stage > 0 ? 0 : 1);
            double[] values = [.. gates.SelectMany(g => g.Value.ToDoubles())];
            stages.Add((100.0 * values.Count(v => v == 0) / values.Length, onTraining, onKept));
        }
        (double best, double bestKept) = (stages.Max(s => s.Train), stages.Max(s => s.Kept));
        return [.. stages.Select((s, i) => new SparsityStage(Thresholds[i], s.Sparsity, 100 * s.Train / best, 100 * s.Kept / bestKept))];
    }
}
