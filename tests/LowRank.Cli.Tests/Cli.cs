using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Tests that capture the console run one after the other.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class ConsoleTests
{
    public const string Name = "console";
}

/// <summary>What a command left: exit code and the two outputs.</summary>
internal sealed record CliResult(int Code, string Output, string Error)
{
    public JsonNode Json => JsonNode.Parse(Output)!;
}

/// <summary>The command line in this process, and small models for it.</summary>
internal static class Cli
{
    /// <summary>A vision transformer of the goldens: 21x21 gray images, 3 classes.</summary>
    public static string Golden => Testing.Golden.Find("models/vit_1ch")!;

    public static CliResult Run(params string[] args) => Run(CancellationToken.None, args);

    public static CliResult Run(CancellationToken cancellation, params string[] args)
    {
        (TextWriter output, TextWriter error) = (Console.Out, Console.Error);
        using var captured = new StringWriter();
        using var errors = new StringWriter();
        try
        {
            Console.SetOut(captured);
            Console.SetError(errors);
            return new CliResult(Program.Run(args, cancellation).GetAwaiter().GetResult(), captured.ToString(), errors.ToString());
        }
        finally
        {
            Console.SetOut(output);
            Console.SetError(error);
        }
    }

    /// <summary>Runs a command that has to work.</summary>
    public static CliResult Done(params string[] args)
    {
        CliResult result = Run(args);
        Assert.True(result.Code == ExitCode.Done, $"{string.Join(' ', args)}: exit {result.Code}\n{result.Error}");
        return result;
    }

    /// <summary>Runs a command that has to fail with a code, and a message that holds each of the parts.</summary>
    public static void Fails(int code, IReadOnlyList<string> parts, params string[] args)
    {
        CliResult result = Run(args);
        Assert.True(result.Code == code, $"{string.Join(' ', args)}: exit {result.Code}, want {code}\n{result.Error}");
        Assert.StartsWith("lowrank: ", result.Error, StringComparison.Ordinal);
        Assert.All(parts, part => Assert.Contains(part, result.Error, StringComparison.Ordinal));
        Assert.Empty(result.Output);
    }

    /// <summary>A tiny BERT that fills masks, with a tokenizer of 900 tokens.</summary>
    public static string SaveEncoder(string folder) => SaveTextModel(folder, "bert_mlm", "bert_uncased", 900, 30, ["bert.embeddings.word_embeddings.weight"], ["cls.predictions.bias"]);

    /// <summary>A tiny Qwen3 that predicts the next token, with a tokenizer of 911 tokens.</summary>
    public static string SaveDecoder(string folder) => SaveTextModel(folder, "qwen3", "llama3_bpe", 911, 36, ["model.embed_tokens.weight", "lm_head.weight"], [], ("eos_token_id", 906), ("pad_token_id", 910));

    /// <summary>A golden model with another vocabulary: random tables, zero biases.</summary>
    private static string SaveTextModel(string folder, string model, string tokenizer, int vocabulary, int width, string[] tables, string[] biases, params (string Key, int Value)[] ids)
    {
        string from = Testing.Golden.Find($"models/{model}")!;
        Directory.CreateDirectory(folder);
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(from, "config.json")))!.AsObject();
        foreach ((string key, int value) in ids.Append(("vocab_size", vocabulary)))
        {
            config[key] = value;
        }
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        File.Copy(Path.Combine(Testing.Golden.Find($"tokenizers/{tokenizer}")!, Tokenizer.FileName), Path.Combine(folder, Tokenizer.FileName));
        using TensorSource source = TensorSource.Open(from);
        float[] Random(string name)
        {
            var table = new float[vocabulary * width];
            new Rng(1).Fork(name).FillNormal(table, 0, 0.5f);
            return table;
        }
        SafeTensorsFile.Save(
            Path.Combine(folder, "model.safetensors"),
            source.Entries.Select(e => tables.Contains(e.Name) ? TensorData.Of(e.Name, [vocabulary, width], Random(e.Name)) : biases.Contains(e.Name) ? TensorData.Of(e.Name, [vocabulary], new float[vocabulary]) : TensorData.Of(source, e.Name)),
            new Dictionary<string, string> { ["format"] = "pt" });
        return folder;
    }

    /// <summary>Saves a random vision transformer of 8x8 images.</summary>
    public static string SaveModel(string folder, int channels = 1, int classes = 2)
    {
        using Device device = Device.Cpu();
        var config = new VisionTransformerConfig { ImageSize = 8, PatchSize = 4, Channels = channels, HiddenSize = 16, Layers = 2, Heads = 2, IntermediateSize = 32, InitializerRange = 0.2 };
        using var model = new VisionTransformer(config.WithClasses(classes), device, new Rng(1));
        model.Save(folder);
        return folder;
    }
}
