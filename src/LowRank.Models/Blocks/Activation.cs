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
        ["quick_gelu"] = new QuickGelu(),
        ["relu"] = new Relu(),
        ["sigmoid"] = new Sigmoid(),
        ["silu"] = new Silu(),
        ["swish"] = new Silu(),
        ["tanh"] = new Tanh(),
    };

    private static readonly SortedDictionary<string, Op> Gates = new(StringComparer.Ordinal)
    {
        ["gelu_new"] = new GeGlu(),
        ["gelu_pytorch_tanh"] = new GeGlu(),
        ["silu"] = new SwiGlu(),
        ["swish"] = new SwiGlu(),
    };

    /// <summary>The op of a name in a gated feed-forward: (gate, up) → activation(gate) ⊙ up.</summary>
    /// <exception cref="ModelFormatException">No such activation: the message lists those there are.</exception>
    public static Op Gated(string name, string key) => Find(Gates, name, key);

    /// <summary>The op of a name.</summary>
    /// <exception cref="ModelFormatException">No such activation: the message lists those there are.</exception>
    public static Op Of(string name, string key) => Find(Known, name, key);

    private static Op Find(SortedDictionary<string, Op> known, string name, string key) => known.TryGetValue(name, out Op? op) ? op
        : throw new ModelFormatException($"config.json: {key} is '{name}', want one of {string.Join(", ", known.Keys)}") { Key = key };
}
