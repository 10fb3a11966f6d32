using System.Text;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Tokenizers on hard input: what is refused, and that nothing crashes or loses text.</summary>
public sealed class TokenizerTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;

    public static TheoryData<string> Names => ["bert_uncased", "llama3_bpe", "unigram_charsmap"];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Names))]
    public void Any_string_is_encoded(string name)
    {
        Tokenizer tokenizer = Load(name);
        foreach (string text in (ReadOnlySpan<string>)["", "\0", "\uD800", "a\uDC00b\uD83D", new string('x', 10_000), new string(' ', 3000), "é\u0301\u0301", "가나다", "\u200B\uFEFF", "<s></s>[CLS]<|end_of_text|>"])
        {
            TokenEncoding got = tokenizer.Encode(text, special: false);
            Assert.All(got.Ids, id => Assert.InRange(id, 0, tokenizer.Count - 1));
            int letters = text.EnumerateRunes().Count();
            Assert.All(got.Tokens, t => Assert.True(0 <= t.Start && t.Start <= t.End && t.End <= letters, $"{name}: {t} of {letters} code points"));
            Assert.All(got.CharOffsets, o => Assert.InRange(o.End, o.Start, text.Length));
            Assert.Equal(got.Ids, tokenizer.Encode(text, special: false).Ids);
        }
    }

    // WordPiece, byte-level BPE, BPE that no pre-tokenizer cuts, Unigram
    [Theory, InlineData("bert_uncased"), InlineData("llama3_bpe"), InlineData("llama2_bpe"), InlineData("unigram_charsmap")]
    public void A_line_of_ten_megabytes_is_the_same_line_again_and_again(string name)
    {
        const string line = "It was 1984, o'clock; naïve ☃ 🙂 in the afternoon.";
        Tokenizer tokenizer = Load(name);
        int times = (10 << 20) / Encoding.UTF8.GetByteCount(line);
        int[] one = Ids(line + " " + line)[Ids(line).Length..], all = Ids(string.Join(' ', Enumerable.Repeat(line, times)));
        Assert.Equal(Ids(line), all[..Ids(line).Length]);
        Assert.Equal(Ids(line).Length + ((times - 1) * one.Length), all.Length);
        Assert.All(all[Ids(line).Length..].Chunk(one.Length), part => Assert.Equal(one, part));

        int[] Ids(string text) => tokenizer.Encode(text, special: false).Ids.ToArray();
    }

    [Fact]
    public void A_line_of_added_tokens_is_read_once()
    {
        const int times = 200_000;
        Tokenizer tokenizer = Load("llama2_bpe");
        TokenEncoding got = tokenizer.Encode(string.Concat(Enumerable.Repeat("</s>", times)), special: false);
        Assert.Equal(Enumerable.Repeat(tokenizer.IdOf("</s>")!.Value, times), got.Ids);
    }

    [Theory, InlineData("bert_uncased"), InlineData("llama3_bpe"), InlineData("llama2_bpe"), InlineData("unigram_charsmap")]
    public void A_long_line_without_spaces_is_encoded(string name)
    {
        Tokenizer tokenizer = Load(name);
        var rng = new Rng(7);
        string text = new([.. Enumerable.Range(0, 1 << 20).Select(_ => (char)('a' + rng.Below(26)))]);
        TokenEncoding got = tokenizer.Encode(text, special: false);
        Assert.Equal(text.Length, got.Tokens[^1].End);
        Assert.Equal(got.Tokens.Skip(1).Select(t => t.Start), got.Tokens.SkipLast(1).Select(t => t.End));
    }

    [Theory, MemberData(nameof(Names))]
    public void Many_texts_give_what_each_gives_alone(string name)
    {
        Tokenizer tokenizer = Load(name);
        string[] texts = [.. Enumerable.Range(0, 200).Select(i => $"text {i % 7} of {i}, naïve")];
        int[][] alone = [.. texts.Select(t => tokenizer.Encode(t).Ids)];
        Assert.Equal(alone, Load(name).EncodeAll(texts).Select(e => e.Ids));
        IReadOnlyList<TokenEncoding> padded = tokenizer.EncodeAll(texts, padding: new Padding(0));
        Assert.Single(padded.Select(e => e.Ids.Length).Distinct());
        Assert.Equal(alone, padded.Select(e => e.Ids.Where((_, i) => e.AttentionMask[i] == 1)));
    }

    /// <summary>A token that may reach across spaces switches the memory of words off.</summary>
    [Theory]
    [InlineData("bert_uncased")]
    [InlineData("llama3_bpe")]
    [InlineData(BaseModel.TextName)]
    public void Words_met_before_change_nothing(string name)
    {
        string path = name == BaseModel.TextName ? Path.Combine(BaseModel.TextFolder, Tokenizer.FileName) : PathOf(name);
        JsonNode json = JsonNode.Parse(File.ReadAllText(path))!;
        json["added_tokens"]!.AsArray().Add(JsonNode.Parse("""{"id": 1, "content": "never met", "normalized": true}"""));
        File.WriteAllText(Path.Combine(folder, Tokenizer.FileName), json.ToJsonString());
        (Tokenizer fast, Tokenizer plain) = (Tokenizer.Load(path), Tokenizer.Load(folder));
        foreach (string text in (ReadOnlySpan<string>)[
            "the cat and the cat, and  the\tcat\n\nthe cat ", " a \u0301b c\u0301 d", "x\u00A0y x\u00A0y \u3000 z", "\uD800 a \uDC00", "naïve 🙂 naïve 🙂", "日本 語 日本", "a\0 b a\0 b",
            "[MASK] [CLS]a [MASK]", new string('q', 90) + " " + new string('q', 90), "don't don't  don't", " ", "\n \n"])
        {
            TokenEncoding got = fast.Encode(text), want = plain.Encode(text);
            Assert.Equal(want.Tokens, got.Tokens);
            Assert.Equal(want.Tokens, fast.Encode(text).Tokens);
        }
    }

    [Theory]
    [InlineData("model.type", "\"WordLevel\"", "model.type is 'WordLevel', want one of WordPiece, BPE, Unigram")]
    [InlineData("normalizer.type", "\"Upside\"", "normalizer.type is 'Upside', want one of Sequence, BertNormalizer,")]
    [InlineData("pre_tokenizer.type", "\"Cut\"", "pre_tokenizer.type is 'Cut', want one of")]
    [InlineData("post_processor.type", "\"Frame\"", "post_processor.type is 'Frame', want one of")]
    [InlineData("decoder.type", "\"CTC\"", "decoder.type is 'CTC', want one of")]
    [InlineData("model.vocab", "[]", "model.vocab is [], want an object of ids by token")]
    [InlineData("model.unk_token", "\"[NONE]\"", "model.unk_token is \"[NONE]\", want a token of the vocabulary")]
    [InlineData("added_tokens", "[{\"id\":\"x\"}]", "added_tokens[0].id is \"x\", want an integer")]
    [InlineData("normalizer.lowercase", "3", "normalizer.lowercase is 3, want true or false")]
    public void What_is_unknown_is_named(string path, string value, string message)
    {
        JsonNode json = JsonNode.Parse(File.ReadAllText(PathOf("bert_uncased")))!;
        string[] keys = path.Split('.');
        JsonNode at = json;
        foreach (string key in keys[..^1])
        {
            at = at[key]!;
        }
        at[keys[^1]] = JsonNode.Parse(value);
        string file = Path.Combine(folder, Tokenizer.FileName);
        File.WriteAllText(file, json.ToJsonString());
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Tokenizer.Load(folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_or_damaged_file_is_named()
    {
        Assert.Contains("want a tokenizer.json", Assert.Throws<FileNotFoundException>(() => Tokenizer.Load(folder)).Message, StringComparison.Ordinal);
        string file = Path.Combine(folder, Tokenizer.FileName);
        string whole = File.ReadAllText(PathOf("bert_uncased"));
        foreach (string text in (ReadOnlySpan<string>)["", "{", "[]", "{}", "null", whole[..(whole.Length / 2)]])
        {
            File.WriteAllText(file, text);
            Assert.Contains(file, Assert.Throws<ModelFormatException>(() => Tokenizer.Load(folder)).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Truncation_that_cannot_be_is_refused()
    {
        Tokenizer tokenizer = Load("bert_uncased");
        Assert.Contains("want at least the 2 special tokens", Assert.Throws<ArgumentException>(() => tokenizer.Encode("one two three", truncation: new Truncation(1))).Message, StringComparison.Ordinal);
        Assert.Contains("Stride is 2", Assert.Throws<ArgumentException>(() => tokenizer.Encode("one two three four", truncation: new Truncation(4, Stride: 2))).Message, StringComparison.Ordinal);
        Assert.Contains("OnlySecond cannot cut", Assert.Throws<ArgumentException>(() => tokenizer.Encode("one two three four five", "a", truncation: new Truncation(6, Strategy: TruncationStrategy.OnlySecond))).Message, StringComparison.Ordinal);
    }

    private static string PathOf(string name) => Path.Combine(Golden.Repository, "tests", "golden", "tokenizers", name, Tokenizer.FileName);

    private static Tokenizer Load(string name) => Tokenizer.Load(PathOf(name));
}
