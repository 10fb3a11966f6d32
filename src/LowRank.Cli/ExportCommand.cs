using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;

namespace LowRank.Cli;

/// <summary><c>lowrank export</c>: a model with its adapter merged, as a folder that transformers opens.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        var options = new ExportOptions(adapterRequired: true);
        var command = new Command("export", "Merge an adapter into its model and write the whole model.");
        options.AddTo(command);
        command.SetAction(parsed => options.Run(parsed));
        return command;
    }
}

/// <summary>The options of a merge of one adapter, and what they do.</summary>
internal sealed class ExportOptions(bool adapterRequired)
{
    private readonly Option<string> device = CommonOptions.DeviceName();

    public Option<string?> Model { get; } = new("--model") { Description = "Folder of the model. Default: the one the adapter names." };

    public Option<string?> Adapter { get; } = new("--adapter") { Description = "Folder of the adapter, in PEFT's format.", Required = adapterRequired };

    public Option<string> Merged { get; } = new("--merged") { Description = "Folder for the merged model.", Required = true };

    public Option<string?> Type { get; } = CommonOptions.StoredType();

    public Option<long> ShardBytes { get; } = CommonOptions.ShardBytes();

    public Option<bool> Json { get; } = CommonOptions.Json();

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[Model, Adapter, Merged, Type, device, ShardBytes, Json])
        {
            command.Add(option);
        }
    }

    public int Run(ParseResult parsed)
    {
        string source = parsed.GetValue(Adapter)!, to = parsed.GetValue(Merged)!;
        (string name, string folder) = LoadedModel.Locate(parsed.GetValue(Model), source);
        LoadedModel.RequireOther("export: merged", to, folder, source);
        using Device on = DeviceList.Open(parsed.GetValue(device)!);
        DType stored = CommonOptions.StoredTypeOf(parsed.GetValue(Type)) ?? DType.F32;
        using LoadedModel loaded = LoadedModel.Open(name, source, on, DType.F32, LoadedModel.ClassesOf(source, folder));     // merged in float32, rounded once
        MergeReport report = loaded.Adapted!.Merge();
        using FolderLock own = FolderLock.Take(to);
        loaded.Model.Save(to, stored, parsed.GetValue(ShardBytes));
        LoadedModel.CopyBeside(to, source, folder);
        Output.Facts(new JsonObject
        {
            ["model"] = name,
            ["adapter"] = source,
            ["merged"] = to,
            ["layers"] = report.Layers.Count,
            ["class"] = loaded.Model.TransformersClass,
        }, parsed.GetValue(Json));
        return ExitCode.Done;
    }
}
