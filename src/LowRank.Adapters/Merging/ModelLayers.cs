using System.Globalization;
using System.Text.RegularExpressions;

namespace LowRank.Adapters;

/// <summary>Which tensors of a model belong to which layer, told by their names: <c>model.layers.3.mlp.up_proj.weight</c>, <c>transformer.h.3...</c>.</summary>
internal static partial class ModelLayers
{
    /// <summary>The number of the layer, or null outside of layers.</summary>
    public static int? Of(string tensor) => Number().Match(tensor) is { Success: true } found && int.TryParse(found.Groups[2].ValueSpan, CultureInfo.InvariantCulture, out int layer) ? layer : null;

    /// <summary>The same tensor of another layer.</summary>
    public static string Renamed(string tensor, int layer) => Number().Replace(tensor, m => string.Create(CultureInfo.InvariantCulture, $"{m.Groups[1].Value}{layer}."), 1);

    /// <summary>Layers of a model: one more than the highest number.</summary>
    public static int Count(IEnumerable<string> tensors) => 1 + tensors.Select(t => Of(t) ?? -1).DefaultIfEmpty(-1).Max();

    /// <summary>True for what stands before the layers.</summary>
    public static bool IsEmbedding(string tensor) => Embedding().IsMatch(tensor);

    [GeneratedRegex(@"((?:^|\.)(?:layers|layer|h|blocks|block)\.)(\d+)\.")]
    private static partial Regex Number();

    [GeneratedRegex(@"embed|(^|\.)(wte|wpe)\.")]
    private static partial Regex Embedding();
}
