using System.Globalization;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>The report of one run: what was asked, how it did, and the curves.</summary>
internal static class TrainReport
{
    /// <summary>Makes it from a finished run.</summary>
    public static Report Make(RunSettings settings, FineTuneRun run, TaskEvaluation evaluation, string isa, string commandLine)
    {
        FineTuneOptions o = settings.Options;
        FineTuneTask task = run.Task;
        string Number(double value) => value.ToString("G6", CultureInfo.InvariantCulture);
        List<(string, string)> facts =
        [
            ("model", settings.Model),
            ("data", $"{settings.Source}{(settings.Data?.PerClass is { } few ? $", {few} images a class" : "")}, choice by seed {o.Seed}"),
            ("method", o.Method),
        ];
        if (run.Adapted is not null)
        {
            facts.Add(("adapter", $"rank {o.Rank}, alpha {Number(o.Alpha)}, targets {o.Targets}, dropout {Number(o.Dropout)}{(o.LoraPlus is { } ratio ? $", LoRA+ ratio {Number(ratio)}" : "")}"));
        }
        facts.AddRange(
        [
            ("trained", $"{run.Trainable.ToString("N0", CultureInfo.InvariantCulture)} of {run.ModelElements.ToString("N0", CultureInfo.InvariantCulture)} parameters of the model"),
            ("steps", $"{run.Steps} of {o.BatchSize} {task.Samples} in {o.Epochs} epochs"),
            ("optimiser", $"{o.Optimizer}, rate {Number(o.Rate)} {o.Schedule} after {Number(o.Warmup)} of the steps, weight decay {Number(o.WeightDecay)}, gradient norm {Number(o.MaxGradientNorm)}, label smoothing {Number(o.LabelSmoothing)}"),
            ("seed", o.Seed.ToString(CultureInfo.InvariantCulture)),
            ("type", $"{o.Type}"),
            (task.Metric.Name, string.Create(CultureInfo.InvariantCulture, $"{task.Metric.Text(evaluation.Value)} of {evaluation.Samples} {task.Samples}")),
            ("instruction set", isa),
            ("command", commandLine),
        ]);
        return new Report($"{settings.Model} adapted to {settings.Source} by {o.Method}", facts, evaluation.Columns, evaluation.Rows, Charts(run.History, o.Method, task));
    }

    /// <summary>Loss and learning rate over steps, the task's metric where it was measured.</summary>
    public static IReadOnlyList<ReportChart> Charts(IReadOnlyList<TrainingProgress> history, string label, FineTuneTask task)
    {
        double[] steps = [.. history.Select(p => (double)p.Step)];
        TrainingProgress[] measured = [.. history.Where(p => p.Evaluation is not null)];
        string name = task.Metric.Name;
        return
        [
            new ReportChart("loss", "Loss of training", "step", task.LossName, [new Curve(label, steps, [.. history.Select(p => p.Loss)])]),
            new ReportChart(name, $"{char.ToUpperInvariant(name[0])}{name[1..]} on what was kept to measure with", "step", task.Metric.Unit, [new Curve(label, [.. measured.Select(p => (double)p.Step)], [.. measured.Select(p => task.Metric.Score(p.Evaluation!.Value))])]),
            new ReportChart("rate", "Learning rate", "step", "rate", [new Curve(label, steps, [.. history.Select(p => p.LearningRate)])]),
        ];
    }
}
