using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary><c>lowrank pretrain</c>: makes a shipped model again.</summary>
internal static class PretrainCommand
{
    private const string Full = "full", SlTrain = "sltrain";

    public static Command Create()
    {
        var output = new Argument<string>("output") { Description = "Folder of the model: config.json and model.safetensors (bf16)." };
        var model = new Option<string>("--model") { Description = "base: the vision transformer, from Fashion-MNIST; kjv: the text model, from the King James text.", DefaultValueFactory = _ => BaseModel.Name };
        model.AcceptOnlyFromAmong(BaseModel.Name, BaseModel.TextName);
        var data = new Option<string?>("--data") { Description = $"base: folder of the idx files (Debian package dataset-fashion-mnist; default {FashionMnist.DebianFolder}). kjv: the text, a verse a line (Debian package bible-kjv: bible -f gen1:1-rev22:21 | cut -d' ' -f2- > kjv.txt)." };
        var epochs = new Option<int?>("--epochs") { Description = "Passes over the data. Default: as the shipped model was made." };
        var seed = new Option<ulong>("--seed") { Description = "Seed of every random choice.", DefaultValueFactory = _ => new Pretrain().Seed };
        PretrainText text = new();
        Option<T> Make<T>(string name, string description, T value) => new(name) { Description = description, DefaultValueFactory = _ => value };
        Option<string> method = Make("--method", "Of kjv: full, or sltrain, which has factors and a sparse part in the place of every layer's weights.", text.Method);
        method.AcceptOnlyFromAmong(Full, SlTrain);
        Option<string> optimizer = Make("--optimizer", "Of kjv.", text.Optimizer);
        optimizer.AcceptOnlyFromAmong([.. PretrainText.Optimizers.Keys]);
        Option<int> rank = Make("--rank", "Of sltrain's factors, or of galore's projections.", text.Rank);
        Option<double> density = Make("--density", "Share of a layer's values in sltrain's sparse part.", text.Density);
        var rate = new Option<double?>("--learning-rate") { Description = $"Of kjv; highest. Default: {string.Join(", ", PretrainText.Optimizers.Select(o => string.Create(CultureInfo.InvariantCulture, $"{o.Key} {o.Value.Rate}")))}." };
        var perLayer = new Option<bool>("--per-layer") { Description = "Of kjv: move each parameter as soon as its gradient is complete, and free the gradient; without clipping." };
        var resume = new Option<bool>("--resume") { Description = "Continue from the checkpoint in the output folder, bit for bit as if never stopped." };
        var device = CommonOptions.DeviceName();
        Option<bool> json = CommonOptions.Json(), quiet = CommonOptions.Quiet();
        var dryRun = CommonOptions.DryRun();
        var command = new Command("pretrain", "Train a shipped model from nothing.") { output, model, data, method, optimizer, rank, density, rate, perLayer, epochs, seed, resume, device, json, dryRun, quiet };
        command.SetAction((parsed, cancellation) =>
        {
            string folder = parsed.GetValue(output)!;
            bool images = parsed.GetValue(model) == BaseModel.Name;
            if (images && new Option[] { method, optimizer, rank, density, rate, perLayer }.FirstOrDefault(o => parsed.GetResult(o) is { Implicit: false }) is { } other)
            {
                throw new UsageException($"pretrain: {other.Name} is given beside --model {BaseModel.Name}, want it with {BaseModel.TextName} alone");
            }
            PretrainRecipe plain = images ? new Pretrain() : text with
            {
                Method = parsed.GetValue(method)!,
                Optimizer = parsed.GetValue(optimizer)!,
                Rank = parsed.GetValue(rank),
                Density = parsed.GetValue(density),
                LearningRate = parsed.GetValue(rate),
                PerLayer = parsed.GetValue(perLayer),
            };
            PretrainRecipe recipe = plain with { Data = parsed.GetValue(data) ?? plain.Data, Epochs = parsed.GetValue(epochs) ?? plain.Epochs, Seed = parsed.GetValue(seed), CheckpointFolder = folder };
            if (parsed.GetValue(dryRun))
            {
                Output.Line($"{recipe}");
                Output.Line(recipe.Network);
                return Task.FromResult(ExitCode.Done);
            }
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            PretrainedResult trained = TrainingDisplay.Show(parsed.GetValue(quiet), display => recipe.Run(on, parsed.GetValue(resume), display.Add("pretrain", recipe.Samples), cancellation));
            using (trained)
            {
                trained.Adapted?.SavePeft(Path.Combine(folder, SlTrain));
                trained.Adapted?.Merge();
                trained.Model.Save(folder, trained.Adapted is null ? DType.BF16 : DType.F32);      // what is no layer goes with the adapter, bit for bit
                recipe.Complete(folder);
            }
            var row = new JsonObject { ["folder"] = folder, ["steps"] = trained.Training.Steps, ["loss"] = trained.Training.Loss, ["trainable"] = trained.Values, ["optimizer_bytes"] = trained.StateBytes };
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
