using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Hard texts through tokenizers of Hugging Face: ids, tokens, places in the text, masks, windows, and the text again.</summary>
public class TokenizerGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("tokenizers");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_tokenizers(string name) => Golden.Run("tokenizers", name, c =>
    {
        var tokenizer = Tokenizer.Load(c.Path);
        List<string> wrong = [];
        int number = 0;
        foreach (JsonElement one in JsonElement.Parse(File.ReadAllText(c.PathOf("cases.json"))).EnumerateArray())
        {
            Check(tokenizer, one, $"{number++} {one.GetProperty("text").GetRawText()}", wrong);
        }
        Assert.True(number > 100, $"{name} has {number} texts, want more than 100");
        Assert.True(wrong.Count == 0, $"{wrong.Count} differences in {number} texts:\n{string.Join('\n', wrong.Take(12))}");
    });

    private static void Check(Tokenizer tokenizer, JsonElement one, string label, List<string> wrong)
    {
        string text = one.GetProperty("text").GetString()!;
        string? pair = one.GetProperty("pair").GetString();
        TokenEncoding got = tokenizer.Encode(text, pair, one.GetProperty("add_special_tokens").GetBoolean(), TruncationOf(one), PaddingOf(one));
        void Compare(string key, object? value)
        {
            if (one.TryGetProperty(key, out JsonElement want))
            {
                string ours = JsonSerializer.Serialize(value), theirs = JsonSerializer.Serialize(want);
                if (ours != theirs)
                {
                    wrong.Add($"{label}: {key} is {ours}, want {theirs}");
                }
            }
        }
        Compare("ids", got.Ids);
        Compare("tokens", got.Tokens.Select(t => t.Text));
        Compare("offsets", got.Tokens.Select(t => new[] { t.Start, t.End }));
        Compare("offsets_utf16", got.CharOffsets.Select(o => new[] { o.Start, o.End }));
        Compare("type_ids", got.TypeIds);
        Compare("attention_mask", got.AttentionMask.Select(m => (int)m));
        Compare("special_tokens_mask", got.Tokens.Select(t => t.IsAdded ? 1 : 0));
        Compare("word_ids", got.Tokens.Select(t => t.Word));
        Compare("sequence_ids", got.Tokens.Select(t => t.Sequence));
        Compare("decoded", tokenizer.Decode(got.Ids, keepSpecial: true));
        Compare("decoded_skip_special", tokenizer.Decode(got.Ids));
        if (one.TryGetProperty("normalized", out JsonElement normalized) && normalized.ValueKind == JsonValueKind.String)
        {
            Compare("normalized", tokenizer.Normalize(text));
        }
        Compare("overflow_ids", got.Overflow.Select(o => o.Ids));
    }

    private static Truncation? TruncationOf(JsonElement one) => one.TryGetProperty("truncation", out JsonElement t) && t.ValueKind == JsonValueKind.Object
        ? new Truncation(t.GetProperty("max_length").GetInt32(), Number(t, "stride") ?? 0, Text(t, "strategy") switch { "only_first" => TruncationStrategy.OnlyFirst, "only_second" => TruncationStrategy.OnlySecond, _ => TruncationStrategy.LongestFirst }, Text(t, "direction") == "left")
        : null;

    private static Padding? PaddingOf(JsonElement one) => one.TryGetProperty("padding", out JsonElement p) && p.ValueKind == JsonValueKind.Object
        ? new Padding(p.GetProperty("pad_id").GetInt32(), p.GetProperty("pad_token").GetString()!, Number(p, "length"), Number(p, "pad_to_multiple_of") ?? 1, Text(p, "direction") == "left" ? PaddingSide.Left : PaddingSide.Right)
        : null;

    private static int? Number(JsonElement from, string key) => from.TryGetProperty(key, out JsonElement value) && value.ValueKind == JsonValueKind.Number ? value.GetInt32() : null;

    private static string? Text(JsonElement from, string key) => from.TryGetProperty(key, out JsonElement value) ? value.GetString() : null;
}
