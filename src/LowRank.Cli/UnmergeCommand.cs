using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank unmerge</c>: the base of a merged model, from the adapter that was merged into it.</summary>
internal static class UnmergeCommand
{
    public static Command Create()
    {
        Option<string> merged = new("--merged") { Description = "Folder of the merged model.", Required = true };
        Option<string> adapter = new("--adapter") { Description = "Folder of the adapter that was merged into it, in PEFT's format.", Required = true };
        Option<string> output = new("--output") { Description = "Folder for the model without it.", Required = true };
        Option<string?> type = CommonOptions.StoredType();
        Option<long> shard = CommonOptions.ShardBytes();
        Option<bool> json = CommonOptions.Json();
        var command = new Command(
            "unmerge",
            "Take an adapter out of a model that it was merged into. W - delta is computed in float64, so what is left of an error is the rounding of the merged file: a base in f16 or bf16 that was merged in f32 comes back bit for bit with --type of the base, but for values far smaller than what the adapter added; other weights to their last digit or two.")
        { merged, adapter, output, type, shard, json };
        command.SetAction(parsed =>
        {
            (string from, string source, string to) = (parsed.GetValue(merged)!, parsed.GetValue(adapter)!, parsed.GetValue(output)!);
            LoadedModel.RequireOther("unmerge: output", to, from, source);
            using Device device = Device.Cpu();
            using PretrainedModel model = PretrainedModel.Load(from, device, new LoadOptions { Type = DType.F64 });
            using AdaptedModel adapted = model.AttachPeft(source);
            adapted.Subtract();
            IReadOnlyList<string>? differ = BaseFingerprint.Read(source)?.Differences(model, source);
            Output.Warn(differ is [var first, ..] ? [$"the base of {source} had other values of {first}{(differ.Count > 1 ? $" and {differ.Count - 1} more weights" : "")}; was it merged into this model?"] : []);
            using FolderLock own = FolderLock.Take(to);
            model.Save(to, CommonOptions.StoredTypeOf(parsed.GetValue(type)) ?? DType.F32, parsed.GetValue(shard));
            LoadedModel.CopyBeside(to, from);
            Output.Facts(new JsonObject
            {
                ["merged"] = from,
                ["adapter"] = source,
                ["output"] = to,
                ["is_base"] = differ is null ? null : differ.Count == 0,      // by the fingerprint in the adapter's lowrank.json, where there is one
                ["layers"] = adapted.Adapters.Count,
                ["kept"] = new JsonArray([.. (adapted.Config.ModulesToSave ?? []).Select(m => (JsonNode)m)]),      // the adapter's own: what the base had there is in neither folder
            }, parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }
}
