using System.Globalization;

namespace LowRank.Cli;

/// <summary>A number that says how good a model is.</summary>
/// <param name="Name">Its key in JSON and the name of its chart.</param>
/// <param name="Unit">What its axis says.</param>
/// <param name="HigherIsBetter">False for errors.</param>
internal sealed record Metric(string Name, string Unit, bool HigherIsBetter = true)
{
    /// <summary>Share of the samples with the right class.</summary>
    public static Metric Accuracy { get; } = new("accuracy", "share");

    /// <summary>The value as training compares it, higher is better; and back, as it is its own inverse.</summary>
    public double Score(double value) => HigherIsBetter ? value : -value;

    /// <summary>For people: shares of one as a percentage.</summary>
    public string Text(double value, int digits = 2) => Unit == Accuracy.Unit ? value.ToString($"P{digits}", CultureInfo.InvariantCulture) : value.ToString("G5", CultureInfo.InvariantCulture);
}

/// <summary>How a model does on samples that are kept for that.</summary>
internal abstract record TaskEvaluation
{
    /// <summary>Samples measured.</summary>
    public abstract int Samples { get; }

    /// <summary>Name and value; the first one is the task's <see cref="FineTuneTask.Metric"/>.</summary>
    public abstract IReadOnlyList<(string Name, double Value)> Metrics { get; }

    /// <summary>Heads of the table.</summary>
    public virtual IReadOnlyList<string> Columns => ["metric", "value"];

    /// <summary>The table: a line a metric, or what the task has to show in its place.</summary>
    public virtual IReadOnlyList<IReadOnlyList<object>> Rows => [.. Metrics.Select(m => new object[] { m.Name, m.Value })];

    /// <summary>The value of the task's metric.</summary>
    public double Value => Metrics[0].Value;
}
