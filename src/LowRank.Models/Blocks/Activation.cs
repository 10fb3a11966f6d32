using LowRank.Formats;

namespace LowRank.Models.Blocks;

/// <summary>Activations by the names that config.json uses.</summary>
internal static class Activation
{
    private static readonly SortedDictionary<string, Op> Known = new(StringComparer.Ordinal)
    {
        ["gelu"] = new Gelu(),
        ["gelu_new"] = new GeluTanh(),
        ["gelu_pytorch_tanh"] = new GeluTanh(),
        ["relu"] = new Relu(),
        ["sigmoid"] = new Sigmoid(),
        ["tanh"] = new Tanh(),
    };

    /// <summary>The op of a name.</summary>
    /// <exception cref="ModelFormatException">No such activation: the message lists those there are.</exception>
    public static Op Of(string name, string key) => Known.TryGetValue(name, out Op? op) ? op
        : throw new ModelFormatException($"config.json: {key} is '{name}', want one of {string.Join(", ", Known.Keys)}") { Key = key };
}
