using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Which layers a config takes.</summary>
public class MatchingTests
{
    /// <summary>What the names of these cases begin with.</summary>
    internal const string Table = "matching_table";

    public static TheoryData<string> Cases => Golden.Cases("peft", name => name.StartsWith(Table, StringComparison.Ordinal));

    [Theory, MemberData(nameof(Cases))]
    public void Golden_peft_matching(string name) => Golden.Run("peft", name, golden =>
    {
        JsonElement config = golden.Config;
        string[] names = [.. config.GetProperty("names").EnumerateArray().Select(e => e.GetString()!)];
        long[] want = golden.Longs("out.match"), keys = golden.Longs("out.pattern");
        int row = 0;
        foreach (JsonElement rule in config.GetProperty("rules").EnumerateArray())
        {
            LoraConfig rules = Rules(rule);
            Assert.Equal(want.Skip(row++ * names.Length).Take(names.Length), names.Select(n => (long)TargetRules.Check(rules, n)));
        }
        row = 0;
        foreach (JsonElement list in config.GetProperty("patterns").EnumerateArray())
        {
            List<string> patterns = [.. list.EnumerateArray().Select(e => e.GetString()!)];
            Assert.Equal(keys.Skip(row++ * names.Length).Take(names.Length), names.Select(n => TargetRules.PatternKey(patterns, n) is { } key ? (long)patterns.IndexOf(key) : -1));
        }
    });

    [Fact]
    public void A_hostile_expression_is_stopped()
    {
        var error = Assert.Throws<AdapterConfigException>(() => TargetRules.Check(new LoraConfig { Targets = "(a+)+b" }, new string('a', 60)));
        Assert.Contains("nested repetition", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_invalid_expression_is_named()
    {
        var error = Assert.Throws<AdapterConfigException>(() => TargetRules.Check(new LoraConfig { Targets = "(" }, "a"));
        Assert.Contains("no regular expression", error.Message, StringComparison.Ordinal);
    }

    private static LoraConfig Rules(JsonElement rule) => new()
    {
        Targets = Names(rule, "target_modules"),
        Exclude = Names(rule, "exclude_modules"),
        LayersPattern = Names(rule, "layers_pattern"),
        LayersToTransform = !rule.TryGetProperty("layers_to_transform", out JsonElement layers) ? null
            : layers.ValueKind == JsonValueKind.Number ? Layers.One(layers.GetInt32()) : Layers.Of([.. layers.EnumerateArray().Select(e => e.GetInt32())]),
        ModulesToSave = Names(rule, "modules_to_save")?.ToArray(),
    };

    private static Names? Names(JsonElement rule, string key) => !rule.TryGetProperty(key, out JsonElement value) ? null
        : value.ValueKind == JsonValueKind.String ? Adapters.Names.Pattern(value.GetString()!)
        : Adapters.Names.Of([.. value.EnumerateArray().Select(e => e.GetString()!)]);
}
