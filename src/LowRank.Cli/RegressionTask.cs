using System.Globalization;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Texts, or pairs of texts, and a number for each.</summary>
internal sealed record RegressionTask(Tokenizer Tokenizer, TextChoice Asked) : TextTask<RegressionTask.Sample>(Tokenizer, Asked)
{
    /// <summary>Its word.</summary>
    public const string Kind = "regression";

    /// <summary>One output, called as the column.</summary>
    public override IReadOnlyList<string> Classes => [Choice.LabelColumn];

    /// <inheritdoc/>
    public override string TaskType => "SEQ_CLS";

    /// <inheritdoc/>
    public override Metric Metric { get; } = new("mse", "squared error", HigherIsBetter: false);

    /// <inheritdoc/>
    public override string LossName => "squared error";

    /// <inheritdoc/>
    protected override IReadOnlyList<TextRow> ReadRows(string file) => TextTable.Read(file, Choice.TextColumn, Choice.PairColumn, Choice.LabelColumn);

    /// <inheritdoc/>
    protected override IReadOnlyList<Sample> Encode(TextEncoder encoder, string file, IReadOnlyList<TextRow> rows) =>
        TextEncoder.All(rows, row => new Sample(encoder.Encode(file, row, row[0], row.Fields[1]), float.TryParse(row[2], NumberStyles.Float, CultureInfo.InvariantCulture, out float value) && float.IsFinite(value) ? value
            : throw TextEncoder.Bad(file, row, Choice.LabelColumn, $"'{row[2]}' is no finite number")));

    /// <inheritdoc/>
    protected override Tensor Loss(TextModel model, Sample[] samples, FineTuneOptions options) => Losses.SquaredError(Values(model, samples), [.. samples.Select(s => s.Value)]);

    /// <inheritdoc/>
    protected override TaskEvaluation Evaluate(TextModel model, IReadOnlyList<Sample> samples, CancellationToken cancellation)
    {
        List<double> got = [], want = [];
        foreach (Sample[] batch in Batches(samples, s => s.Text.Ids.Length))
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            got.AddRange(Values(model, batch).ToDoubles());
            want.AddRange(batch.Select(s => (double)s.Value));
        }
        return new RegressionEvaluation([.. got], [.. want]);
    }

    private static Tensor Values(TextModel model, Sample[] samples) => model.Forward(Encoded.Batch(samples.Select(s => s.Text), model)).Logits!;

    /// <summary>A text and its number.</summary>
    internal sealed record Sample(Encoded Text, float Value);
}

/// <summary>How near numbers come to those wanted.</summary>
/// <param name="Got">What the model says.</param>
/// <param name="Want">What is right.</param>
internal sealed record RegressionEvaluation(double[] Got, double[] Want) : TaskEvaluation
{
    /// <inheritdoc/>
    public override int Samples => Got.Length;

    /// <summary>mse = mean (got - want)²; Pearson's correlation of the values and Spearman's, which is Pearson's of their ranks; NaN where all are equal.</summary>
    public override IReadOnlyList<(string Name, double Value)> Metrics { get; } =
    [
        ("mse", Got.Zip(Want, (g, w) => (g - w) * (g - w)).DefaultIfEmpty(double.NaN).Average()),
        ("pearson", Correlation(Got, Want)),
        ("spearman", Correlation(Ranks(Got), Ranks(Want))),
    ];

    private static double Correlation(double[] a, double[] b)
    {
        double[] x = Centred(a), y = Centred(b);
        return Dot(x, y) / Math.Sqrt(Dot(x, x) * Dot(y, y));
    }

    private static double Dot(double[] a, double[] b) => a.Zip(b, (x, y) => x * y).Sum();

    private static double[] Centred(double[] values)
    {
        double mean = values.DefaultIfEmpty().Average();
        return [.. values.Select(v => v - mean)];
    }

    /// <summary>Ranks from 0; equal values share the mean of theirs.</summary>
    private static double[] Ranks(double[] values)
    {
        var ranks = new double[values.Length];
        int below = 0;
        foreach (IGrouping<double, int> equal in Enumerable.Range(0, values.Length).GroupBy(i => values[i]).OrderBy(g => g.Key))
        {
            int count = equal.Count();
            foreach (int i in equal)
            {
                ranks[i] = below + ((count - 1) / 2.0);
            }
            below += count;
        }
        return ranks;
    }
}
