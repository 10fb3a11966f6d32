using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>What golden folders of files with a verdict have in common: cases.json and expected values beside the files.</summary>
internal static class GoldenFiles
{
    /// <summary>What cases.json says of a case.</summary>
    public static JsonElement Verdict(GoldenCase c, string ending = "")
    {
        using JsonDocument json = JsonDocument.Parse(File.ReadAllText(Path.Combine(Path.GetDirectoryName(c.Path)!, "cases.json")));
        JsonElement cases = json.RootElement.TryGetProperty("cases", out JsonElement inner) ? inner : json.RootElement;
        return cases.GetProperty(c.Name + ending).Clone();
    }

    /// <summary>Another file of the folder.</summary>
    public static SafeTensorsFile Beside(GoldenCase c, string file) => SafeTensorsFile.Open(Path.Combine(Path.GetDirectoryName(c.Path)!, file));

    /// <summary>The typed error, which names the file and stays short whatever the file holds.</summary>
    public static ModelFormatException Refused(string path, Func<object> open)
    {
        var error = Assert.Throws<ModelFormatException>(open);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        Assert.Equal(path, error.File);
        Assert.InRange(error.Message.Length, path.Length + 20, path.Length + 600);
        return error;
    }
}
