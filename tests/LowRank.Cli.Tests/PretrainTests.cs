using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;
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
    public void A_decoder_is_made_of_factors_and_sparse_parts_and_read_again()
    {
        string text = Write(), output = Path.Combine(folder, "out"), whole = Path.Combine(folder, "whole");
        string[] words = ["pretrain", "--model", BaseModel.TextName, "--data", text, "--epochs", "1", "--quiet", "--json"];
        JsonNode row = Cli.Done([.. words, output, "--method", "sltrain", "--density", "0.02", "--optimizer", "adamw-8bit", "--per-layer"]).Json.AsArray()[0]!;
        JsonNode full = Cli.Done([.. words, whole, "--optimizer", "galore", "--rank", "8", "--per-layer"]).Json.AsArray()[0]!;
        using Device device = Device.Cpu();
        using var model = (TextModel)PretrainedModel.Load(output, device);
        int[] ids = [.. Enumerable.Range(0, 300).Select(i => '0' + (i % 7))];
        double merged = model.BitsPerToken(ids, cancellation: TestContext.Current.CancellationToken);
        using AdaptedModel adapted = model.AttachPeft(Path.Combine(output, "sltrain"));
        adapted.ReleaseBase();
        Assert.Equal(merged, model.BitsPerToken(ids, cancellation: TestContext.Current.CancellationToken), Close.Model);
        long layers = adapted.Adapters.Sum(a => a.Site.Weight.Value.Shape.Count), rest = model.Parameters.Values.Sum(p => p.Value.Shape.Count) - layers;
        Assert.Equal(adapted.ParameterCount + rest, row["trainable"]!.GetValue<long>());
        Assert.Equal(layers + rest, full["trainable"]!.GetValue<long>());
        foreach (JsonNode run in (JsonNode[])[row, full])
        {
            Assert.True(run["optimizer_bytes"]!.GetValue<long>() < 4 * run["trainable"]!.GetValue<long>(), "less than half of AdamW's eight bytes an element");
        }
        Assert.InRange(full["bits_per_byte"]!.GetValue<double>(), 0, 8.5);
        Cli.Fails(ExitCode.Usage, ["--method is given beside --model base"], "pretrain", output, "--method", "sltrain");
    }

    private string Write()
    {
        string text = Path.Combine(folder, "text.txt");
        File.WriteAllLines(text, Enumerable.Range(0, 20 * 64).Select(i => $"{i % 7}{i % 11}"));
        return text;
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
