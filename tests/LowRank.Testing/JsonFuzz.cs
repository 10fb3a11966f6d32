using System.Globalization;
using System.Text;
using System.Text.Json;

namespace LowRank.Testing;

/// <summary>Structure-aware changes of JSON: values, types, near numbers, names, keys that are missing, doubled or moved, nesting, text that is no character.</summary>
/// <param name="words">Strings that mean something to the reader: types, names, paths.</param>
public sealed class JsonFuzz(params string[] words)
{
    private static readonly string[] Numbers =
    [
        "0", "-0", "-1", "1", "1.0", "0.5", "1e2", "1e400", "-1e400", "2147483647", "2147483648", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    ];

    private static readonly string[] Values = ["null", "true", "false", "[]", "{}", "[[]]", "{\"a\":{}}", "\"\"", "\"\\ud800\"", "\"\\u0000\"", "\"\\uD83D\\uDE00\"", "\"\u00e9\u4e2d\"", "NaN", "Infinity", "nul", "\"", "'a'", ",", "/*a*/1"];

    /// <summary>Text with a few changes; each node is one with the chance 1/<paramref name="rarity"/>.</summary>
    public string Change(JsonElement root, Random random, int rarity)
    {
        var text = new StringBuilder();
        Write(root, text, random, rarity);
        return text.ToString();
    }

    private void Write(JsonElement node, StringBuilder text, Random random, int rarity)
    {
        if (random.Next(rarity) == 0)
        {
            Replace(node, text, random, rarity);
            return;
        }
        switch (node.ValueKind)
        {
            case JsonValueKind.Object:
                text.Append('{').AppendJoin(',', Properties(node, random, rarity)).Append('}');
                break;
            case JsonValueKind.Array:
                text.Append('[').AppendJoin(',', Items(node, random, rarity)).Append(']');
                break;
            default:
                text.Append(node.GetRawText());
                break;
        }
    }

    private List<string> Properties(JsonElement node, Random random, int rarity)
    {
        var all = new List<string>();
        foreach (JsonProperty property in node.EnumerateObject())
        {
            string name = random.Next(rarity) == 0 ? Word(random) : JsonSerializer.Serialize(property.Name);
            string whole = $"{name}:{Text(property.Value, random, rarity)}";
            switch (random.Next(rarity * 2))
            {
                case 0: break;
                case 1: all.Add(whole); all.Add($"{name}:{Text(property.Value, random, rarity)}"); break;
                case 2: all.Insert(random.Next(all.Count + 1), whole); break;
                default: all.Add(whole); break;
            }
        }
        return all;
    }

    private List<string> Items(JsonElement node, Random random, int rarity)
    {
        List<string> all = [.. node.EnumerateArray().Select(item => Text(item, random, rarity))];
        if (random.Next(rarity) == 0)
        {
            int at = random.Next(all.Count + 1);
            all.Insert(at, at > 0 ? all[at - 1] : Fuzz.Pick(Numbers, random));
        }
        return all;
    }

    private string Text(JsonElement node, Random random, int rarity)
    {
        var text = new StringBuilder();
        Write(node, text, random, rarity);
        return text.ToString();
    }

    private void Replace(JsonElement node, StringBuilder text, Random random, int rarity)
    {
        switch (random.Next(8))
        {
            case 0:
                text.Append(Fuzz.Pick(Values, random));
                break;
            case 1:
                text.Append(Fuzz.Pick(Numbers, random));
                break;
            case 2:
                int depth = Fuzz.Pick<int>([2, 20, 63, 64, 65, 2000], random);
                text.Append('[', depth).Append(']', random.Next(4) == 0 ? depth - 1 : depth);
                break;
            case 3:
                text.Append('[').Append(node.GetRawText()).Append(']');
                break;
            case 4 when node.ValueKind == JsonValueKind.String:
                text.Append('"').Append('x', Fuzz.Pick<int>([1, 200, 10_000], random)).Append('"');
                break;
            case 5 when node.ValueKind is JsonValueKind.Object or JsonValueKind.Array:
                Write(node, text, random, rarity);
                break;
            default:
                text.Append(node.ValueKind == JsonValueKind.Number && node.TryGetInt64(out long number) ? Near(number, random) : Word(random));
                break;
        }
    }

    private static string Near(long number, Random random) => Fuzz.Pick<long>([number + 1, number - 1, number + 4, number * 2, number / 2, number + 8, -number], random).ToString(CultureInfo.InvariantCulture);

    private string Word(Random random) => words.Length == 0 ? "\"\"" : JsonSerializer.Serialize(Fuzz.Pick(words, random));
}
