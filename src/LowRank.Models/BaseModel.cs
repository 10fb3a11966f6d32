namespace LowRank.Models;

/// <summary>The model shipped beside this library: a vision transformer of 1 M parameters that knows Fashion-MNIST. models/base/MODEL_CARD.md tells its data,
/// recipe, accuracy and limits.</summary>
public static class BaseModel
{
    /// <summary>The word that stands for it where a folder is asked for.</summary>
    public const string Name = "base";

    /// <summary>The word for the shipped text model: a decoder over bytes that knows the King James text (models/kjv).</summary>
    public const string TextName = "kjv";

    /// <summary>Its folder: config.json, model.safetensors, lowrank.json (how images become its input) and the card.</summary>
    public static string ShippedFolder => Path.Combine(AppContext.BaseDirectory, "models", Name);

    /// <summary>The folder of a model: <paramref name="model"/> itself, or the shipped one for the word <c>base</c> unless there is a folder of that name.</summary>
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
