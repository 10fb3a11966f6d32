using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Sentence vectors by a contrastive loss: each anchor has to be nearer to its own text than to those of the other rows and to the negatives (multiple negatives ranking, arXiv 1705.00652).</summary>
internal sealed record EmbeddingTask(Tokenizer Tokenizer, TextChoice Asked) : TextTask<EmbeddingTask.Sample>(Tokenizer, Asked)
{
    /// <summary>Its word.</summary>
    public const string Kind = "embedding";

    /// <summary>A cosine of 1 counts 20, as is common.</summary>
    public const double DefaultTemperature = 0.05;

    private const int RankedAtOnce = 256;

    /// <inheritdoc/>
    public override string TaskType => "FEATURE_EXTRACTION";

    /// <inheritdoc/>
    public override Metric Metric { get; } = new("recall_at_1", "share");

    /// <inheritdoc/>
    public override FineTuneTask For(PretrainedModel model, FineTuneOptions? options = null) => options is null or { BatchSize: > 1 } || Choice.NegativeColumn is not null ? base.For(model, options)
        : throw new UsageException("batch-size is 1 and there is no negative-column, want at least 2: the other rows of a step are the negatives");

    /// <inheritdoc/>
    protected override IReadOnlyList<TextRow> ReadRows(string file) => TextTable.Read(file, Choice.TextColumn, Choice.PairColumn, Choice.NegativeColumn);

    /// <inheritdoc/>
    protected override IReadOnlyList<Sample> Encode(TextEncoder encoder, string file, IReadOnlyList<TextRow> rows) =>
        TextEncoder.All(rows, row => new Sample(encoder.Encode(file, row, row[0]), encoder.Encode(file, row, row[1]), row.Fields[2] is { } negative ? encoder.Encode(file, row, negative) : null));

    /// <inheritdoc/>
    protected override Tensor Loss(TextModel model, Sample[] samples, FineTuneOptions options)
    {
        Tensor Vectors(IEnumerable<Encoded> texts) => SentenceEmbedding.Mean(model, Encoded.Batch(texts, model));
        return Losses.InBatchNegatives(Vectors(samples.Select(s => s.Anchor)), Vectors([.. samples.Select(s => s.Positive), .. samples.Select(s => s.Negative).OfType<Encoded>()]), Choice.Temperature);
    }

    /// <inheritdoc/>
    protected override TaskEvaluation Evaluate(TextModel model, IReadOnlyList<Sample> samples, CancellationToken cancellation)
    {
        List<float[]> anchors = [], texts = [];
        foreach (Sample[] batch in Batches(samples, s => s.Positive.Ids.Length))
        {
            cancellation.ThrowIfCancellationRequested();
            anchors.AddRange(SentenceEmbedding.Of(model, Encoded.Batch(batch.Select(s => s.Anchor), model)));
            texts.AddRange(SentenceEmbedding.Of(model, Encoded.Batch(batch.Select(s => s.Positive), model)));
        }
        return new RetrievalEvaluation(Ranks(model.Device, anchors, texts));
    }

    /// <summary>How many texts are nearer to each anchor than its own.</summary>
    private static int[] Ranks(Device device, List<float[]> anchors, List<float[]> texts)
    {
        using Scope store = device.NewStore();
        Tensor Rows(Scope scope, IReadOnlyList<float[]> rows) => scope.Of([rows.Count, rows[0].Length], (float[])[.. rows.SelectMany(r => r)]);
        Tensor all = Rows(store, texts);
        List<int> ranks = [];
        foreach (float[][] some in anchors.Chunk(RankedAtOnce))
        {
            using Scope scope = device.BeginScope();
            foreach (float[] cosines in new MatMul(TransposeB: true).Apply(Rows(scope, some), all).ToArray().Chunk(texts.Count))
            {
                float own = cosines[ranks.Count];
                ranks.Add(cosines.Count(c => c > own));
            }
        }
        return [.. ranks];
    }

    /// <summary>Texts of a row.</summary>
    internal sealed record Sample(Encoded Anchor, Encoded Positive, Encoded? Negative);
}

/// <summary>Where each anchor's own text stands among all by cosine.</summary>
/// <param name="Ranks">Texts before it.</param>
internal sealed record RetrievalEvaluation(int[] Ranks) : TaskEvaluation
{
    /// <inheritdoc/>
    public override int Samples => Ranks.Length;

    /// <summary>Share of anchors whose own text is the first, or among the first five; mean of 1/(1 + rank).</summary>
    public override IReadOnlyList<(string Name, double Value)> Metrics =>
    [
        ("recall_at_1", Ranks.Select(r => r == 0 ? 1.0 : 0).DefaultIfEmpty(double.NaN).Average()),
        ("recall_at_5", Ranks.Select(r => r < 5 ? 1.0 : 0).DefaultIfEmpty(double.NaN).Average()),
        ("mean_reciprocal_rank", Ranks.Select(r => 1.0 / (1 + r)).DefaultIfEmpty(double.NaN).Average()),
    ];
}
