using LowRank.Formats;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Something that is learned from texts; a kind of task is one file that derives from <see cref="TextTask{T}"/> and one line in <see cref="All"/>.</summary>
internal abstract record TextTask : FineTuneTask
{
    private static readonly (string Kind, Func<Tokenizer, TextChoice, TextPreprocessing?, TextTask> Read)[] All =
    [
        (ClassificationTask.Kind, (tokenizer, choice, trained) => new ClassificationTask(tokenizer, choice, trained)),
        (RegressionTask.Kind, (tokenizer, choice, _) => new RegressionTask(tokenizer, choice)),
        (LanguageTask.Kind, (tokenizer, choice, _) => new LanguageTask(tokenizer, choice)),
        (EmbeddingTask.Kind, (tokenizer, choice, _) => new EmbeddingTask(tokenizer, choice)),
    ];

    /// <summary>What <c>--task</c> takes.</summary>
    public static IReadOnlyList<string> Kinds { get; } = [.. All.Select(t => t.Kind)];

    /// <inheritdoc/>
    public override string Samples => "texts";

    /// <summary>Reads texts to train on and to measure with, or with <paramref name="trained"/> those to measure a trained model with.</summary>
    /// <exception cref="ModelFormatException">A file is damaged: names file, line and column.</exception>
    /// <exception cref="IOException">A file is missing or unreadable.</exception>
    public static TextTask Read(string modelFolder, TextChoice choice, TextPreprocessing? trained = null)
    {
        choice.Check();
        return All.First(t => t.Kind == choice.Task).Read(Tokenizer.Load(modelFolder), choice, trained);
    }

    /// <summary>This task with all its texts to measure with, none to train on.</summary>
    public abstract TextTask ToMeasure();
}

/// <summary>What all tasks of texts share: reading, encoding, holding out, batches of like length, lowrank.json.</summary>
/// <typeparam name="T">An encoded sample.</typeparam>
internal abstract record TextTask<T> : TextTask
{
    private const int EvaluationBatch = 32;
    private readonly Tokenizer tokenizer;
    private readonly IReadOnlyList<TextRow> rows;
    private readonly IReadOnlyList<TextRow>? measured;
    private IReadOnlyList<T> train = [], test = [];
    private bool trains = true;
    private TextEncoder? encoder;

    /// <summary>Reads the texts.</summary>
    protected TextTask(Tokenizer tokenizer, TextChoice choice)
    {
        (this.tokenizer, Choice) = (tokenizer, choice);
        rows = ReadRows(choice.Source);
        measured = choice.EvalSource is { } file ? ReadRows(file) : null;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<string>? Classes => null;

    /// <inheritdoc/>
    public override int TrainCount => train.Count;

    /// <inheritdoc/>
    public override int TestCount => test.Count;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Warnings => encoder?.Warnings ?? [];

    /// <summary>What was asked for.</summary>
    protected TextChoice Choice { get; }

    /// <summary>Every row to train on, those held out included.</summary>
    protected IReadOnlyList<TextRow> Rows => rows;

    /// <inheritdoc/>
    public override TextTask ToMeasure() => this with { trains = false };

    /// <inheritdoc/>
    public override FineTuneTask For(PretrainedModel model, FineTuneOptions? options = null)
    {
        var own = new TextEncoder(tokenizer, CommonOptions.AsText(model), Choice.MaxTokens);
        IReadOnlyList<T> all = Encode(own, Choice.Source, rows);
        if (!trains)
        {
            return this with { encoder = own, test = all };
        }
        if (measured is not null)
        {
            return this with { encoder = own, train = all, test = Encode(own, Choice.EvalSource!, measured) };
        }
        if (all.Count < 2)
        {
            throw new ModelFormatException($"{Choice.Source}: there is one sample, want at least one to train on and one to measure with") { File = Choice.Source };
        }
        int[] order = new Rng(Choice.Seed).Fork("hold-out").Permutation(all.Count);
        int held = Math.Clamp((int)Math.Round(all.Count * Choice.HoldOut), 1, all.Count - 1);
        return this with { encoder = own, train = [.. order[held..].Order().Select(i => all[i])], test = [.. order[..held].Order().Select(i => all[i])] };
    }

    /// <inheritdoc/>
    public override double Targets(ReadOnlySpan<int> indices)
    {
        double sum = 0;
        foreach (int i in indices)
        {
            sum += TargetsOf(train[i]);
        }
        return sum;
    }

    /// <inheritdoc/>
    public override Tensor Loss(PretrainedModel model, TrainingBatch batch, FineTuneOptions options) =>
        Loss((TextModel)model, [.. batch.Indices.ToArray().Select(i => train[i])], options);

    /// <inheritdoc/>
    public override TaskEvaluation Evaluate(PretrainedModel model, CancellationToken cancellation = default) => Evaluate((TextModel)model, test, cancellation);

    /// <inheritdoc/>
    public override void Write(string folder) =>
        new TextPreprocessing { Task = Choice.Task, Classes = Classes, MaxTokens = encoder?.MaxTokens ?? Choice.MaxTokens, Data = Choice }.Write(folder);

    /// <summary>Rows of a file, with the columns that the task asks for.</summary>
    protected abstract IReadOnlyList<TextRow> ReadRows(string file);

    /// <summary>Samples of rows, in their order.</summary>
    /// <exception cref="ModelFormatException">A row does not fit: names file, line and column.</exception>
    protected abstract IReadOnlyList<T> Encode(TextEncoder encoder, string file, IReadOnlyList<TextRow> rows);

    /// <summary>Targets that the loss of a sample is a mean of.</summary>
    protected virtual int TargetsOf(T sample) => 1;

    /// <summary>Mean loss of samples.</summary>
    protected abstract Tensor Loss(TextModel model, T[] samples, FineTuneOptions options);

    /// <summary>Measures samples.</summary>
    protected abstract TaskEvaluation Evaluate(TextModel model, IReadOnlyList<T> samples, CancellationToken cancellation);

    /// <summary>Samples in batches, those of like length side by side: less padding.</summary>
    protected static IEnumerable<T[]> Batches(IReadOnlyList<T> samples, Func<T, int> length) => samples.OrderBy(length).Chunk(EvaluationBatch);
}
