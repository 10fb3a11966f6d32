using System.Globalization;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What the card of a shipped model says.</summary>
internal sealed class ModelCard(string folder)
{
    private readonly string text = File.ReadAllText(Path.Combine(folder, "MODEL_CARD.md"));

    /// <summary>The part of a pattern in brackets.</summary>
    public string Find(string pattern)
    {
        Match match = Regex.Match(text, pattern);
        Assert.True(match.Success, $"MODEL_CARD.md has no {pattern}");
        return match.Groups[1].Value;
    }

    /// <summary>The same as a number.</summary>
    public double Number(string pattern) => double.Parse(Find(pattern), CultureInfo.InvariantCulture);

    /// <summary>The weights beside the card are those it speaks of.</summary>
    public void CheckWeights(PretrainedModel model)
    {
        byte[] weights = File.ReadAllBytes(Path.Combine(folder, PretrainedModel.WeightFile));
        Assert.Equal(Find("SHA-256 of model.safetensors: `([0-9a-f]{64})`"), Convert.ToHexStringLower(SHA256.HashData(weights)));
        Assert.Equal(Find(@"([\d,]+) parameters"), model.Parameters.Values.Sum(p => p.Value.Shape.Count).ToString("N0", CultureInfo.InvariantCulture));
    }
}
