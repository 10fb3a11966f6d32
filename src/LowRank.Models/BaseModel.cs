namespace LowRank.Models;

/// <summary>The models shipped beside this library: a vision transformer of 1 M parameters that knows Fashion-MNIST, and a decoder over bytes of 1 M that
/// knows the King James text. models/base/MODEL_CARD.md and models/kjv/MODEL_CARD.md tell their data, recipes, figures and limits.</summary>
public static class BaseModel
{
    /// <summary>The word that stands for the vision transformer where a folder is asked for.</summary>
    public const string Name = "base";

    /// <summary>The word that stands for the decoder.</summary>
    public const string TextName = "kjv";

    /// <summary>Folder of the vision transformer: config.json, model.safetensors, lowrank.json (how images become its input) and the card.</summary>
    public static string ShippedFolder => Shipped(Name);

    /// <summary>Folder of the decoder: config.json, model.safetensors, tokenizer.json and the card; held-out.txt, which it was not trained on, and
    /// ship-log.txt, a text to adapt it to.</summary>
    public static string TextFolder => Shipped(TextName);

    /// <summary>The folder of a model: <paramref name="model"/> itself, or a shipped one for its word unless there is a folder of that name.</summary>
    /// <exception cref="DirectoryNotFoundException">There is none: says what was looked for.</exception>
    public static string Folder(string model)
    {
        if (Directory.Exists(model))
        {
            return model;
        }
        bool shipped = model is Name or TextName;
        return shipped && Directory.Exists(Shipped(model))
            ? Shipped(model)
            : throw new DirectoryNotFoundException($"model: {model} is no folder, want a folder with config.json and model.safetensors, or the word {Name} or {TextName} for a shipped model{(shipped ? $", which is missing from {Shipped(model)}" : "")}");
    }

    private static string Shipped(string name) => Path.Combine(AppContext.BaseDirectory, "models", name);
}
