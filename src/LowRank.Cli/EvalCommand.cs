using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary><c>lowrank eval</c>: how a model, with or without an adapter, does on images or texts.</summary>
internal static class EvalCommand
{
    public static Command Create()
    {
        Option<string?> model = new("--model") { Description = $"Folder of the model, or {BaseModel.Name} for the shipped one. Default: the one the adapter names." };
        Option<string?> adapter = new("--adapter") { Description = "Folder of an adapter in PEFT's format." };
        Option<string> data = CommonOptions.Data();
        Option<string> part = new("--part") { Description = "test: the source's test images, or those that training held out; train: the others.", DefaultValueFactory = _ => "test" };
        part.AcceptOnlyFromAmong("test", "train");
        Option<string> type = new("--type") { Description = "Type of the activations: f32 or bf16.", DefaultValueFactory = _ => "f32" };
        Option<string> device = CommonOptions.DeviceName();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("eval", "Measure a model on images or texts: accuracy by class, squared error and correlations, perplexity, or recall.") { model, adapter, data, part, type, device, json };
        var columns = new TextColumns();
        columns.AddTo(command);
        command.Validators.Add(result =>
        {
            if (result.GetValue(model) is null && result.GetValue(adapter) is null)
            {
                result.AddError("There is neither --model nor --adapter; name at least one.");
            }
        });
        command.SetAction((parsed, cancellation) =>
        {
            string? adapterFolder = parsed.GetValue(adapter);
            string source = parsed.GetValue(data)!;
            (string name, string folder) = LoadedModel.Locate(parsed.GetValue(model), adapterFolder);
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            DType computed = CommonOptions.TypeOf(parsed.GetValue(type)!);
            string settings = adapterFolder ?? folder;
            if (TextColumns.IsText(folder))
            {
                TextPreprocessing? trained = TextPreprocessing.Read(settings);
                TextChoice choice = columns.Choice(parsed, source, trained: trained);
                using LoadedModel loaded = LoadedModel.Open(name, adapterFolder, on, computed, trained?.Classes);
                var known = trained ?? new TextPreprocessing { Task = choice.Task, Classes = CommonOptions.AsText(loaded.Model).Config.ClassNames, MaxTokens = choice.MaxTokens };
                FineTuneTask task = TextTask.Read(folder, choice, known).ToMeasure().For(loaded.Model);
                Output.Warn(task.Warnings);
                Print(task.Evaluate(loaded.Model, cancellation), task.Metric, loaded.Name, adapterFolder, source, "all", task.Samples, parsed.GetValue(json));
            }
            else
            {
                Preprocessing preprocessing = Preprocessing.Read(settings)
                    ?? throw new FileNotFoundException($"eval: {settings} has no {Preprocessing.FileName}, which says how images are prepared; train writes it", Path.Combine(settings, Preprocessing.FileName));
                using LoadedModel loaded = LoadedModel.Open(name, adapterFolder, on, computed, adapterFolder is null ? null : preprocessing.Classes);
                ImageChoice choice = preprocessing.Data?.Source == source ? preprocessing.Data! : new ImageChoice(source, null, 0);
                (ImageSet images, string measured) = Part(choice, preprocessing, parsed.GetValue(part) == "train");
                Print(ImageTask.Evaluate(loaded.Model, preprocessing.Match(images, source), preprocessing, cancellation), Metric.Accuracy, loaded.Name, adapterFolder, source, measured, "images", parsed.GetValue(json));
            }
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    // A source without test images is known to hold some out only where it is the one trained on.
    private static (ImageSet Images, string Part) Part(ImageChoice choice, Preprocessing preprocessing, bool train)
    {
        int channels = preprocessing.Channels == 1 ? 1 : 3;
        if (preprocessing.Data == choice)
        {
            (ImageSet trained, ImageSet test) = choice.Read(channels);
            return train ? (trained, "train") : (test, ImageSource.HasTest(choice.Source) ? "test" : "held out");
        }
        return (choice.ReadPart(train, channels), !ImageSource.HasTest(choice.Source) ? "all" : train ? "train" : "test");
    }

    private static void Print(TaskEvaluation result, Metric metric, string model, string? adapter, string source, string part, string samples, bool json)
    {
        JsonObject[] rows = [.. result.Rows.Select(row => new JsonObject(result.Columns.Zip(row, (column, cell) => KeyValuePair.Create(column, Output.Value(cell)))))];
        if (!json)
        {
            string others = string.Concat(result.Metrics.Skip(1).Select(m => string.Create(CultureInfo.InvariantCulture, $", {m.Name} {m.Value:G5}")));
            Output.Line(string.Create(CultureInfo.InvariantCulture, $"{metric.Name} {metric.Text(result.Value)} of {result.Samples} {samples} ({part}){others}"));
            if (result is ClassEvaluation)
            {
                Output.Rows(rows, json: false);
            }
            return;
        }
        var found = new JsonObject { ["model"] = model, ["adapter"] = adapter, ["data"] = source, ["part"] = part, ["count"] = result.Samples };
        foreach ((string name, double value) in result.Metrics)
        {
            found[name] = Output.Value(value);
        }
        if (result is ClassEvaluation)
        {
            found["classes"] = new JsonArray([.. rows]);
        }
        Output.Json(found);
    }
}
