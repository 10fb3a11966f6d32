using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>One weight of a base model.</summary>
/// <param name="Shape">Dimensions as the model has them.</param>
/// <param name="Hash">16 hexadecimal digits; null where the values were not the base's own (merged, replaced by a start, freed, or quantised).</param>
public sealed record WeightPrint([property: JsonPropertyName("shape")] IReadOnlyList<int> Shape, [property: JsonPropertyName("hash")] string? Hash);

/// <summary>What an adapter was trained on: key <c>base</c> of lowrank.json, a <see cref="WeightPrint"/> for every weight that the adapter does not bring
/// itself, by module path. The hash is the start of SHA-256 over four rows spread evenly over the first dimension, rounded to bfloat16: the same whatever
/// type the model is loaded in, and different for another checkpoint, though not for a change that spares those rows.</summary>
/// <param name="Weights">By module path.</param>
public sealed record BaseFingerprint([property: JsonPropertyName("weights")] IReadOnlyDictionary<string, WeightPrint> Weights)
{
    private const string Key = "base";
    private const int RowsTaken = 4, MostNamed = 6;

    /// <summary>The weights of a model as they are now, but for those that are trained and <paramref name="own"/>, which the adapter brings.</summary>
    internal static BaseFingerprint Of(Model model, IEnumerable<Parameter> own)
    {
        HashSet<Parameter> changed = [.. model.Sites.Where(s => s.IsChanged).SelectMany(s => new[] { s.Weight, s.Bias }).OfType<Parameter>()];
        return new(model.Parameters.Values.Where(p => p.Frozen).Except(own).ToDictionary(p => model.ModulePath(p.Name), p => new WeightPrint([.. p.Value.Shape], changed.Contains(p) ? null : HashOf(p.Value))));
    }

    /// <summary>The fingerprint in a folder, or null where there is none.</summary>
    /// <exception cref="ModelFormatException">The file is damaged.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static BaseFingerprint? Read(string folder)
    {
        if (LowRankFile.Read(folder)[Key] is not { } node)
        {
            return null;
        }
        string file = Path.Combine(folder, LowRankFile.Name);
        try
        {
            return node.Deserialize(AdapterJson.Default.BaseFingerprint) is { Weights: not null } read && read.Weights.Values.All(w => w?.Shape is not null) ? read : throw new JsonException("want weights with shapes");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"BaseFingerprint: {file}: {Key}: {error.Message}", error) { File = file, Key = Key };
        }
    }

    /// <summary>Writes it into a folder that is there.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    public void Write(string folder) => LowRankFile.Write(folder, new JsonObject { [Key] = JsonSerializer.SerializeToNode(this, AdapterJson.Default.BaseFingerprint) });

    /// <summary>Names of the weights whose values differ from those of <paramref name="model"/>, as far as both have a hash.</summary>
    /// <exception cref="ModelFormatException">The model lacks weights, or has them in other shapes: names them and both shapes.</exception>
    public IReadOnlyList<string> Differences(Model model, string folder)
    {
        Dictionary<string, Parameter> now = model.Parameters.Values.ToDictionary(p => model.ModulePath(p.Name));
        string[] wrong = [.. Weights.Where(w => !now.TryGetValue(w.Key, out Parameter? p) || !p.Value.Shape.SequenceEqual(w.Value.Shape))
            .Select(w => $"{ModelFormatException.Quote(w.Key)} was [{string.Join(", ", w.Value.Shape)}] and is {(now.TryGetValue(w.Key, out Parameter? p) ? p.Value.Shape : "missing")}")];
        return wrong.Length == 0
            ? [.. Weights.Where(w => w.Value.Hash is { } hash && HashOf(now[w.Key].Value) is { } own && own != hash).Select(w => w.Key)]
            : throw new ModelFormatException($"BaseFingerprint: {folder} was made for another base model: {string.Join("; ", wrong.Take(MostNamed))}{(wrong.Length > MostNamed ? $"; and {wrong.Length - MostNamed} more" : "")}") { File = Path.Combine(folder, LowRankFile.Name), Key = Key };
    }

    private static string? HashOf(Tensor value)
    {
        if (value.IsQuantized || !value.IsAlive)
        {
            return null;
        }
        using Scope scope = value.Device.BeginScope();
        Tensor rows = value.IsPacked ? Packing.Unpack(value, scope) : value;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (int i = 0; i < RowsTaken && rows.Shape.Count > 0; i++)
        {
            hash.AppendData(rows.Slice((int)((long)i * (rows.Shape[0] - 1) / (RowsTaken - 1)), 1).ConvertTo(DType.BF16, scope).ToBytes());
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset().AsSpan(0, 8));
    }
}
