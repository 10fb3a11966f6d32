using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Safetensors files of other tools: those that must open, with their values, and those that must be refused.</summary>
public class SafeTensorsGoldenTests
{
    // The Rust library lets these pass; the format's own text forbids them (extra_field it does not mention).
    private static readonly string[] StricterThanRust = ["starts_with_space", "starts_with_newline", "duplicate_tensor"];

    public static TheoryData<string> Malformed => Golden.Cases("formats/safetensors_malformed");

    public static TheoryData<string> Valid => Golden.Cases("formats/safetensors/valid");

    [Theory, MemberData(nameof(Malformed))]
    public void Golden_malformed(string name) => Golden.Run("formats/safetensors_malformed", name, c =>
    {
        if (Verdict(c).GetProperty("expect").GetString() == "accept" && !StricterThanRust.Contains(name))
        {
            SafeTensorsFile.Open(c.Path).Dispose();
            return;
        }
        var error = Assert.Throws<ModelFormatException>(() => SafeTensorsFile.Open(c.Path));
        Assert.Contains(c.Path, error.Message, StringComparison.Ordinal);
        Assert.Equal(c.Path, error.File);
        Assert.InRange(error.Message.Length, c.Path.Length + 20, c.Path.Length + 600);
    });

    [Theory, MemberData(nameof(Valid))]
    public void Golden_valid(string name) => Golden.Run("formats/safetensors/valid", name, c =>
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(c.Path);
        if (!Verdict(c).TryGetProperty("tensors", out JsonElement tensors))
        {
            return;
        }
        Assert.Equal(tensors.EnumerateObject().Count(), file.Entries.Count);
        foreach (JsonProperty tensor in tensors.EnumerateObject())
        {
            SafeTensorsEntry entry = file[tensor.Name];
            Assert.Equal(tensor.Value.GetProperty("dtype").GetString(), entry.Type.Name());
            Assert.Equal(tensor.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt64()), entry.Dimensions);
            Assert.Equal(tensor.Value.GetProperty("values").EnumerateArray().Select(v => v.GetDouble()), file.ReadDouble(tensor.Name));
        }
    });

    private static JsonElement Verdict(GoldenCase c) =>
        JsonElement.Parse(File.ReadAllText(Path.Combine(Path.GetDirectoryName(c.Path)!, "cases.json"))).GetProperty("cases", c.Name);
}

internal static class JsonExtensions
{
    /// <summary>The element of a name, in the object <paramref name="group"/> where there is one.</summary>
    public static JsonElement GetProperty(this JsonElement json, string group, string name) =>
        (json.TryGetProperty(group, out JsonElement inner) ? inner : json).GetProperty(name);
}
