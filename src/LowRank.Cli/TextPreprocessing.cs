using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using LowRank.Adapters;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary>Which texts are trained on, which are kept to measure with, and what is learned from them.</summary>
/// <param name="Source">What <c>--data</c> names: a .csv, .tsv or .jsonl file, for a language model also .txt.</param>
/// <param name="TextColumn">Column of the text; of the anchor for embeddings, of the answer where there is a prompt.</param>
/// <param name="LabelColumn">Column of its class or number.</param>
/// <param name="PairColumn">Column of a second text beside it, or null; of the text that belongs to the anchor for embeddings.</param>
/// <param name="MaxTokens">Tokens a text may have; longer ones are cut. Tokens of a block where texts are packed.</param>
/// <param name="EvalSource">Texts to measure with; null holds some of <paramref name="Source"/> out.</param>
/// <param name="Seed">Of that choice.</param>
/// <param name="HoldOut">Share held out.</param>
/// <param name="Task">One of <see cref="TextTask.Kinds"/>.</param>
/// <param name="PromptColumn">Column of what stands before the text and is not learned, or null.</param>
/// <param name="NegativeColumn">Column of a text that does not belong to the anchor, or null.</param>
/// <param name="Packed">Texts one after the other fill blocks of <paramref name="MaxTokens"/>; else each is a sample of its own.</param>
/// <param name="Temperature">Divides the cosines of embeddings in their loss.</param>
internal sealed record TextChoice(
    string Source, string TextColumn, string LabelColumn, string? PairColumn, int MaxTokens, string? EvalSource, ulong Seed, double HoldOut = 0.1, string Task = ClassificationTask.Kind,
    string? PromptColumn = null, string? NegativeColumn = null, bool Packed = false, double Temperature = EmbeddingTask.DefaultTemperature)
{
    /// <summary>Checks what has a range of its own.</summary>
    /// <exception cref="UsageException">A number is out of range: names it.</exception>
    public void Check()
    {
        if (!(HoldOut > 0 && HoldOut < 1) || MaxTokens < 1 || !(Temperature > 0 && double.IsFinite(Temperature)))
        {
            throw new UsageException(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"texts: hold-out is {HoldOut}, max-tokens {MaxTokens} and temperature {Temperature}, want a share between 0 and 1, at least 1 token and more than 0"));
        }
    }
}

/// <summary>How texts become a network's input, and what its outputs are called; lowrank.json beside the weights, so that an evaluation repeats it.</summary>
internal sealed record TextPreprocessing
{
    /// <summary>One of <see cref="TextTask.Kinds"/>.</summary>
    public required string Task { get; init; }

    /// <summary>Names of the outputs in their order; null where the head is the model's own.</summary>
    public IReadOnlyList<string>? Classes { get; init; }

    /// <summary>Tokens a text may have.</summary>
    public required int MaxTokens { get; init; }

    /// <summary>What was trained on; null where that is not known.</summary>
    public TextChoice? Data { get; init; }

    /// <summary>The settings of a folder, or null where it has none: nothing was trained there from texts.</summary>
    /// <exception cref="ModelFormatException">The file is damaged.</exception>
    public static TextPreprocessing? Read(string folder)
    {
        JsonObject whole = LowRankFile.Read(folder);
        if (!whole.ContainsKey("task"))
        {
            return null;
        }
        string path = Path.Combine(folder, LowRankFile.Name);
        try
        {
            TextPreprocessing read = whole.Deserialize(TextJson.Default.TextPreprocessing)!;
            return read.Classes?.Count != 0 && read.MaxTokens > 0 && TextTask.Kinds.Contains(read.Task) ? read
                : throw new JsonException($"there are no classes, max_tokens is no positive number, or the task is none of {string.Join(", ", TextTask.Kinds)}");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"TextPreprocessing: {path}: {error.Message}", error) { File = path, Key = error.Path };
        }
    }

    /// <summary>Writes lowrank.json into a folder that is there.</summary>
    public void Write(string folder) => LowRankFile.Write(folder, JsonSerializer.SerializeToNode(this, TextJson.Default.TextPreprocessing)!.AsObject());
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, AllowDuplicateProperties = false)]
[JsonSerializable(typeof(TextPreprocessing))]
internal sealed partial class TextJson : JsonSerializerContext;
