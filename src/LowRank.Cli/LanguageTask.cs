using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Texts whose every next token is predicted; what a prompt column holds stands before and is not learned.</summary>
internal sealed record LanguageTask(Tokenizer Tokenizer, TextChoice Asked) : TextTask<LanguageTask.Sample>(Tokenizer, Asked)
{
    /// <summary>Its word.</summary>
    public const string Kind = "causal-lm";

    private const string PlainEnding = ".txt";

    /// <inheritdoc/>
    public override string TaskType => "CAUSAL_LM";

    /// <inheritdoc/>
    public override string Samples => Choice.Packed ? "blocks" : "texts";

    /// <inheritdoc/>
    public override Metric Metric { get; } = new("perplexity", "e to the cross-entropy", HigherIsBetter: false);

    /// <inheritdoc/>
    public override FineTuneTask For(PretrainedModel model, FineTuneOptions? options = null) => CommonOptions.AsText(model).Head == TextHead.CausalLanguage ? base.For(model, options)
        : throw new UsageException($"task is {Kind} and the model a {model.TransformersClass}, want one that predicts the next token, such as LlamaForCausalLM");

    /// <summary>Of plain text a row a line that is not blank; where texts are packed the whole file is one row, line breaks and all.</summary>
    protected override IReadOnlyList<TextRow> ReadRows(string file)
    {
        if (Path.GetExtension(file) != PlainEnding)
        {
            return TextTable.Read(file, Choice.TextColumn, Choice.PromptColumn);
        }
        if (Choice.PromptColumn is not null)
        {
            throw new UsageException($"{file}: prompt-column is {Choice.PromptColumn} and plain text has no columns, want {TextTable.Endings}");
        }
        return Choice.Packed
            ? [TextFile.Read(file, "plain text", reader => new TextRow([reader.ReadToEnd(), null], 1))]
            : [.. TextFile.Lines(file).Index().Where(l => !string.IsNullOrWhiteSpace(l.Item)).Select(l => new TextRow([l.Item, null], l.Index + 1))];
    }

    /// <summary>Samples; one that asks for no token, such as a text of a single one, is passed over.</summary>
    protected override IReadOnlyList<Sample> Encode(TextEncoder encoder, string file, IReadOnlyList<TextRow> rows)
    {
        Sample[] whole = TextEncoder.All(rows, row => Whole(encoder, file, row));
        return [.. (Choice.Packed ? Blocks(whole, encoder.MaxTokens) : whole.Select(s => Cut(s, encoder))).Where(s => s.Asked > 0)];
    }

    /// <inheritdoc/>
    protected override int TargetsOf(Sample sample) => sample.Asked;

    /// <inheritdoc/>
    protected override Tensor Loss(TextModel model, Sample[] samples, FineTuneOptions options)
    {
        (TextBatch batch, int[] labels) = Pad(model, samples);
        return model.NextWordLoss(batch, Losses.Shifted(labels, batch.Tokens), options.LabelSmoothing);
    }

    /// <inheritdoc/>
    protected override TaskEvaluation Evaluate(TextModel model, IReadOnlyList<Sample> samples, CancellationToken cancellation)
    {
        double sum = 0;
        long tokens = 0;
        foreach (Sample[] batch in Batches(samples, s => s.Ids.Length))
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            int asked = batch.Sum(s => s.Asked);
            sum += asked * Loss(model, batch, new FineTuneOptions()).Item();
            tokens += asked;
        }
        return new LanguageEvaluation(samples.Count, tokens, sum / tokens);
    }

    /// <summary>Prompt and text, with the token that ends a text behind them where the model has one.</summary>
    private static Sample Whole(TextEncoder encoder, string file, TextRow row)
    {
        int[] prompt = row.Fields[1] is { Length: > 0 } before ? encoder.Ids(file, row, before, special: true) : [], text = encoder.Ids(file, row, row[0], special: prompt.Length == 0);
        int[] end = encoder.EndIds is [var first, ..] && !encoder.EndIds.Contains(text[^1]) ? [first] : [];
        return new Sample([.. prompt, .. text, .. end], [.. Enumerable.Repeat(Losses.Ignored, prompt.Length), .. text, .. end]);
    }

    /// <summary>A text that is too long loses the beginning of its prompt, then its own end.</summary>
    private static Sample Cut(Sample sample, TextEncoder encoder)
    {
        int over = sample.Ids.Length - encoder.MaxTokens, prompt = Array.FindIndex(sample.Labels, l => l != Losses.Ignored);
        encoder.Count(over > 0);
        int start = Math.Clamp(over, 0, Math.Max(0, prompt - 1));      // a token before the text stays: the first one is predicted from it
        return over <= 0 ? sample : new Sample(sample.Ids[start..(start + encoder.MaxTokens)], sample.Labels[start..(start + encoder.MaxTokens)]);
    }

    /// <summary>All texts one after the other, cut into blocks; what is left at the end is one too.</summary>
    private static IEnumerable<Sample> Blocks(Sample[] texts, int tokens)
    {
        int[] ids = [.. texts.SelectMany(t => t.Ids)], labels = [.. texts.SelectMany(t => t.Labels)];
        return ids.Chunk(tokens).Zip(labels.Chunk(tokens), (i, l) => new Sample(i, l));
    }

    private static (TextBatch Batch, int[] Labels) Pad(TextModel model, Sample[] samples)
    {
        TextBatch batch = TextBatch.Pad([.. samples.Select(s => s.Ids)], model.PadId);
        int[] labels = [.. samples.SelectMany(s => s.Labels.Concat(Enumerable.Repeat(Losses.Ignored, batch.Tokens - s.Labels.Length)))];
        return (batch, labels);
    }

    /// <summary>Token ids, and those to be predicted from what stands before them.</summary>
    internal sealed record Sample(int[] Ids, int[] Labels)
    {
        /// <summary>Tokens that are asked for; the first has nothing before it.</summary>
        public int Asked { get; } = Labels.Skip(1).Count(l => l != Losses.Ignored);
    }
}

/// <summary>How well a model predicts texts.</summary>
/// <param name="Texts">Texts or blocks.</param>
/// <param name="Tokens">Tokens that were asked for.</param>
/// <param name="Loss">Mean cross-entropy of a token in nats.</param>
internal sealed record LanguageEvaluation(int Texts, long Tokens, double Loss) : TaskEvaluation
{
    /// <inheritdoc/>
    public override int Samples => Texts;

    /// <inheritdoc/>
    public override IReadOnlyList<(string Name, double Value)> Metrics => [("perplexity", Math.Exp(Loss)), ("loss", Loss), ("bits_per_token", Loss / Math.Log(2)), ("tokens", Tokens)];
}
