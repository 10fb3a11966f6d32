using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary><c>lowrank eval</c>: how a model, with or without an adapter, does on labelled images.</summary>
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
        var command = new Command("eval", "Measure accuracy on labelled images, by class.") { model, adapter, data, part, type, device, json };
        command.Validators.Add(result =>
        {
            if (result.GetValue(model) is null && result.GetValue(adapter) is null)
            {
                result.AddError("There is neither --model nor --adapter; name at least one.");
            }
        });
        command.SetAction((parsed, cancellation) =>
        {
            string? adapterFolder = parsed.GetValue(adapter), source = parsed.GetValue(data);
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            using var loaded = EvaluatedModel.Open(parsed.GetValue(model), adapterFolder, on, CommonOptions.TypeOf(parsed.GetValue(type)!));
            Preprocessing preprocessing = loaded.Preprocessing;
            ImageChoice choice = preprocessing.Data?.Source == source ? preprocessing.Data! : new ImageChoice(source!, null, 0);
            (ImageSet images, string measured) = Part(choice, preprocessing, parsed.GetValue(part) == "train");
            ImageEvaluation result = ImageEvaluation.Of(loaded.Model, preprocessing.Match(images, source!), preprocessing, cancellation);
            Print(result, preprocessing.Classes, loaded.Name, adapterFolder, source!, measured, parsed.GetValue(json));
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

    private static void Print(ImageEvaluation result, IReadOnlyList<string> classes, string model, string? adapter, string source, string part, bool json)
    {
        JsonObject[] rows = [.. TrainReport.ClassRows(result, classes).Select(row => new JsonObject
        {
            ["class"] = (string)row[0],
            ["count"] = (int)row[1],
            ["correct"] = (int)row[2],
            ["accuracy"] = (int)row[1] == 0 ? null : (double)row[3],
        })];
        if (json)
        {
            Output.Json(new JsonObject
            {
                ["model"] = model,
                ["adapter"] = adapter,
                ["data"] = source,
                ["part"] = part,
                ["count"] = result.Count.Sum(),
                ["accuracy"] = result.Accuracy,
                ["loss"] = result.Loss,
                ["classes"] = new JsonArray([.. rows]),
            });
            return;
        }
        Output.Line(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"accuracy {result.Accuracy:P2} of {result.Count.Sum()} images ({part}), loss {result.Loss:F4}"));
        Output.Rows(rows, json: false);
    }

    /// <summary>A model ready to be measured.</summary>
    private sealed record EvaluatedModel(PretrainedModel Model, AdaptedModel? Adapted, Preprocessing Preprocessing, string Name) : IDisposable
    {
        /// <summary>Loads the model, with the adapter in place where there is one.</summary>
        /// <exception cref="Formats.ModelFormatException">A file is damaged, nothing says how to prepare images, or the adapter belongs to another model.</exception>
        public static EvaluatedModel Open(string? model, string? adapter, Device device, DType type)
        {
            string name = model ?? BaseOf(adapter!), folder = BaseModel.Folder(name), settings = adapter ?? folder;
            Preprocessing preprocessing = Preprocessing.Read(settings)
                ?? throw new FileNotFoundException($"eval: {settings} has no {Preprocessing.FileName}, which says how images are prepared; train writes it", Path.Combine(settings, Preprocessing.FileName));
            VisionTransformerConfig config = VisionTransformerConfig.Read(folder);
            bool sameHead = adapter is null || config.ClassNames.SequenceEqual(preprocessing.Classes);
            PretrainedModel loaded = PretrainedModel.Load(folder, device, new LoadOptions { Type = type, Classes = sameHead ? null : preprocessing.Classes });
            return new EvaluatedModel(loaded, adapter is null ? null : loaded.AttachPeft(adapter), preprocessing, name);
        }

        public void Dispose()
        {
            Adapted?.Dispose();
            Model.Dispose();
        }

        private static string BaseOf(string adapter)
        {
            using PeftFolder folder = PeftFolder.Open(adapter);
            return folder.Config.BaseModel ?? throw new Formats.ModelFormatException($"eval: {Path.Combine(adapter, PeftFolder.ConfigFile)} names no base model, want --model beside --adapter") { Key = "base_model_name_or_path" };
        }
    }
}
