using System.Text.Json.Nodes;
using LowRank.Models;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The recipe of the shipped text model on a text of a few pages.</summary>
[Collection(ConsoleTests.Name)]
public sealed class PretrainTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_text_makes_the_same_model_each_time_with_a_tokenizer_of_bytes()
    {
        string text = Path.Combine(folder, "text.txt");
        string[] lines = [.. Enumerable.Range(0, 20 * 64).Select(i => $"{i % 7}{i % 11}")];
        File.WriteAllLines(text, lines);
        string[] words = ["pretrain", "--model", BaseModel.TextName, "--data", text, "--epochs", "1", "--quiet", "--json"];
        string first = Path.Combine(folder, "first"), second = Path.Combine(folder, "second");
        JsonNode row = Cli.Done([.. words, first]).Json.AsArray()[0]!;
        Cli.Done([.. words, second]);
        Assert.Equal(File.ReadAllBytes(Path.Combine(first, PretrainedModel.WeightFile)), File.ReadAllBytes(Path.Combine(second, PretrainedModel.WeightFile)));
        Assert.Equal(lines[^64..].Sum(l => l.Length + 1), row["held_out_bytes"]!.GetValue<int>());
        Assert.InRange(row["bits_per_byte"]!.GetValue<double>(), 0, 8.5);
        Assert.Equal("1", Tokenizer.Load(first).TokenOf('1'));
        Cli.Done("generate", "--model", first, "--prompt", "12", "--max-new-tokens", "3", "--greedy");
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        string text = Path.Combine(folder, "text.txt"), output = Path.Combine(folder, "out");
        File.WriteAllText(text, "a short text\n");
        Cli.Fails(ExitCode.Usage, [text, "13 bytes to train on and 0 held out, want at least 513 and 2 in 1280 lines"], "pretrain", output, "--model", BaseModel.TextName, "--data", text);
        Cli.Fails(ExitCode.Usage, ["other"], "pretrain", output, "--model", "other");
        Assert.Contains("LlamaForCausalLM", Cli.Done("pretrain", output, "--model", BaseModel.TextName, "--dry-run").Output, StringComparison.Ordinal);
        Assert.False(Directory.Exists(output));
    }
}
