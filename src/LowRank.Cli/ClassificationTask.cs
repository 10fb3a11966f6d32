using System.Globalization;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Texts, or pairs of texts, sorted into classes.</summary>
internal sealed record ClassificationTask : TextTask<ClassificationTask.Sample>
{
    /// <summary>Its word.</summary>
    public const string Kind = "classification";

    private const int MostNamed = 12;
    private readonly Dictionary<string, int> labels;

    /// <summary>Reads the texts; a trained model's classes are kept, others are those of the file.</summary>
    public ClassificationTask(Tokenizer tokenizer, TextChoice choice, TextPreprocessing? trained) : base(tokenizer, choice)
    {
        // Numbers count as numbers, words by their letters.
        Classes = trained?.Classes ?? [.. Rows.Select(r => r[2]).Distinct().OrderBy(l => int.TryParse(l, CultureInfo.InvariantCulture, out int n) ? n : int.MaxValue).ThenBy(l => l, StringComparer.Ordinal)];
        labels = Classes.Index().ToDictionary(c => c.Item, c => c.Index);
    }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Classes { get; }

    /// <inheritdoc/>
    public override string TaskType => "SEQ_CLS";

    /// <inheritdoc/>
    protected override IReadOnlyList<TextRow> ReadRows(string file) => TextTable.Read(file, Choice.TextColumn, Choice.PairColumn, Choice.LabelColumn);

    /// <inheritdoc/>
    protected override IReadOnlyList<Sample> Encode(TextEncoder encoder, string file, IReadOnlyList<TextRow> rows) =>
        TextEncoder.All(rows, row => new Sample(encoder.Encode(file, row, row[0], row.Fields[1]), labels.TryGetValue(row[2], out int label) ? label
            : throw TextEncoder.Bad(file, row, Choice.LabelColumn, $"label '{row[2]}' was not met in training, want one of {string.Join(", ", Classes.Take(MostNamed))}{(Classes.Count > MostNamed ? ", ..." : "")}")));

    /// <inheritdoc/>
    protected override Tensor Loss(TextModel model, Sample[] samples, FineTuneOptions options) => Losses.CrossEntropy(Logits(model, samples), [.. samples.Select(s => s.Label)], options.LabelSmoothing);

    /// <inheritdoc/>
    protected override TaskEvaluation Evaluate(TextModel model, IReadOnlyList<Sample> samples, CancellationToken cancellation) =>
        ClassEvaluation.Of(model, Batches(samples, s => s.Text.Ids.Length), Classes, batch => (Logits(model, batch), [.. batch.Select(s => s.Label)]), cancellation);

    private static Tensor Logits(TextModel model, Sample[] samples) => model.Forward(Encoded.Batch(samples.Select(s => s.Text), model)).Logits!;

    /// <summary>A text and the number of its class.</summary>
    internal sealed record Sample(Encoded Text, int Label);
}
