using System.CommandLine;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>Options that say how a table of labelled texts is read.</summary>
internal sealed class TextColumns
{
    private readonly Option<string> task = new("--task") { Description = "What is learned from texts: classification.", DefaultValueFactory = _ => "classification" };
    private readonly Option<string> text = new("--text-column") { Description = "Column of the text.", DefaultValueFactory = _ => "text" };
    private readonly Option<string?> pair = new("--pair-column") { Description = "Column of a second text beside the first." };
    private readonly Option<string> label = new("--label-column") { Description = "Column of the label.", DefaultValueFactory = _ => "label" };
    private readonly Option<int> most = new("--max-tokens") { Description = "Tokens a text may have, special ones included; longer texts are cut.", DefaultValueFactory = _ => 128 };

    public TextColumns() => task.AcceptOnlyFromAmong("classification");

    /// <summary>True where the folder holds a model for text.</summary>
    public static bool IsText(string modelFolder) => ModelConfig.Read(modelFolder).ModelType != "vit";

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[task, text, pair, label, most])
        {
            command.Options.Add(option);
        }
    }

    public TextChoice Choice(ParseResult parsed, string source, string? evalSource = null, ulong seed = 0, double holdOut = 0.1) =>
        new(source, parsed.GetValue(text)!, parsed.GetValue(label)!, parsed.GetValue(pair), parsed.GetValue(most), evalSource, seed, holdOut);

    /// <summary>Tokens a text may have, where the user says so.</summary>
    public int? MaxTokens(ParseResult parsed) => parsed.GetResult(most) is { Implicit: false } ? parsed.GetValue(most) : null;
}
