namespace LowRank.Cli;

/// <summary>What <c>--model</c> stands for: a folder, or the word <c>base</c> for the model that is shipped beside the program.</summary>
internal static class BaseModel
{
    /// <summary>The word.</summary>
    public const string Name = "base";

    /// <summary>Folder of the shipped model.</summary>
    public static string ShippedFolder => Path.Combine(AppContext.BaseDirectory, "models", Name);

    /// <summary>The folder of a model.</summary>
    /// <exception cref="DirectoryNotFoundException">There is none: says what was looked for.</exception>
    public static string Folder(string model)
    {
        if (Directory.Exists(model))
        {
            return model;
        }
        return model == Name && Directory.Exists(ShippedFolder)
            ? ShippedFolder
            : throw new DirectoryNotFoundException($"model: {model} is no folder, want a folder with config.json and model.safetensors, or the word {Name} for the shipped model{(model == Name ? $", which is missing from {ShippedFolder}" : "")}");
    }
}
