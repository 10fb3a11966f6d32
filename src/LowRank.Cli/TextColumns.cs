using System.CommandLine;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>Options that say what is learned from texts and how their table is read.</summary>
internal sealed class TextColumns
{
    private const int DefaultTokens = 128;
    private readonly Option<string> task = new("--task") { Description = $"What is learned from texts: {string.Join(", ", TextTask.Kinds)}.", DefaultValueFactory = _ => ClassificationTask.Kind };
    private readonly Option<string?> text = new("--text-column") { Description = "Column of the text. Default: text, for embeddings anchor." };
    private readonly Option<string?> pair = new("--pair-column") { Description = "Column of a second text beside the first. Default: none, for embeddings positive, the text that belongs to the anchor." };
    private readonly Option<string?> negative = new("--negative-column") { Description = "Column of a text that does not belong to the anchor (embedding). Default: those of the other rows alone." };
    private readonly Option<string?> prompt = new("--prompt-column") { Description = "Column of what stands before the text and is not learned (causal-lm)." };
    private readonly Option<string?> label = new("--label-column") { Description = "Column of the class or number. Default: label." };
    private readonly Option<int> most = new("--max-tokens") { Description = "Tokens a text may have, special ones included; longer texts are cut. Tokens of a block with --packed.", DefaultValueFactory = _ => DefaultTokens };
    private readonly Option<bool> packed = new("--packed") { Description = "Fill blocks of --max-tokens with texts one after the other, no padding (causal-lm)." };
    private readonly Option<double> temperature = new("--temperature") { Description = "Divides the cosines in the contrastive loss (embedding).", DefaultValueFactory = _ => EmbeddingTask.DefaultTemperature };

    public TextColumns() => task.AcceptOnlyFromAmong([.. TextTask.Kinds]);

    /// <summary>True where the folder holds a model for text.</summary>
    public static bool IsText(string modelFolder) => ModelConfig.Read(modelFolder).ModelType != "vit";

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[task, text, pair, negative, prompt, label, most, packed, temperature])
        {
            command.Options.Add(option);
        }
    }

    /// <summary>What the user says; what is left open is as in training, where that is known.</summary>
    public TextChoice Choice(ParseResult parsed, string source, string? evalSource = null, ulong seed = 0, double holdOut = 0.1, TextPreprocessing? trained = null)
    {
        bool Open(Option option) => parsed.GetResult(option) is null or { Implicit: true };
        string kind = Open(task) && trained is not null ? trained.Task : parsed.GetValue(task)!;
        TextChoice? before = trained?.Data?.Task == kind ? trained.Data : null;
        (string first, string? second) = kind == EmbeddingTask.Kind ? ("anchor", "positive") : ("text", null);
        return new TextChoice(
            source,
            parsed.GetValue(text) ?? before?.TextColumn ?? first,
            parsed.GetValue(label) ?? before?.LabelColumn ?? "label",
            parsed.GetValue(pair) ?? before?.PairColumn ?? second,
            Open(most) && trained is not null ? trained.MaxTokens : parsed.GetValue(most),
            evalSource,
            seed,
            holdOut,
            kind,
            parsed.GetValue(prompt) ?? before?.PromptColumn,
            parsed.GetValue(negative) ?? before?.NegativeColumn,
            Open(packed) && before is not null ? before.Packed : parsed.GetValue(packed),
            Open(temperature) && before is not null ? before.Temperature : parsed.GetValue(temperature));
    }
}
