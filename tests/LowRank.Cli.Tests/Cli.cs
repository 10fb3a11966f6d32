using System.Text.Json.Nodes;
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
