using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary><c>lowrank pretrain</c>: makes a shipped model again.</summary>
internal static class PretrainCommand
{
    public static Command Create()
    {
        var output = new Argument<string>("output") { Description = "Folder of the model: config.json and model.safetensors (bf16)." };
        var model = new Option<string>("--model") { Description = "base: the vision transformer, from Fashion-MNIST; kjv: the text model, from the King James text.", DefaultValueFactory = _ => BaseModel.Name };
        model.AcceptOnlyFromAmong(BaseModel.Name, BaseModel.TextName);
        var data = new Option<string?>("--data") { Description = $"base: folder of the idx files (Debian package dataset-fashion-mnist; default {FashionMnist.DebianFolder}). kjv: the text, a verse a line (Debian package bible-kjv: bible -f gen1:1-rev22:21 | cut -d' ' -f2- > kjv.txt)." };
        var epochs = new Option<int?>("--epochs") { Description = "Passes over the data. Default: as the shipped model was made." };
        var seed = new Option<ulong>("--seed") { Description = "Seed of every random choice.", DefaultValueFactory = _ => new Pretrain().Seed };
        var resume = new Option<bool>("--resume") { Description = "Continue from the checkpoint in the output folder, bit for bit as if never stopped." };
        var device = CommonOptions.DeviceName();
        Option<bool> json = CommonOptions.Json(), quiet = CommonOptions.Quiet();
        var dryRun = CommonOptions.DryRun();
        var command = new Command("pretrain", "Train a shipped model from nothing.") { output, model, data, epochs, seed, resume, device, json, dryRun, quiet };
        command.SetAction((parsed, cancellation) =>
        {
            string folder = parsed.GetValue(output)!;
            PretrainRecipe plain = parsed.GetValue(model) == BaseModel.Name ? new Pretrain() : new PretrainText();
            PretrainRecipe recipe = plain with { Data = parsed.GetValue(data) ?? plain.Data, Epochs = parsed.GetValue(epochs) ?? plain.Epochs, Seed = parsed.GetValue(seed), CheckpointFolder = folder };
            if (parsed.GetValue(dryRun))
            {
                Output.Line($"{recipe}");
                Output.Line(recipe.Network);
                return Task.FromResult(ExitCode.Done);
            }
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            (PretrainedModel trained, TrainingResult result) = TrainingDisplay.Show(parsed.GetValue(quiet), display => recipe.Run(on, parsed.GetValue(resume), display.Add("pretrain", recipe.Samples), cancellation));
            using (trained)
            {
                trained.Save(folder, DType.BF16);
                recipe.Complete(folder);
            }
            var row = new JsonObject { ["folder"] = folder, ["steps"] = result.Steps, ["loss"] = result.Loss };
            foreach ((string name, JsonNode? value) in recipe.Measure(folder, on, cancellation))
            {
                row.Add(name, value?.DeepClone());
            }
            Output.Rows([row], parsed.GetValue(json));
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }
}
