using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models.Tokenizers;

namespace LowRank.Models;

/// <summary>Text as its bytes of UTF-8: a token a byte, its id the byte. A byte-level BPE without merges, which every reader of tokenizer.json knows.</summary>
public static class ByteTokenizer
{
    /// <summary>Number of ids.</summary>
    public const int Count = 256;

    /// <summary>Writes tokenizer.json and tokenizer_config.json, by which transformers finds the class.</summary>
    /// <param name="folder">Of the model.</param>
    /// <param name="maxTokens">Tokens that the model can read.</param>
    /// <exception cref="IOException">A file cannot be written.</exception>
    public static void Write(string folder, int maxTokens)
    {
        var vocabulary = new JsonObject();
        for (int b = 0; b < Count; b++)
        {
            vocabulary.Add(char.ConvertFromUtf32(PreTokenizer.LetterOf((byte)b)), b);
        }
        Write(Path.Combine(folder, Tokenizer.FileName), new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = new JsonArray(),
            ["normalizer"] = null,
            ["pre_tokenizer"] = ByteLevel(),
            ["post_processor"] = null,
            ["decoder"] = ByteLevel(),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["dropout"] = null,
                ["unk_token"] = null,
                ["continuing_subword_prefix"] = null,
                ["end_of_word_suffix"] = null,
                ["fuse_unk"] = false,
                ["byte_fallback"] = false,
                ["ignore_merges"] = false,
                ["vocab"] = vocabulary,
                ["merges"] = new JsonArray(),
            },
        });
        Write(Path.Combine(folder, "tokenizer_config.json"), new JsonObject
        {
            ["tokenizer_class"] = "PreTrainedTokenizerFast",
            ["model_max_length"] = maxTokens,
            ["clean_up_tokenization_spaces"] = false,
        });
    }

    private static JsonObject ByteLevel() => new() { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = true };

    private static void Write(string file, JsonObject json) => AtomicFile.WriteText(file, json.ToJsonString(new JsonSerializerOptions { WriteIndented = true, NewLine = "\n" }) + "\n");
}
