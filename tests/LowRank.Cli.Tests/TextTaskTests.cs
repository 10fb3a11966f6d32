using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Every kind of task of texts: learned, measured, stopped and resumed, estimated.</summary>
[Collection(ConsoleTests.Name)]
public sealed class TextTaskTests : IDisposable
{
    private const int Rows = 48;
    private static readonly (string Prompt, string Text)[] Answers = [("the sun is", " hot"), ("a long winter day has", " snow and ice")];
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-task").FullName;

    /// <summary>Words of <c>train</c>; metric, and what it has to reach, at most or at least.</summary>
    public static TheoryData<string, string, double, bool> Tasks => new()
    {
        { "--task classification --pair-column pair", "accuracy", 0.9, true },
        { "--task regression --label-column degrees", "mse", 0.3, false },
        { "--task causal-lm", "perplexity", 30, false },
        { "--task causal-lm --prompt-column prompt", "perplexity", 30, false },
        { "--task causal-lm --packed", "perplexity", 60, false },
        { "--task embedding --text-column text --pair-column like", "recall_at_1", 0.6, true },
        { "--task embedding --text-column text --pair-column like --negative-column other --temperature 0.1", "recall_at_1", 0.6, true },
    };

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Tasks))]
    public void It_is_learned_and_measured_the_same_again(string task, string metric, double bound, bool least)
    {
        JsonNode trained = Cli.Done([.. Train(task), "--epochs", "12", "--json"]).Json;
        double value = trained[metric]!.GetValue<double>();
        Assert.True(least ? value >= bound : value <= bound, $"{task}: {metric} is {value}");
        Assert.Equal(["loss.png", "rate.png", "report.json", "report.md", metric + ".png"], Directory.GetFiles(Path.Combine(At("out"), "report")).Select(Path.GetFileName).Order(StringComparer.Ordinal).OrderBy(n => n == metric + ".png"));
        JsonObject curves = JsonNode.Parse(File.ReadAllText(Path.Combine(At("out"), "report", "report.json")))!["charts"]!.AsObject();
        Assert.Equal(value, curves[metric]!["curves"]![0]!["y"]!.AsArray()[^1]!.GetValue<double>());
        // What was trained for stands beside the adapter; the columns too.
        JsonNode measured = Cli.Done("eval", "--model", Model(task), "--adapter", At("out"), "--data", Test, "--json").Json;
        Assert.Equal(value, measured[metric]!.GetValue<double>());
        Assert.Equal(trained["count"]!.GetValue<int>(), measured["count"]!.GetValue<int>());
        Cli.Done("export", "--model", Model(task), "--adapter", At("out"), "--merged", At("merged"));
        JsonNode merged = Cli.Done("eval", "--model", At("merged"), "--data", Test, "--json").Json;
        Assert.Equal(value, merged[metric]!.GetValue<double>(), Close.Model * Math.Max(1, value));
        Assert.Contains(metric, Cli.Done("eval", "--model", At("merged"), "--data", Test).Output, StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Tasks))]
    public void A_stopped_run_goes_on_bit_for_bit(string task, string metric, double bound, bool least)
    {
        _ = (metric, bound, least);
        string[] words = [.. Train(task, output: null), "--epochs", "3", "--dropout", "0.2", "--checkpoint-steps", "2"];
        Cli.Done([.. words, "--output", At("whole")]);
        using var stop = new CancellationTokenSource();
        string log = Path.Combine(RunFolder.Of(At("out")), "log.jsonl");
        Task watch = Task.Run(
            () =>
            {
                while (!File.Exists(log) || new FileInfo(log).Length == 0)
                {
                    Thread.Sleep(1);
                }
                stop.Cancel();
            },
            TestContext.Current.CancellationToken);
        CliResult stopped = Cli.Run(stop.Token, [.. words, "--output", At("out")]);
        Assert.True(watch.IsCompleted && stopped.Code == ExitCode.Cancelled, $"exit {stopped.Code}: {stopped.Error}");
        Assert.False(File.Exists(Path.Combine(At("out"), "adapter_model.safetensors")));
        Cli.Done([.. words, "--output", At("out"), "--resume"]);
        foreach (string file in (string[])["adapter_model.safetensors", "adapter_config.json", "lowrank.json"])
        {
            Assert.True(File.ReadAllBytes(Path.Combine(At("whole"), file)).SequenceEqual(File.ReadAllBytes(Path.Combine(At("out"), file))), $"{file} differs");
        }
    }

    [Theory, MemberData(nameof(Tasks))]
    public void A_dry_run_prints_figures_and_writes_nothing(string task, string metric, double bound, bool least)
    {
        _ = (metric, bound, least);
        JsonNode figures = Cli.Done([.. Train(task), "--dry-run", "--json"]).Json;
        Assert.False(Directory.Exists(At("out")));
        Assert.True(figures["trainable"]!.GetValue<long>() > 0 && figures["activation_bytes"]!.GetValue<long>() > 0 && figures["seconds"]!.GetValue<double>() > 0);
        string samples = task.Contains("packed", StringComparison.Ordinal) ? "blocks" : "texts";
        Assert.True(figures[samples]!.GetValue<int>() > 0 && figures["test_" + samples]!.GetValue<int>() > 0);
    }

    [Fact]
    public void A_prompt_is_masked_and_every_text_ends()
    {
        string model = Cli.SaveDecoder(At("model")), data = At("two.jsonl");
        File.WriteAllLines(data, Answers.Select(a => new JsonObject { ["prompt"] = a.Prompt, ["text"] = a.Text }.ToJsonString()));
        Tokenizer tokenizer = Tokenizer.Load(model);
        string[] eval = ["eval", "--model", model, "--task", "causal-lm", "--data", data, "--json"];
        int asked = Answers.Sum(a => tokenizer.Encode(a.Text, special: false).Ids.Length + 1);
        JsonNode masked = Cli.Done([.. eval, "--prompt-column", "prompt"]).Json;
        Assert.Equal(asked, masked["tokens"]!.GetValue<double>());
        // Packed or padded, the same tokens are asked for; a block knows what stands before it.
        Assert.Equal(asked, Cli.Done([.. eval, "--prompt-column", "prompt", "--packed", "--max-tokens", "64"]).Json["tokens"]!.GetValue<double>());
        using Device device = Device.Cpu();
        using var loaded = (TextModel)PretrainedModel.Load(model, device);
        double sum = 0;
        foreach ((string prompt, string text) in Answers)
        {
            using Scope scope = device.BeginScope();
            int[] before = tokenizer.Encode(prompt).Ids, after = [.. tokenizer.Encode(text, special: false).Ids, 906];
            float[] logits = loaded.Forward(new TextBatch(1, [.. before, .. after])).Logits!.ToArray();
            sum += after.Select((id, i) => LogSumExp(logits.AsSpan((before.Length + i - 1) * loaded.Vocabulary, loaded.Vocabulary)) - logits[((before.Length + i - 1) * loaded.Vocabulary) + id]).Sum();
        }
        Assert.Equal(sum / asked, masked["loss"]!.GetValue<double>(), Close.Model);
        Assert.Equal(Math.Exp(sum / asked), masked["perplexity"]!.GetValue<double>(), Close.Model * Math.Exp(sum / asked));
    }

    [Fact]
    public void Plain_text_is_lines_or_blocks_and_what_is_too_long_is_cut_with_a_word()
    {
        string model = Cli.SaveDecoder(At("model")), data = At("plain.txt");
        File.WriteAllText(data, "the sun is hot\n\nsnow and ice and snow and ice and snow and ice and snow and ice\n");
        string[] eval = ["eval", "--model", model, "--task", "causal-lm", "--data", data, "--json"];
        Assert.Equal(2, Cli.Done(eval).Json["count"]!.GetValue<int>());
        CliResult cut = Cli.Done([.. eval, "--max-tokens", "10"]);
        Assert.Equal("lowrank: 1 of 2 texts have more than 10 tokens and were cut\n", cut.Error);
        int tokens = Tokenizer.Load(model).Encode(File.ReadAllText(data)).Ids.Length + 1;
        Assert.Equal((tokens + 9) / 10, Cli.Done([.. eval, "--packed", "--max-tokens", "10"]).Json["count"]!.GetValue<int>());
        Assert.Contains("max-tokens is 100; the model takes 64", Cli.Done([.. eval, "--max-tokens", "100"]).Error, StringComparison.Ordinal);
        Cli.Fails(ExitCode.Usage, ["plain.txt: prompt-column is prompt and plain text has no columns"], [.. eval, "--prompt-column", "prompt"]);
    }

    [Fact]
    public void Measures_are_what_their_names_say()
    {
        Dictionary<string, double> numbers = new RegressionEvaluation([1, 2, 4, 3], [1, 3, 3, 9]).Metrics.ToDictionary(m => m.Name, m => m.Value);
        Assert.Equal((0 + 1 + 1 + 36) / 4.0, numbers["mse"]);
        // Means 2.5 and 4; of ranks 0 1 3 2 and 0 1.5 1.5 3 both 1.5.
        Assert.Equal(6 / Math.Sqrt(5 * 36), numbers["pearson"], Close.Bound(DType.F64));
        Assert.Equal(3 / Math.Sqrt(5 * 4.5), numbers["spearman"], Close.Bound(DType.F64));
        Dictionary<string, double> ranks = new RetrievalEvaluation([0, 1, 0, 9]).Metrics.ToDictionary(m => m.Name, m => m.Value);
        Assert.Equal((0.5, 0.75, (1 + 0.5 + 1 + 0.1) / 4), (ranks["recall_at_1"], ranks["recall_at_5"], ranks["mean_reciprocal_rank"]));
        Assert.Equal(3, new LanguageEvaluation(1, 2, Math.Log(8)).Metrics.Single(m => m.Name == "bits_per_token").Value, Close.Bound(DType.F64));
    }

    [Fact]
    public void What_does_not_fit_a_task_is_named()
    {
        string encoder = Cli.SaveEncoder(At("encoder")), decoder = Cli.SaveDecoder(At("decoder"));
        File.WriteAllText(At("numbers.csv"), "text,label,like\nwarm,3.5,hot\ncold,minus two,ice\n");
        string[] Words(string model, params string[] more) => ["train", "--model", model, "--data", At("numbers.csv"), "--output", At("out"), "--quiet", .. more];
        Cli.Fails(ExitCode.Usage, ["numbers.csv: line 3, column label: 'minus two' is no finite number"], Words(encoder, "--task", "regression"));
        Cli.Fails(ExitCode.Usage, ["task is causal-lm and the model a BertForMaskedLM, want one that predicts the next token"], Words(encoder, "--task", "causal-lm"));
        Cli.Fails(ExitCode.Usage, ["line 1: there is no column anchor, want one of text, label, like"], Words(encoder, "--task", "embedding"));
        Cli.Fails(ExitCode.Usage, ["batch-size is 1 and there is no negative-column"], Words(encoder, "--task", "embedding", "--text-column", "text", "--pair-column", "like", "--batch-size", "1"));
        Cli.Fails(ExitCode.Usage, ["temperature 0, want"], Words(encoder, "--task", "embedding", "--temperature", "0"));
        Cli.Fails(ExitCode.Usage, ["method is head", "want an adapter, or full"], Words(decoder, "--task", "causal-lm", "--method", "head"));
        Cli.Fails(ExitCode.Usage, ["'translation'"], Words(decoder, "--task", "translation"));
        File.WriteAllText(At("empty.csv"), "text,label\nwarm,a\n\"\",b\n");
        Cli.Fails(ExitCode.Usage, ["empty.csv: line 3: the text has no token"], "train", "--model", decoder, "--task", "causal-lm", "--data", At("empty.csv"), "--output", At("out"));
        Assert.False(Directory.Exists(At("out")));
    }

    [Fact]
    public void A_tokenizer_of_another_model_and_bytes_that_are_no_text_are_named()
    {
        string model = Cli.SaveEncoder(At("model"));
        File.WriteAllBytes(At("latin.txt"), [.. "snow\nca"u8, 0xE9, (byte)'\n']);
        Cli.Fails(ExitCode.Usage, ["latin.txt: line 2, column 3: bytes that are no UTF-8 (E9)"], "embed", "--model", model, "--input", At("latin.txt"), "--output", At("e.npy"));
        JsonNode tokenizer = JsonNode.Parse(File.ReadAllText(Path.Combine(model, Tokenizer.FileName)))!;
        foreach (JsonNode? added in tokenizer["added_tokens"]!.AsArray())
        {
            added!["id"] = added["id"]!.GetValue<int>() + 1000;
        }
        tokenizer["post_processor"]!["special_tokens"]!["[CLS]"]!["ids"]![0] = 1002;
        File.WriteAllText(Path.Combine(model, Tokenizer.FileName), tokenizer.ToJsonString());
        File.WriteAllText(At("a.csv"), "text,label\nsnow,winter\nsun,summer\n");
        Cli.Fails(ExitCode.Usage, ["a.csv: line 2: the tokenizer gives id 1002, want 0 .. 899", "belong to different models"], "train", "--model", model, "--data", At("a.csv"), "--output", At("out"));
    }

    [Fact]
    public void Ten_megabytes_in_one_line_are_cut_and_the_line_after_is_whole()
    {
        string model = Cli.SaveEncoder(At("model")), data = At("long.csv");
        File.WriteAllText(data, $"text,label\n{string.Concat(Enumerable.Repeat("snow and ice ", 800_000))},winter\nsun,summer\n");
        CliResult measured = Cli.Done("eval", "--model", SaveClassifier(model), "--data", data, "--json");
        Assert.Equal(2, measured.Json["count"]!.GetValue<int>());
        Assert.Contains("1 of 2 texts have more than 19 tokens and were cut", measured.Error, StringComparison.Ordinal);
    }

    /// <summary>The model with classes summer and winter.</summary>
    private string SaveClassifier(string model)
    {
        using Device device = Device.Cpu();
        using PretrainedModel loaded = PretrainedModel.Load(model, device, new LoadOptions { Classes = ["summer", "winter"] });
        loaded.Save(At("classifier"));
        LoadedModel.CopyBeside(At("classifier"), model);
        return At("classifier");
    }

    private static double LogSumExp(ReadOnlySpan<float> row)
    {
        double sum = 0;
        foreach (float value in row)
        {
            sum += Math.Exp(value);
        }
        return Math.Log(sum);
    }

    private string[] Train(string task, string? output = "out") =>
    [
        "train", "--model", Model(task), "--data", Data("train", Rows), "--eval-data", Test, "--learning-rate", "1e-2", "--batch-size", "8", "--max-tokens", "24", "--quiet", .. task.Split(' '), .. output is null ? [] : (string[])["--output", At(output)],
    ];

    private string Model(string task)
    {
        bool decoder = task.Contains("causal-lm", StringComparison.Ordinal);
        string to = At(decoder ? "decoder" : "encoder");
        return Directory.Exists(to) ? to : decoder ? Cli.SaveDecoder(to) : Cli.SaveEncoder(to);
    }

    private string Test => Data("test", Rows / 4);

    /// <summary>Rows from which each kind can learn: the season is told by its words, the degrees by the season.</summary>
    private string Data(string name, int rows)
    {
        string file = At($"{name}.jsonl");
        if (!File.Exists(file))
        {
            string[] words = ["sun", "snow", "rain", "wind", "leaf", "bird", "fish", "tree"];
            File.WriteAllLines(file, Enumerable.Range(0, rows).Select(i =>
            {
                string word = words[i % words.Length], next = words[(i + 1) % words.Length];
                bool warm = i % 2 == 0;
                return new JsonObject
                {
                    ["text"] = $"the {word} of today",
                    ["pair"] = warm ? "hot" : "ice",
                    ["prompt"] = "what is it ?",
                    ["like"] = $"{word} {word} of old",
                    ["other"] = $"{next} again",
                    ["label"] = warm ? "summer" : "winter",
                    ["degrees"] = (warm ? 1.5 : -0.5).ToString(CultureInfo.InvariantCulture),
                }.ToJsonString();
            }));
        }
        return file;
    }

    private string At(string name) => Path.Combine(folder, name);
}
