using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;
using SkiaSharp;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The main job on a small random model: what it prints and leaves, that an adapter gives its accuracy again, that a run repeats bit for bit.</summary>
[Collection(ConsoleTests.Name)]
public sealed partial class DemoTests : IDisposable
{
    private static readonly string[] Methods = ["head", "full", "lora", "dora"];
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-demo").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void It_compares_four_methods_and_leaves_an_adapter_and_a_report()
    {
        JsonNode json = Cli.Done([.. Words("out"), "--json"]).Json;
        JsonArray methods = json["methods"]!.AsArray();
        Assert.Equal(Methods, methods.Select(m => m!["method"]!.GetValue<string>()));
        Assert.All(methods, m => Assert.Equal(["method", "trainable", "accuracy", "accuracy_sd", "seconds", "adapter_bytes"], m!.AsObject().Select(p => p.Key)));
        Assert.All(methods, m => Assert.InRange(m!["accuracy"]!.GetValue<double>(), 0, 1));
        Assert.All(methods, m => Assert.True(m!["seconds"]!.GetValue<double>() > 0 && m["accuracy_sd"]!.GetValue<double>() >= 0));
        Assert.InRange(json["base_accuracy"]!.GetValue<double>(), 0, 0.3);
        Assert.Equal(1797 - 40, json["held_out"]!.GetValue<int>());

        long[] trainable = [.. methods.Select(m => m!["trainable"]!.GetValue<long>())];
        Assert.Equal(170, trainable[0]);                                      // classifier [10,16] and its bias
        Assert.True(trainable[0] < trainable[2] && trainable[2] < trainable[3]);
        Assert.Equal(2 * ((4 * 16) + 32 + 16), trainable[3] - trainable[2]);    // a magnitude an output of each layer
        foreach ((string method, long bytes) in Methods.Zip(methods.Select(m => m!["adapter_bytes"]!.GetValue<long>())))
        {
            string file = method is "lora" or "dora" ? "adapter_model.safetensors" : "model.safetensors";
            Assert.Equal(new FileInfo(Path.Combine(At("out"), method, file)).Length, bytes);
        }
        Assert.Equal(["accuracy.png", "loss.png", "report.json", "report.md"], Directory.GetFiles(Path.Combine(At("out"), "report")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        foreach (string png in Directory.GetFiles(Path.Combine(At("out"), "report"), "*.png"))
        {
            using SKBitmap picture = SKBitmap.Decode(png);
            Assert.True(picture is { Width: > 400, Height: > 200 });
        }
        string report = File.ReadAllText(json["report"]!.GetValue<string>());
        Assert.Contains("| LoRA |", report, StringComparison.Ordinal);
        Assert.Contains("(accuracy.png)", report, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(At("out"), "runs.json")));
    }

    [Fact]
    public void The_table_has_a_row_a_method_and_the_verdict()
    {
        CliResult result = Cli.Done(Words("out", seeds: "1"));
        string[] lines = result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(["method", "head only", "full fine-tuning", "LoRA", "DoRA"], lines.Take(5).Select(l => l.Split("  ")[0]));
        Assert.StartsWith("LoRA is ", lines[5], StringComparison.Ordinal);
        Assert.Empty(result.Error);
    }

    [Theory, InlineData("lora"), InlineData("dora")]
    public void A_saved_adapter_gives_its_accuracy_again(string method)
    {
        Demo demo = Small();
        DemoRun run = Runs(demo, "out").First(r => r.Method == method);
        ImageTask task = demo.Task(demo.Seed);
        using Device device = Device.Cpu();
        using var model = VisionTransformer.Load(demo.Model, device, new LoadOptions { Classes = task.Preprocessing.Classes, Seed = 99 });
        using var adapted = model.AttachPeft(Path.Combine(At("out"), method));
        Assert.Empty(adapted.Warnings);
        Assert.Equal(run.Accuracy, ImageTask.Evaluate(model, task.Test, task.Preprocessing, TestContext.Current.CancellationToken).Accuracy);
    }

    [Theory, InlineData("lora"), InlineData("dora")]
    public void An_adapter_has_the_keys_that_peft_writes(string method)
    {
        Cli.Done(Words("out", seeds: "1"));
        using PeftFolder golden = PeftFolder.Open(Golden.Find("training/dora_vit/adapter_final")!), ours = PeftFolder.Open(Path.Combine(At("out"), method));
        Assert.Equal(Keys(golden.Path), Keys(ours.Path));
        string[] written = [.. Patterns(ours)];
        Assert.Subset(written.ToHashSet(), Patterns(golden).Where(p => method == "dora" || !p.Contains("magnitude", StringComparison.Ordinal)).ToHashSet());
        Assert.Equal(method == "dora", written.Any(p => p.Contains("magnitude", StringComparison.Ordinal)));
        Assert.Equal("\"LORA\"", Config(ours.Path)["peft_type"]!.ToJsonString());
        Assert.Equal(method == "dora", Config(ours.Path)["use_dora"]!.GetValue<bool>());

        static JsonObject Config(string path) => JsonNode.Parse(File.ReadAllText(Path.Combine(path, "adapter_config.json")))!.AsObject();
        static IEnumerable<string> Keys(string path) => Config(path).Select(p => p.Key);
        static IEnumerable<string> Patterns(PeftFolder peft) => peft.Tensors.Entries.Select(e => Number().Replace(e.Name, "N")).Distinct();
    }

    [Fact]
    public void Threads_and_earlier_runs_do_not_change_a_bit()
    {
        IReadOnlyList<DemoRun> whole = Runs(Small(), "a");
        int threads = DeviceList.CpuThreads;
        try
        {
            DeviceList.CpuThreads = threads == 1 ? 2 : 1;
            Assert.Equal(whole.Select(Bits), Runs(Small(), "b").Select(Bits));
        }
        finally
        {
            DeviceList.CpuThreads = threads;
        }
        IReadOnlyList<DemoRun> resumed = Runs(Small(), "c", [.. whole.Take(3)]);
        Assert.Equal(whole.Take(3), resumed.Take(3));
        Assert.Equal(whole.Select(Bits), resumed.Select(Bits));
        Assert.Equal(File.ReadAllBytes(Weights("a")), File.ReadAllBytes(Weights("b")));
        Assert.NotEqual(whole.Select(Bits), Runs(Small() with { Seed = 5 }, "d").Select(Bits));

        string Weights(string name) => Path.Combine(At(name), "lora", "adapter_model.safetensors");
    }

    [Fact]
    public void A_stopped_demo_goes_on_where_it_was()
    {
        using var stop = new CancellationTokenSource();
        Demo demo = Small();
        Directory.CreateDirectory(At("out"));
        Assert.Throws<OperationCanceledException>(() => Runs(demo, "out", keep: runs =>
        {
            DemoCommand.Keep(At("out"), demo, runs);
            if (runs.Count == 3)
            {
                stop.Cancel();
            }
        }, stop: stop));
        Cli.Fails(ExitCode.Failed, ["was begun as", "Seed = 7"], [.. Words("out"), "--resume", "--seed", "7"]);
        JsonNode resumed = Cli.Done([.. Words("out"), "--resume", "--json"]).Json, whole = Cli.Done([.. Words("whole"), "--json"]).Json;
        Assert.Equal(Results(whole), Results(resumed));
        Cli.Fails(ExitCode.Failed, ["nothing to resume"], [.. Words("out"), "--resume"]);

        static IEnumerable<(double, double)> Results(JsonNode json) => json["methods"]!.AsArray().Select(m => (m!["accuracy"]!.GetValue<double>(), m["accuracy_sd"]!.GetValue<double>()));
    }

    [Fact]
    public void Ctrl_C_ends_it_with_its_own_code()
    {
        using var stop = new CancellationTokenSource();
        stop.Cancel();
        CliResult result = Cli.Run(stop.Token, Words("out"));
        Assert.Equal(ExitCode.Cancelled, result.Code);
        Assert.Contains("stopped after 0 of 8 runs", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_dry_run_writes_nothing()
    {
        JsonArray rows = Cli.Done([.. Words("out"), "--dry-run", "--json"]).Json.AsArray();
        Assert.Equal(Methods, rows.Select(r => r!["method"]!.GetValue<string>()));
        Assert.False(Directory.Exists(At("out")));
    }

    [Fact]
    public void Bad_words_are_refused()
    {
        Cli.Fails(ExitCode.Usage, ["class 0", "want 1000"], Words("out", perClass: "1000"));
        Cli.Fails(ExitCode.Failed, ["seeds is 0"], Words("out", seeds: "0"));
        Cli.Fails(ExitCode.Usage, ["no-such-model"], "demo", "--model", "no-such-model", "--output", At("out"));
    }

    [GeneratedRegex(@"\d+(?=\.)")]
    private static partial Regex Number();

    private static string Bits(DemoRun run) => string.Join(' ', (IEnumerable<double>)[run.Before, run.Accuracy, .. run.Loss, .. run.Curve]) + $" {run.Method} {run.Seed} {run.Trainable}";

    private string At(string name) => Path.Combine(folder, name);

    private string Model() => Directory.Exists(At("model")) ? At("model") : Cli.SaveModel(At("model"), classes: 10);

    private Demo Small() => new() { Model = Model(), PerClass = 4, Seeds = 2, Epochs = 3 };

    private string[] Words(string output, string seeds = "2", string perClass = "4") => ["demo", "--model", Model(), "--per-class", perClass, "--seeds", seeds, "--epochs", "3", "--output", At(output), "--quiet"];

    private IReadOnlyList<DemoRun> Runs(Demo demo, string output, IReadOnlyList<DemoRun>? finished = null, Action<IReadOnlyList<DemoRun>>? keep = null, CancellationTokenSource? stop = null)
    {
        using Device device = Device.Cpu();
        return TrainingDisplay.Show(quiet: true, display => demo.Run(device, At(output), finished ?? [], keep ?? (_ => { }), display, stop?.Token ?? TestContext.Current.CancellationToken));
    }
}
