using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;

namespace LowRank.Cli;

/// <summary><c>lowrank export</c>: a model with its adapter merged, as a folder that transformers opens.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        Option<string?> model = new("--model") { Description = "Folder of the model. Default: the one the adapter names." };
        Option<string> adapter = new("--adapter") { Description = "Folder of the adapter, in PEFT's format.", Required = true };
        Option<string> merged = new("--merged") { Description = "Folder for the merged model.", Required = true };
        Option<string?> type = CommonOptions.StoredType();
        Option<string> device = CommonOptions.DeviceName();
        Option<long> shard = CommonOptions.ShardBytes();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("export", "Merge an adapter into its model and write the whole model.") { model, adapter, merged, type, device, shard, json };
        command.Aliases.Add("merge");
        command.SetAction(parsed =>
        {
            string source = parsed.GetValue(adapter)!, to = parsed.GetValue(merged)!;
            (string name, string folder) = LoadedModel.Locate(parsed.GetValue(model), source);
            LoadedModel.RequireOther("export: merged", to, folder, source);
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            DType stored = CommonOptions.StoredTypeOf(parsed.GetValue(type)) ?? DType.F32;
            using LoadedModel loaded = LoadedModel.Open(name, source, on, DType.F32, LoadedModel.ClassesOf(source, folder));     // merged in float32, rounded once
            MergeReport report = loaded.Adapted!.Merge();
            using FolderLock own = FolderLock.Take(to);
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
