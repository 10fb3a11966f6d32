using System.Text.Json;
using System.Text.Json.Serialization;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Which labelled texts are trained on and which are kept to measure with.</summary>
/// <param name="Source">What <c>--data</c> names: a .csv, .tsv or .jsonl file.</param>
/// <param name="TextColumn">Column of the text.</param>
/// <param name="LabelColumn">Column of its label.</param>
/// <param name="PairColumn">Column of a second text, or null.</param>
/// <param name="MaxTokens">Tokens a text may have; longer ones are cut.</param>
/// <param name="EvalSource">Texts to measure with; null holds some of <paramref name="Source"/> out.</param>
/// <param name="Seed">Of that choice.</param>
/// <param name="HoldOut">Share held out.</param>
internal sealed record TextChoice(string Source, string TextColumn, string LabelColumn, string? PairColumn, int MaxTokens, string? EvalSource, ulong Seed, double HoldOut = 0.1);

/// <summary>How texts become a network's input, and what its outputs are called; lowrank.json beside the weights, so that an evaluation repeats it.</summary>
internal sealed record TextPreprocessing
{
    /// <summary>The kind of task.</summary>
    public required string Task { get; init; }

    /// <summary>Names of the outputs in their order.</summary>
    public required IReadOnlyList<string> Classes { get; init; }

    /// <summary>Tokens a text may have.</summary>
    public required int MaxTokens { get; init; }

    /// <summary>What was trained on; null where that is not known.</summary>
    public TextChoice? Data { get; init; }

    /// <summary>The settings of a folder, or null where it has none.</summary>
    /// <exception cref="ModelFormatException">The file is damaged, or tells of images.</exception>
    public static TextPreprocessing? Read(string folder)
    {
        string path = Path.Combine(folder, Preprocessing.FileName);
        if (!File.Exists(path))
        {
            return null;
        }
        try
        {
            TextPreprocessing read = JsonSerializer.Deserialize(File.ReadAllBytes(path), TextJson.Default.TextPreprocessing) ?? throw new JsonException("the file holds null");
            return read.Classes.Count > 0 && read.MaxTokens > 0 ? read : throw new JsonException("there are no classes, or max_tokens is no positive number");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"TextPreprocessing: {path}: {error.Message}", error) { File = path, Key = error.Path };
        }
    }
}

/// <summary>Texts to be sorted into classes.</summary>
internal sealed record TextTask : FineTuneTask
{
    private const int EvaluationBatch = 32;
    private readonly Encoded[] train, test;
    private readonly TextPreprocessing preprocessing;

    private TextTask(Encoded[] train, Encoded[] test, TextPreprocessing preprocessing) => (this.train, this.test, this.preprocessing) = (train, test, preprocessing);

    /// <inheritdoc/>
    public override IReadOnlyList<string> Classes => preprocessing.Classes;

    /// <inheritdoc/>
    public override int TrainCount => train.Length;

    /// <inheritdoc/>
    public override int TestCount => test.Length;

    /// <inheritdoc/>
    public override string Samples => "texts";

    /// <inheritdoc/>
    public override string TaskType => "SEQ_CLS";

    /// <summary>Texts that were cut.</summary>
    public int Cut => train.Concat(test).Count(t => t.IsCut);

    /// <summary>Reads texts to train on, and those to measure with.</summary>
    /// <exception cref="ModelFormatException">A file is damaged, or a label is met in the evaluation only: names file, line and column.</exception>
    public static TextTask Read(string modelFolder, TextChoice choice)
    {
        if (!(choice.HoldOut > 0 && choice.HoldOut < 1) || choice.MaxTokens < 1)
        {
            throw new UsageException($"train: hold-out is {choice.HoldOut} and max-tokens {choice.MaxTokens}, want a share between 0 and 1 and at least 1 token");
        }
        IReadOnlyList<TextRow> all = TextTable.Read(choice.Source, choice.TextColumn, choice.PairColumn, choice.LabelColumn);
        IReadOnlyList<TextRow> known = all, measured;
        if (choice.EvalSource is { } file)
        {
            measured = TextTable.Read(file, choice.TextColumn, choice.PairColumn, choice.LabelColumn);
        }
        else
        {
            int[] order = new Rng(choice.Seed).Fork("hold-out").Permutation(all.Count);
            int held = Math.Clamp((int)Math.Round(all.Count * choice.HoldOut), 1, Math.Max(1, all.Count - 1));
            measured = [.. order[..held].Order().Select(i => all[i])];
            known = [.. order[held..].Order().Select(i => all[i])];
        }
        if (known.Count == 0)
        {
            throw new ModelFormatException($"{choice.Source}: there is one row, want at least one to train on and one to measure with") { File = choice.Source };
        }
        // Numbers count as numbers, words by their letters.
        string[] classes = [.. all.Select(r => r.Label).Distinct().OrderBy(l => int.TryParse(l, out int n) ? n : int.MaxValue).ThenBy(l => l, StringComparer.Ordinal)];
        var preprocessing = new TextPreprocessing { Task = "classification", Classes = classes, MaxTokens = choice.MaxTokens, Data = choice };
        return new TextTask(Encode(modelFolder, choice.Source, choice.LabelColumn, known, preprocessing), Encode(modelFolder, choice.EvalSource ?? choice.Source, choice.LabelColumn, measured, preprocessing), preprocessing);
    }

    /// <summary>Texts to measure a trained model with.</summary>
    /// <exception cref="ModelFormatException">The file is damaged, or has a label that the model does not know: names file, line and column.</exception>
    public static TextTask ForEvaluation(string modelFolder, TextChoice choice, IReadOnlyList<string> classes)
    {
        var preprocessing = new TextPreprocessing { Task = "classification", Classes = classes, MaxTokens = choice.MaxTokens };
        return new TextTask([], Encode(modelFolder, choice.Source, choice.LabelColumn, TextTable.Read(choice.Source, choice.TextColumn, choice.PairColumn, choice.LabelColumn), preprocessing), preprocessing);
    }

    /// <inheritdoc/>
    public override Tensor Loss(PretrainedModel model, TrainingBatch batch, FineTuneOptions options)
    {
        Encoded[] texts = [.. batch.Indices.ToArray().Select(i => train[i])];
        return Losses.CrossEntropy(Logits(model, texts), [.. texts.Select(t => t.Label)]);
    }

    /// <inheritdoc/>
    public override ClassEvaluation Evaluate(PretrainedModel model, CancellationToken cancellation = default)
    {
        // Texts of like length side by side: less padding.
        Encoded[] order = [.. test.OrderBy(t => t.Ids.Length)];
        return ClassEvaluation.Of(model, order.Length, EvaluationBatch, Classes.Count, chosen => (Logits(model, [.. chosen.Select(i => order[i])]), [.. chosen.Select(i => order[i].Label)]), cancellation);
    }

    /// <inheritdoc/>
    public override void Write(string folder) => LowRankFile.Write(folder, JsonSerializer.SerializeToNode(preprocessing, TextJson.Default.TextPreprocessing)!.AsObject());

    private static Tensor Logits(PretrainedModel model, Encoded[] texts)
    {
        var text = (TextModel)model;
        return text.Forward(TextBatch.Pad([.. texts.Select(t => t.Ids)], text.PadId, types: [.. texts.Select(t => t.Types)])).Logits!;
    }

    private static Encoded[] Encode(string modelFolder, string file, string labelColumn, IReadOnlyList<TextRow> rows, TextPreprocessing preprocessing)
    {
        Tokenizer tokenizer = Tokenizer.Load(modelFolder);
        Dictionary<string, int> labels = preprocessing.Classes.Index().ToDictionary(c => c.Item, c => c.Index);
        var encoded = new Encoded[rows.Count];
        foreach (TextRow row in rows)
        {
            if (!labels.ContainsKey(row.Label))
            {
                throw new ModelFormatException($"{file}: line {row.Line}, column {labelColumn}: label '{row.Label}' was not met in training, want one of {string.Join(", ", preprocessing.Classes.Take(12))}{(preprocessing.Classes.Count > 12 ? ", ..." : "")}") { File = file, Key = labelColumn };
            }
        }
        Parallel.For(0, rows.Count, i =>
        {
            TokenEncoding tokens = tokenizer.Encode(rows[i].Text, rows[i].Pair, truncation: new Truncation(preprocessing.MaxTokens));
            encoded[i] = new Encoded(tokens.Ids, tokens.TypeIds, labels[rows[i].Label], tokens.Overflow.Count > 0);
        });
        int empty = Array.FindIndex(encoded, e => e.Ids.Length == 0);
        return empty < 0 ? encoded : throw new ModelFormatException($"{file}: line {rows[empty].Line}: the text has no token, want some text in every row") { File = file };
    }

    private sealed record Encoded(int[] Ids, int[] Types, int Label, bool IsCut);
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, AllowDuplicateProperties = false)]
[JsonSerializable(typeof(TextPreprocessing))]
internal sealed partial class TextJson : JsonSerializerContext;
