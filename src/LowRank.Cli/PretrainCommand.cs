using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary><c>lowrank pretrain</c>: makes the shipped base model again.</summary>
internal static class PretrainCommand
{
    public static Command Create()
    {
        var output = new Argument<string>("output") { Description = "Folder of the model: config.json and model.safetensors (bf16)." };
        var data = new Option<string>("--data") { Description = "Folder of the Fashion-MNIST idx files (Debian package dataset-fashion-mnist).", DefaultValueFactory = _ => FashionMnist.DebianFolder };
        var epochs = new Option<int>("--epochs") { Description = "Passes over the 60,000 images.", DefaultValueFactory = _ => new Pretrain().Epochs };
        var seed = new Option<ulong>("--seed") { Description = "Seed of every random choice.", DefaultValueFactory = _ => new Pretrain().Seed };
        var resume = new Option<bool>("--resume") { Description = "Continue from the checkpoint in the output folder, bit for bit as if never stopped." };
        var device = CommonOptions.DeviceName();
        var json = CommonOptions.Json();
        var dryRun = CommonOptions.DryRun();
        var command = new Command("pretrain", "Train the base vision transformer on Fashion-MNIST from nothing.") { output, data, epochs, seed, resume, device, json, dryRun };
        command.SetAction((parsed, cancellation) =>
        {
            string folder = parsed.GetValue(output)!;
            var recipe = new Pretrain { Data = parsed.GetValue(data)!, Epochs = parsed.GetValue(epochs), Seed = parsed.GetValue(seed), CheckpointFolder = folder };
            if (parsed.GetValue(dryRun))
            {
                Output.Line($"{recipe}");
                Output.Line($"{Pretrain.Config}");
                return Task.FromResult(ExitCode.Done);
            }
            using Device on = CommonOptions.Open(parsed.GetValue(device)!);
            (VisionTransformer model, TrainingResult result) = recipe.Run(on, parsed.GetValue(resume), new Lines(), cancellation);
            using (model)
            {
                model.Save(folder, DType.BF16);
            }
            using var saved = VisionTransformer.Load(folder, on);
            double accuracy = Pretrain.Accuracy(saved, FashionMnist.Read(recipe.Data, train: false).Normalize([Pretrain.Mean], [Pretrain.Deviation]));
            Output.Rows([new JsonObject { ["folder"] = folder, ["steps"] = result.Steps, ["loss"] = result.Loss, ["accuracy"] = result.Evaluation, ["accuracy_bf16"] = accuracy }], parsed.GetValue(json));
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    /// <summary>A line every hundred steps and after each epoch.</summary>
    private sealed class Lines : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value)
        {
            if (value.Evaluation is not null || value.Step % 100 == 0)
            {
                string accuracy = value.Evaluation is { } e ? string.Create(CultureInfo.InvariantCulture, $"  accuracy {e:P2}") : "";
                Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"step {value.Step}/{value.Steps}  epoch {value.Epoch + 1}  loss {value.Loss:F4}  rate {value.LearningRate:E2}  norm {value.GradientNorm:F2}  {value.SamplesPerSecond:F0} images/s{accuracy}"));
            }
        }
    }
}
