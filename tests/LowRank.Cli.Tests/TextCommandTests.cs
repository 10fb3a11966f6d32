using System.Text;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Text from the command line: train on a table, measure, merge, embed, generate; and what each refuses.</summary>
[Collection(ConsoleTests.Name)]
public sealed class TextCommandTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-text").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, InlineData("lora"), InlineData("full"), InlineData("head")]
    public void A_table_is_learned_measured_and_merged(string method)
    {
        string model = Cli.SaveEncoder(At("bert")), output = At("out"), table = Table("train.tsv", '\t', 60);
        JsonNode trained = Cli.Done("train", "--model", model, "--data", table, "--method", method, "--epochs", "8", "--learning-rate", "2e-2", "--max-tokens", "12", "--targets", "query,value", "--output", output, "--json", "--quiet").Json;
        Assert.Equal(54, trained["texts"]!.GetValue<int>());
        Assert.Equal(6, trained["count"]!.GetValue<int>());
        string[] adapter = method == "lora" ? ["--model", model, "--adapter", output] : ["--model", output];
        string[] tokenizer = method == "lora" ? [] : [Tokenizer.FileName];
        foreach (string name in tokenizer)
        {
            Assert.True(File.Exists(Path.Combine(output, name)), $"{name} is missing beside the whole model");
        }
        JsonNode measured = Cli.Done(["eval", "--data", table, "--json", .. adapter]).Json;
        Assert.Equal(60, measured["count"]!.GetValue<int>());
        double accuracy = measured["accuracy"]!.GetValue<double>();
        Assert.True(accuracy > 0.8, $"{method}: accuracy {accuracy} on two words that tell the classes apart");
        if (method == "lora")
        {
            Assert.Equal("SEQ_CLS", JsonNode.Parse(File.ReadAllText(Path.Combine(output, "adapter_config.json")))!["task_type"]!.GetValue<string>());
            Cli.Done("export", "--model", model, "--adapter", output, "--merged", At("merged"));
            JsonNode merged = Cli.Done("eval", "--data", table, "--json", "--model", At("merged")).Json;
            Assert.Equal(accuracy, merged["accuracy"]!.GetValue<double>());
            Assert.Equal(measured["loss"]!.GetValue<double>(), merged["loss"]!.GetValue<double>(), 1e-4);
        }
    }

    [Fact]
    public void Csv_tsv_and_jsonl_hold_the_same_texts()
    {
        string csv = At("a.csv"), tsv = At("a.tsv"), jsonl = At("a.jsonl");
        File.WriteAllText(csv, "id,label,text,more\n1,yes,\"a, \"\"quoted\"\"\nline\",x\n2,no,plain,\n");
        File.WriteAllText(tsv, "text\tmore\tlabel\n\"a, \"\"quoted\"\"\nline\"\tx\tyes\nplain\t\tno\n");
        File.WriteAllText(jsonl, "{\"text\":\"a, \\\"quoted\\\"\\nline\",\"label\":\"yes\"}\n\n{\"text\":\"plain\",\"label\":\"no\"}\n");
        foreach (string file in (ReadOnlySpan<string>)[csv, tsv, jsonl])
        {
            IReadOnlyList<TextRow> rows = TextTable.Read(file, "text", "label");
            Assert.Equal([("a, \"quoted\"\nline", "yes"), ("plain", "no")], rows.Select(r => (r[0], r[1])));
        }
        Assert.Equal(4, TextTable.Read(csv, "text", "label")[1].Line);
        Assert.Equal("x", TextTable.Read(csv, "text", null, "more")[0][2]);
    }

    [Fact]
    public void Vectors_are_written_as_npy_and_as_lines()
    {
        string model = Cli.SaveEncoder(At("bert")), lines = At("lines.txt");
        File.WriteAllText(lines, "the quick brown fox\n\na much longer line about the weather of today and of tomorrow\n");
        Cli.Done("embed", "--model", model, "--input", lines, "--output", At("e.npy"), "--batch-size", "2");
        Cli.Done("embed", "--model", model, "--input", lines, "--output", At("e.jsonl"), "--batch-size", "1");
        using NpyFile file = NpyFile.Open(At("e.npy"));
        float[] all = file.ReadSingle(file.Entries[0].Name);
        Assert.Equal([3, 30], file.Entries[0].Dimensions);
        float[] rows = [.. File.ReadLines(At("e.jsonl")).SelectMany(line => JsonNode.Parse(line)!.AsArray().Select(v => v!.GetValue<float>()))];
        Assert.Equal(all.Length, rows.Length);
        Assert.All(all.Zip(rows), pair => Assert.Equal(pair.First, pair.Second, 1e-5));
        Assert.Equal(1, Math.Sqrt(all.Take(30).Sum(v => (double)v * v)), 1e-5);
    }

    [Fact]
    public void A_prompt_is_continued_as_the_library_does()
    {
        string model = Testing.Golden.Find("models/qwen3")!;
        JsonNode made = Cli.Done("generate", "--model", model, "--prompt-ids", "5,17,3", "--max-new-tokens", "6", "--greedy", "--json").Json;
        using Device device = Device.Cpu();
        using var loaded = (TextModel)PretrainedModel.Load(model, device);
        Assert.Equal(loaded.Generate([[5, 17, 3]], new GenerationOptions { MaxNewTokens = 6 }, cancellation: TestContext.Current.CancellationToken)[0], made["ids"]!.AsArray().Select(i => i!.GetValue<int>()));
        string[] words = ["generate", "--model", model, "--prompt-ids", "5", "--max-new-tokens", "6", "--temperature", "3", "--seed", "4"];
        Assert.Equal(Cli.Done(words).Output, Cli.Done(words).Output);
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        string model = Cli.SaveEncoder(At("bert")), table = Table("t.csv", ',', 12), decoder = Testing.Golden.Find("models/qwen3")!;
        string[] train = ["train", "--model", model, "--output", At("out"), "--quiet", "--data"];
        Cli.Fails(ExitCode.Usage, ["t.csv: line 1: there is no column body, want one of text, label"], [.. train, table, "--text-column", "body"]);
        Cli.Fails(ExitCode.Usage, ["no such file", ".csv, .tsv or .jsonl"], [.. train, At("none.csv")]);
        File.WriteAllText(At("x.txt"), "text");
        Cli.Fails(ExitCode.Usage, ["the ending is .TXT"], [.. train, At("x.txt")]);
        File.WriteAllText(At("bad.jsonl"), "{\"text\":\"a\",\"label\":1}\n{\"text\":\"a\",\n");
        Cli.Fails(ExitCode.Usage, ["bad.jsonl: line 2, column", "no JSON object"], [.. train, At("bad.jsonl")]);
        File.WriteAllText(At("lack.jsonl"), "{\"text\":\"a\"}\n");
        Cli.Fails(ExitCode.Usage, ["lack.jsonl: line 1: there is no string or number label"], [.. train, At("lack.jsonl")]);
        File.WriteAllBytes(At("bytes.csv"), [.. Encoding.UTF8.GetBytes("text,label\na,b\n"), 0xFF, 0xFE, 0x2C]);
        Cli.Fails(ExitCode.Usage, ["bytes.csv: line 3, column 1: bytes that are no UTF-8 (FF)"], [.. train, At("bytes.csv")]);
        File.WriteAllText(At("other.csv"), "text,label\nwarm,summer\ncold,autumn\n");
        Cli.Fails(ExitCode.Usage, ["other.csv: line 3, column label: label 'autumn' was not met in training, want one of summer, winter"], [.. train, table, "--eval-data", At("other.csv")]);
        Cli.Fails(ExitCode.Usage, ["there is no such file", "tokenizer.json"], "embed", "--model", decoder, "--input", table, "--output", At("e.npy"));
        Cli.Fails(ExitCode.Usage, ["prompt-ids holds 'x'"], "generate", "--model", decoder, "--prompt-ids", "5,x");
        Cli.Fails(ExitCode.Usage, ["input_ids[0, 0] is 9000"], "generate", "--model", decoder, "--prompt-ids", "9000");
        Cli.Fails(ExitCode.Usage, ["Give one of --prompt and --prompt-ids"], "generate", "--model", decoder);
        Cli.Fails(ExitCode.Failed, ["BertForMaskedLM has no language head"], "generate", "--model", model, "--prompt-ids", "5", "--max-new-tokens", "2");
        Cli.Fails(ExitCode.Usage, ["output is e.txt"], "embed", "--model", model, "--input", table, "--output", "e.txt");
        Assert.False(Directory.Exists(At("out")));
    }

    private string Table(string name, char separator, int rows)
    {
        var text = new StringBuilder($"text{separator}label\n");
        for (int i = 0; i < rows; i++)
        {
            text.Append(i % 2 == 0 ? $"the sun is hot {i}{separator}summer\n" : $"snow and ice {i}{separator}winter\n");
        }
        File.WriteAllText(At(name), text.ToString());
        return At(name);
    }

    private string At(string name) => Path.Combine(folder, name);
}
