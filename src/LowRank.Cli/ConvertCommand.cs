using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank convert</c>: the same model in another type or in shards, or the same adapter as plain LoRA.</summary>
internal static class ConvertCommand
{
    public static Command Create()
    {
        Option<string?> model = new("--model") { Description = "Folder of the model; beside --adapter that of its base, by default the one the adapter names." };
        Option<string?> adapter = new("--adapter") { Description = "Folder of an adapter: one that begins with a changed base (PiSSA, OLoRA) becomes plain LoRA of twice the rank, which goes with the base as it is." };
        Option<string> output = new("--output") { Description = "Folder for the result.", Required = true };
        Option<string?> type = CommonOptions.StoredType("the one they have");
        Option<long> shard = CommonOptions.ShardBytes();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("convert", "Write a model in another type or in shards, or an adapter as plain LoRA.") { model, adapter, output, type, shard, json };
        command.Validators.Add(result =>
        {
            if (result.GetValue(model) is null && result.GetValue(adapter) is null)
            {
                result.AddError("There is neither --model nor --adapter; name at least one.");
            }
            if (result.GetValue(adapter) is not null && result.GetValue(type) is not null)
            {
                result.AddError("--type is for models; adapters stay in f32.");
            }
        });
        command.SetAction(parsed =>
        {
            string to = parsed.GetValue(output)!;
            JsonObject done = parsed.GetValue(adapter) is { } source
                ? Adapter(parsed.GetValue(model), source, to)
                : Model(LoadedModel.Locate(parsed.GetValue(model), null).Folder, to, CommonOptions.StoredTypeOf(parsed.GetValue(type)), parsed.GetValue(shard));
            Output.Facts(done, parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }

    /// <summary>Tensor by tensor: of any architecture, and never whole in memory.</summary>
    private static JsonObject Model(string from, string to, DType? type, long shardBytes)
    {
        LoadedModel.RequireOther("convert: output", to, from);
        ModelConfig config = ModelConfig.Read(from);
        using TensorSource source = TensorSource.Open(from);
        using FolderLock own = FolderLock.Take(to);
        SafeTensorsIndex.Save(to, [.. source.Entries.Select(e => type is { } other ? TensorData.Of(source, e.Name, other) : TensorData.Of(source, e.Name))], source.Metadata, shardBytes);
        if (type is { } stored)
        {
            config.Save(to, stored);
        }
        else
        {
            AtomicFile.WriteBytes(Path.Combine(to, Path.GetFileName(config.File)), File.ReadAllBytes(config.File));
        }
        LoadedModel.CopyBeside(to, from);
        using TensorSource written = TensorSource.Open(to);
        return new JsonObject
        {
            ["model"] = from,
            ["output"] = to,
            ["tensors"] = written.Entries.Count,
            ["bytes"] = written.Entries.Sum(e => e.Length),
            ["files"] = written is SafeTensorsIndex index ? index.Shards.Count : 1,
        };
    }

    private static JsonObject Adapter(string? model, string from, string to)
    {
        (string name, string folder) = LoadedModel.Locate(model, from);
        LoadedModel.RequireOther("convert: output", to, folder, from);
        using Device device = Device.Cpu();
        using LoadedModel loaded = LoadedModel.Open(name, from, device, DType.F32, LoadedModel.ClassesOf(from, folder));
        using FolderLock own = FolderLock.Take(to);
        loaded.Adapted!.SavePeft(to);
        LoadedModel.CopyBeside(to, from);
        return new JsonObject { ["model"] = name, ["adapter"] = from, ["output"] = to, ["trainable"] = loaded.Adapted.ParameterCount };
    }
}
