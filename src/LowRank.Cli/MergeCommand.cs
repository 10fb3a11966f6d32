using System.CommandLine;
using System.Diagnostics;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank merge</c>: many models into one by a recipe, or an adapter into its model.</summary>
internal static class MergeCommand
{
    public static Command Create()
    {
        Argument<string?> recipe = new("recipe") { Description = "Recipe in mergekit's YAML; without it --adapter is merged into --model, as export does.", Arity = ArgumentArity.ZeroOrOne };
        Option<string?> models = new("--models") { Description = "Folder that the recipe's models are looked for in. Default: the working folder, then the recipe's own." };
        Option<string?> report = new("--report") { Description = "File for how the models agree, tensor by tensor: .json or .md." };
        Option<string?> masks = new("--masks") { Description = "Safetensors file with what random methods keep, mask.MODEL.TENSOR, in place of draws." };
        Option<string[]> data = new("--data") { Description = $"For {MergeMethod.Concrete} and {MergeMethod.AdaMerging}: images of each model's task, once a model in the recipe's order, as for train; labels are not read.", DefaultValueFactory = _ => [] };
        Option<ulong> seed = CommonOptions.Seed();
        Option<bool> quiet = CommonOptions.Quiet();
        var export = new ExportOptions(adapterRequired: false);
        var command = new Command("merge", "Merge many models into one by a recipe, or an adapter into its model.") { recipe, models, report, masks, data, seed, quiet };
        export.AddTo(command);
        command.Validators.Add(result =>
        {
            if (result.GetValue(recipe) is null == result.GetValue(export.Adapter) is null)
            {
                result.AddError(result.GetValue(recipe) is null ? "There is neither a recipe nor --adapter; name one." : "There is a recipe and --adapter; name one.");
            }
            if (result.GetValue(recipe) is not null && (result.GetValue(export.Type) ?? result.GetValue(export.Model)) is not null)
            {
                result.AddError("--type and --model go with --adapter; a recipe has dtype and models.");
            }
        });
        command.SetAction((parsed, stop) => Task.FromResult(parsed.GetValue(recipe) is { } file
            ? Run(file, parsed.GetValue(models), parsed.GetValue(export.Merged)!, parsed.GetValue(report), parsed.GetValue(masks), parsed.GetValue(data)!, parsed.GetValue(seed), parsed.GetValue(export.ShardBytes), parsed.GetValue(quiet), parsed.GetValue(export.Json), stop)
            : export.Run(parsed)));
        return command;
    }

    private static int Run(string file, string? models, string to, string? report, string? masks, string[] data, ulong seed, long shardBytes, bool quiet, bool json, CancellationToken stop)
    {
        long began = Stopwatch.GetTimestamp();
        RecipeFile read = RecipeFile.Read(file);
        Output.Warn(read.Warnings);
        string[] roots = models is null ? ["", Path.GetDirectoryName(Path.GetFullPath(file))!] : [models];
        string Place(string model) => string.Join('+', model.Split('+').Select(part => roots.Select(r => Path.Combine(r, part)).FirstOrDefault(Path.Exists)
            ?? throw new UsageException($"{file}: there is no {part} in {string.Join(" or ", roots.Select(r => r.Length == 0 ? "the working folder" : r))}; name it there, or give --models")));
        string Folder(string model) => Place(model).Split('+')[0];
        MergeRecipe recipe = read.Recipe with { Seed = seed };
        LoadedModel.RequireOther("merge: merged", to, [.. recipe.Models.Select(Folder)]);
        ReportFile.Check(report);
        List<TensorInterference> rows = [];
        using TensorSource? kept = masks is null ? null : TensorSource.Open(masks);
        using MergeDisplay display = new(quiet);
        var options = new MergeOptions { Progress = display, Report = rows, Masks = kept, Cancellation = stop };
        if (data.Length > 0 && !recipe.Method.Learns)
        {
            throw new UsageException($"--data goes with {MergeMethod.Concrete} and {MergeMethod.AdaMerging}; {recipe.Method.Name} learns nothing");
        }
        using LearnedMerge? learned = recipe.Method.Learns ? new LearnedMerge(recipe, Place, data) : null;
        using MergedTensors merged = learned?.Run(display.Step, options) ?? recipe.Open(model => MergeRecipe.OpenModel(Place(model)), options);
        using FolderLock own = FolderLock.Take(to);
        if (learned is null)
        {
            merged.Save(to, shardBytes);
        }
        else
        {
            learned.Save(merged, to, shardBytes);
        }
        string first = Folder(read.TokenizerSource ?? recipe.Base ?? recipe.Slices[0].Inputs[0].Model);
        string shape = Folder(recipe.Base ?? recipe.Slices[0].Inputs[0].Model);
        if (File.Exists(Path.Combine(shape, "config.json")))
        {
            ModelConfig.Read(shape).WithLayers(merged.Layers).Save(to, merged.Type);
        }
        LoadedModel.CopyBeside(to, first, shape);
        ReportFile.Write(report, file, recipe, rows);
        var facts = new JsonObject
        {
            ["recipe"] = file,
            ["method"] = recipe.Method.Name,
            ["merged"] = to,
            ["models"] = recipe.Models.Count(),
            ["tensors"] = merged.Entries.Count,
            ["layers"] = merged.Layers,
            ["bytes"] = merged.Entries.Sum(e => e.Length),
            ["sign_conflicts"] = ReportFile.Mean(rows, r => r.SignConflicts),
            ["mean_cosine"] = ReportFile.Mean(rows, r => r.MeanCosine),
            ["max_rounding"] = rows.Select(r => r.MaxRounding).DefaultIfEmpty().Max(),
            ["seconds"] = Math.Round(Stopwatch.GetElapsedTime(began).TotalSeconds, 2),
        };
        if (learned?.Entropy is { } entropy)
        {
            (facts["entropy_first"], facts["entropy_last"]) = (entropy.First, entropy.Last);
        }
        Output.Facts(facts, json);
        return ExitCode.Done;
    }

    /// <summary>A line on standard error that counts tensors; about twenty lines where that is no terminal.</summary>
    private sealed class MergeDisplay(bool quiet) : IProgress<MergeProgress>, IDisposable
    {
        private bool open;

        public void Report(MergeProgress value)
        {
            if (quiet)
            {
                return;
            }
            if (!Console.IsErrorRedirected)
            {
                open = true;
                Console.Error.Write($"\r{value.Done}/{value.Total} tensors");
            }
            else if (value.Done * 20L / value.Total != (value.Done - 1) * 20L / value.Total)
            {
                Console.Error.WriteLine($"{value.Done}/{value.Total} tensors");
            }
        }

        /// <summary>A step of learning.</summary>
        public void Step(ConcreteProgress value)
        {
            if (!quiet && value.Step % 50 == 0)
            {
                Console.Error.WriteLine($"{value.Phase} step {value.Step}: entropy {value.Loss:F4}");
            }
        }

        public void Dispose()
        {
            if (open)
            {
                Console.Error.WriteLine();
            }
        }
    }
}
