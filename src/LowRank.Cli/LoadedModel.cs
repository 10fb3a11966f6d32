using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>A model, with the adapter in place where there is one.</summary>
/// <param name="Model">The model.</param>
/// <param name="Adapted">The adapter, or null.</param>
/// <param name="Name">As the user or the adapter names the model.</param>
/// <param name="Folder">The model's folder.</param>
internal sealed record LoadedModel(PretrainedModel Model, AdaptedModel? Adapted, string Name, string Folder) : IDisposable
{
    /// <summary>Files that a model of text needs beside its weights.</summary>
    private static readonly string[] Beside = [Tokenizer.FileName, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json", Preprocessing.FileName];

    /// <summary>Folder of the model that the user names, or else the adapter.</summary>
    /// <exception cref="ModelFormatException">The adapter names none.</exception>
    public static (string Name, string Folder) Locate(string? model, string? adapter)
    {
        string name = model ?? BaseOf(adapter!);
        return (name, BaseModel.Folder(name));
    }

    /// <summary>Loads the model; <paramref name="classes"/> are those of a head that the adapter brings, or null.</summary>
    /// <exception cref="ModelFormatException">A file is damaged, or the adapter belongs to another model.</exception>
    public static LoadedModel Open(string? model, string? adapter, Device device, DType type, IReadOnlyList<string>? classes = null)
    {
        (string name, string folder) = Locate(model, adapter);
        ModelConfig config = ModelConfig.Read(folder);
        bool sameHead = classes is null || (config.Architecture.EndsWith("Classification", StringComparison.Ordinal) && config.ClassNames.SequenceEqual(classes));
        PretrainedModel loaded = PretrainedModel.Load(folder, device, new LoadOptions { Type = type, Classes = sameHead ? null : classes });
        try
        {
            AdaptedModel? adapted = adapter is null ? null : loaded.AttachPeft(adapter);
            if (adapted is { BaseDifferences: [var first, ..] others })
            {
                Output.Warn([$"{adapter} was trained on other values of {first}{(others.Count > 1 ? $" and {others.Count - 1} more weights" : "")} than {folder} has; want the model it was trained on"]);
            }
            return new LoadedModel(loaded, adapted, name, folder);
        }
        catch
        {
            loaded.Dispose();
            throw;
        }
    }

    /// <summary>Classes that lowrank.json in a folder names; null where it names none.</summary>
    public static IReadOnlyList<string>? ClassesOf(string? folder, string modelFolder) => folder is null ? null
        : TextColumns.IsText(modelFolder) ? TextPreprocessing.Read(folder)?.Classes : Preprocessing.Read(folder)?.Classes;

    /// <summary>Copies what is needed beside the weights of a model; files of the first folder that has them.</summary>
    public static void CopyBeside(string to, params IReadOnlyList<string> folders)
    {
        foreach (string name in Beside)
        {
            string? from = folders.Select(f => Path.Combine(f, name)).FirstOrDefault(File.Exists);
            if (from is not null)
            {
                AtomicFile.WriteBytes(Path.Combine(to, name), File.ReadAllBytes(from));
            }
        }
    }

    /// <summary>Refuses an output folder that is one of those read.</summary>
    /// <exception cref="UsageException">It is.</exception>
    public static void RequireOther(string option, string to, params IReadOnlyList<string> folders)
    {
        if (folders.Any(f => Path.GetFullPath(f) == Path.GetFullPath(to)))
        {
            throw new UsageException($"{option} is {to}, want another folder than those that are read");
        }
    }

    public void Dispose()
    {
        Adapted?.Dispose();
        Model.Dispose();
    }

    private static string BaseOf(string adapter)
    {
        using PeftFolder folder = PeftFolder.Open(adapter);
        return folder.Config.BaseModel ?? throw new ModelFormatException($"{Path.Combine(adapter, PeftFolder.ConfigFile)} names no base model, want --model beside --adapter") { Key = "base_model_name_or_path" };
    }
}
