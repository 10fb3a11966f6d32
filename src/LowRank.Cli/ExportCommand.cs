using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary><c>lowrank export</c>: a model with its adapter merged, as a folder that transformers opens.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        Option<string?> model = new("--model") { Description = "Folder of the model. Default: the one the adapter names." };
        Option<string> adapter = new("--adapter") { Description = "Folder of the adapter, in PEFT's format.", Required = true };
        Option<string> merged = new("--merged") { Description = "Folder for the merged model.", Required = true };
        Option<string> type = CommonOptions.TypeName(), device = CommonOptions.DeviceName();
        Option<long> shard = new("--shard-bytes") { Description = "The most bytes of weights in one file.", DefaultValueFactory = _ => SafeTensorsIndex.DefaultShardBytes };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("export", "Merge an adapter into its model and write the whole model.") { model, adapter, merged, type, device, shard, json };
        command.SetAction(parsed =>
        {
            string source = parsed.GetValue(adapter)!, to = parsed.GetValue(merged)!;
            (string name, string folder) = LoadedModel.Locate(parsed.GetValue(model), source);
            if (Path.GetFullPath(to) == Path.GetFullPath(folder) || Path.GetFullPath(to) == Path.GetFullPath(source))
            {
                throw new UsageException($"export: merged is {to}, want another folder than those of the model and the adapter");
            }
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            DType stored = CommonOptions.TypeOf(parsed.GetValue(type)!);
            using LoadedModel loaded = LoadedModel.Open(name, source, on, DType.F32, LoadedModel.ClassesOf(source, folder));     // merged in float32, rounded once
            MergeReport report = loaded.Adapted!.Merge();
            loaded.Model.Save(to, stored, parsed.GetValue(shard));
            LoadedModel.CopyBeside(to, source, folder);
            Output.Facts(new JsonObject
            {
                ["model"] = name,
                ["adapter"] = source,
                ["merged"] = to,
                ["layers"] = report.Layers.Count,
                ["class"] = loaded.Model.TransformersClass,
            }, parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }
}
