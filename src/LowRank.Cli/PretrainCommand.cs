using System.CommandLine;
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
        Option<bool> json = CommonOptions.Json(), quiet = CommonOptions.Quiet();
        var dryRun = CommonOptions.DryRun();
        var command = new Command("pretrain", "Train the base vision transformer on Fashion-MNIST from nothing.") { output, data, epochs, seed, resume, device, json, dryRun, quiet };
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
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            (VisionTransformer model, TrainingResult result) = TrainingDisplay.Show(parsed.GetValue(quiet), display => recipe.Run(on, parsed.GetValue(resume), display.Add("pretrain"), cancellation));
            using (model)
            {
                model.Save(folder, DType.BF16);
                Pretrain.Preprocessing.Write(folder);
            }
            using var saved = VisionTransformer.Load(folder, on);
            double accuracy = ImageTask.Evaluate(saved, FashionMnist.Read(recipe.Data, train: false), Pretrain.Preprocessing, cancellation).Accuracy;
            Output.Rows([new JsonObject { ["folder"] = folder, ["steps"] = result.Steps, ["loss"] = result.Loss, ["accuracy"] = result.Evaluation, ["accuracy_bf16"] = accuracy }], parsed.GetValue(json));
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }
}
