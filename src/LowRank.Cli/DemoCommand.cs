using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using LowRank.Formats;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary><c>lowrank demo</c>: the shipped model learns the digits from a few images, by four methods; a table, an adapter for PEFT and a report with curves.</summary>
internal static class DemoCommand
{
    private const string StateFile = "runs.json";

    public static Command Create()
    {
        Option<T> Make<T>(string name, string description, T value) => new(name) { Description = description, DefaultValueFactory = _ => value };
        var defaults = new Demo();
        var model = CommonOptions.Model(defaults.Model);
        var data = Make("--data", "Labelled images, as for train.", defaults.Data);
        var perClass = Make("--per-class", "Images a class to train on; all others are measured on.", defaults.PerClass);
        var seeds = Make("--seeds", "How many seeds.", defaults.Seeds);
        var epochs = Make("--epochs", "Passes over the few images.", defaults.Epochs);
        var output = Make("--output", "Folder for weights and report.", Path.Combine("out", "demo"));
        var resume = new Option<bool>("--resume") { Description = "Go on with a demo that was stopped; runs that are done are kept." };
        var seed = CommonOptions.Seed();
        var device = CommonOptions.DeviceName();
        var json = CommonOptions.Json();
        var dryRun = CommonOptions.DryRun();
        var quiet = CommonOptions.Quiet();
        var command = new Command("demo", "Adapt the shipped vision transformer to handwritten digits, 10 images a class: head only, full, LoRA and DoRA compared.")
        {
            output, seed, seeds, perClass, epochs, model, data, resume, device, json, dryRun, quiet,
        };
        command.SetAction((parsed, cancellation) =>
        {
            var demo = new Demo
            {
                Model = parsed.GetValue(model)!,
                Data = parsed.GetValue(data)!,
                PerClass = parsed.GetValue(perClass),
                Seed = parsed.GetValue(seed),
                Seeds = parsed.GetValue(seeds),
                Epochs = parsed.GetValue(epochs),
            };
            if (demo.Seeds < 1 || demo.Epochs < 1)
            {
                throw new TrainingException($"demo: seeds is {demo.Seeds} and epochs {demo.Epochs}, want at least 1 of each");
            }
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            if (parsed.GetValue(dryRun))
            {
                Output.Rows([.. Estimate(demo, on)], parsed.GetValue(json));
                return Task.FromResult(ExitCode.Done);
            }
            string folder = parsed.GetValue(output)!;
            IReadOnlyList<DemoRun> runs = Run(demo, on, folder, parsed.GetValue(resume), parsed.GetValue(quiet), cancellation);
            var report = new DemoReport(demo, runs);
            IReadOnlyList<string> written = ReportWriter.Write(Path.Combine(folder, "report"), report.Report("lowrank " + string.Join(' ', parsed.Tokens.Select(t => t.Value)), DeviceList.Present()[0].Isa));
            File.Delete(Path.Combine(folder, StateFile));
            if (parsed.GetValue(json))
            {
                Output.Json(report.Json(folder, written[^1]));
            }
            else
            {
                Output.Rows(report.Table(), json: false);
                Output.Line();
                Output.Line(report.Verdict());
                Output.Line($"Adapter (Hugging Face PEFT): {Path.Combine(folder, "lora")}");
                Output.Line($"Report with curves:          {written[^1]}");
            }
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    private static IReadOnlyList<DemoRun> Run(Demo demo, Device device, string folder, bool resume, bool quiet, CancellationToken cancellation)
    {
        IReadOnlyList<DemoRun> finished = resume ? Read(Path.Combine(folder, StateFile), demo) : [];
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception error) when (error is UnauthorizedAccessException or IOException)
        {
            throw new IOException($"demo: cannot make {folder}: {error.Message.TrimEnd('.')}. Choose a writable --output", error);
        }
        int done = finished.Count;
        void Done(IReadOnlyList<DemoRun> runs)
        {
            Keep(folder, demo, runs);
            done = runs.Count;
        }
        try
        {
            return TrainingDisplay.Show(quiet, display => demo.Run(device, folder, finished, Done, display, cancellation));
        }
        catch (OperationCanceledException error)
        {
            throw new OperationCanceledException($"stopped after {done} of {demo.Runs().Count()} runs; {(done > 0 ? "the same command with --resume goes on" : "nothing was kept")}", error, cancellation);
        }
    }

    /// <summary>Writes down the runs that are done, for <c>--resume</c>.</summary>
    internal static void Keep(string folder, Demo demo, IReadOnlyList<DemoRun> runs) =>
        AtomicFile.WriteText(Path.Combine(folder, StateFile), JsonSerializer.Serialize(new DemoState(demo, runs), DemoJson.Default.DemoState));

    private static IReadOnlyList<DemoRun> Read(string path, Demo demo)
    {
        if (!File.Exists(path))
        {
            throw new TrainingException($"demo: there is nothing to resume in {Path.GetDirectoryName(path)}; leave out --resume to begin");
        }
        try
        {
            DemoState state = JsonSerializer.Deserialize(File.ReadAllBytes(path), DemoJson.Default.DemoState) ?? throw new JsonException("it holds null");
            return state.Demo == demo ? state.Runs : throw new TrainingException($"demo: {path} was begun as {state.Demo}, want {demo}; resume with the settings it was begun with");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"{path}: it cannot be read: {error.Message}; delete it to begin again", error) { File = path };
        }
    }

    private static IEnumerable<JsonObject> Estimate(Demo demo, Device device)
    {
        ImageTask task = demo.Task(demo.Seed);
        foreach (FineTuneOptions options in demo.Runs().Take(Demo.Methods.Count))
        {
            using var run = new FineTuneRun(demo.Model, task, options, device);
            FineTuneEstimate estimate = run.Estimate();
            yield return new JsonObject
            {
                ["method"] = options.Method,
                ["trainable"] = estimate.Trainable,
                ["images"] = task.Train.Count,
                ["held_out"] = task.Test.Count,
                ["seeds"] = demo.Seeds,
                ["steps"] = estimate.Steps,
                ["seconds"] = Math.Round(estimate.Seconds * demo.Seeds, 3),
            };
        }
    }
}

/// <summary>What a stopped demo leaves: its settings, and the runs that are done.</summary>
internal sealed record DemoState(Demo Demo, IReadOnlyList<DemoRun> Runs);

[JsonSourceGenerationOptions(NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(DemoState))]
internal sealed partial class DemoJson : JsonSerializerContext;
