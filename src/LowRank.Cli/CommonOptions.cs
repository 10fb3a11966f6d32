using System.CommandLine;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>Options that several commands share, spelled and described once.</summary>
internal static class CommonOptions
{
    public static Option<bool> Json() => new("--json") { Description = "Print JSON instead of a table." };

    public static Option<string> DeviceName() => new("--device") { Description = "Device to compute on: cpu, cuda, cuda:N, or emulated (the CUDA kernels on the host, for tiny sizes).", DefaultValueFactory = _ => "cpu" };

    public static Option<bool> DryRun() => new("--dry-run") { Description = "Print what would be done, with parameters, memory and time, and write nothing." };

    public static Option<bool> Quiet() => new("--quiet") { Description = "Show no progress." };

    public static Option<ulong> Seed() => new("--seed") { Description = "Seed of every random choice.", DefaultValueFactory = _ => 0 };

    public static Option<string> Model(string name) => new("--model") { Description = $"Folder of the model, or {BaseModel.Name} for the shipped one.", DefaultValueFactory = _ => name };

    public static Option<string> Data() => new("--data")
    {
        Description = "Texts, as .csv, .tsv or .jsonl, for a language model also .txt; or labelled images: the word digits, a folder of idx files, a folder with one folder of PNG images a class (or train and test folders of that kind), or a safetensors file with arrays images and labels.",
        Required = true,
    };

    public static Option<string> TextModel() => new("--model") { Description = $"Folder of a text model, with its tokenizer.json, or {BaseModel.TextName} for the shipped one.", Required = true };

    public static Option<string?> Adapter() => new("--adapter") { Description = "Folder of an adapter in PEFT's format." };

    public static Option<string?> StoredType(string missing = "f32") => new("--type") { Description = $"Type of the weights on disk: f32, f16 or bf16. Default: {missing}." };

    public static Option<long> ShardBytes() => new("--shard-bytes") { Description = "The most bytes of weights in one file.", DefaultValueFactory = _ => SafeTensorsIndex.DefaultShardBytes };

    public static Option<string> TypeName() => new("--type") { Description = "Type of activations and frozen matrices: f32 or bf16.", DefaultValueFactory = _ => "f32" };

    /// <summary>The model as one for text.</summary>
    /// <exception cref="UsageException">It is none.</exception>
    public static TextModel AsText(PretrainedModel model) => model as TextModel ?? throw new UsageException($"model: this is a {model.TransformersClass}, want a model for text");

    /// <summary>A type of weights on disk by its name; null stays null.</summary>
    /// <exception cref="ShapeException">Another word.</exception>
    public static DType? StoredTypeOf(string? name) => name switch
    {
        null => null,
        "f16" => DType.F16,
        "f32" or "bf16" => TypeOf(name),
        _ => throw new ShapeException($"type is {name}, want f32, f16 or bf16"),
    };

    /// <summary>A type of activations by its name.</summary>
    /// <exception cref="ShapeException">Another word.</exception>
    public static DType TypeOf(string name) => name switch
    {
        "f32" => DType.F32,
        "bf16" => DType.BF16,
        _ => throw new ShapeException($"type is {name}, want f32 or bf16"),
    };
}
