using System.CommandLine;
using LowRank.Formats;
using SkiaSharp;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>What a user gets wrong: exit code, a message that names the thing and the remedy, and no file left behind.</summary>
[Collection(ConsoleTests.Name)]
public sealed class ErrorTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-errors").FullName;

    /// <summary>Words after <c>train</c> that go before good ones, and what the message says.</summary>
    public static TheoryData<string, int, string> BadWords => new()
    {
        { "--rank 0", ExitCode.Usage, "r is 0, want a whole number of at least 1" },
        { "--dropout 1", ExitCode.Usage, "lora_dropout is 1" },
        { "--alpha nan", ExitCode.Usage, "lora_alpha is NaN" },
        { "--targets q_proj,nothing", ExitCode.Usage, "'nothing' names no layer, want all-linear, a regular expression for whole paths, or names such as projection, q_proj, k_proj, v_proj, o_proj, fc1, fc2, classifier" },
        { "--targets .*nothing", ExitCode.Usage, "matches no layer" },
        { "--targets (", ExitCode.Usage, "is no regular expression" },
        { "--method adalora", ExitCode.Usage, "method is adalora, want one of lora, dora, rslora" },
        { "--method head --lora-plus 4", ExitCode.Usage, "LoRA+ is asked for beside method head" },
        { "--method ia3 --dropout 0.1", ExitCode.Usage, "dropout is 0.1 beside method ia3" },
        { "--lora-plus 0", ExitCode.Usage, "ratio 0" },
        { "--epochs 0", ExitCode.Usage, "epochs is 0, want at least 1" },
        { "--batch-size 0", ExitCode.Usage, "batch-size is 0, want at least 1" },
        { "--accumulate 9 --batch-size 8", ExitCode.Usage, "accumulate is 9, want 1 .. batch-size 8" },
        { "--optimizer lion", ExitCode.Usage, "optimizer is lion, want one of adamw, adam, sgd" },
        { "--optimizer lora-fa --method head", ExitCode.Usage, "optimizer is lora-fa, which is made for A and B" },
        { "--label-smoothing 1", ExitCode.Usage, "label-smoothing is 1, want 0 or more, less than 1" },
        { "--patience -1", ExitCode.Usage, "patience is -1, want 0 or more" },
        { "--learning-rate -1", ExitCode.Usage, "learning-rate is -1, want more than 0" },
        { "--learning-rate nan", ExitCode.Usage, "learning-rate is NaN, want more than 0" },
        { "--warmup 2", ExitCode.Usage, "warmup is 2, want 0 .. 1" },
        { "--weight-decay -1", ExitCode.Usage, "weight-decay is -1, want 0 or more" },
        { "--max-gradient-norm -1", ExitCode.Usage, "max-gradient-norm is -1, want 0 or more" },
        { "--checkpoint-steps -1", ExitCode.Usage, "checkpoint-steps is -1, want 0 or more" },
        { "--per-class 0", ExitCode.Usage, "perClass is 0, want at least 1" },
        { "--per-class 1000", ExitCode.Usage, "images, want 1000: ask for fewer a class" },
        { "--type f8", ExitCode.Usage, "type is f8, want f32 or bf16" },
        { "--device tpu", ExitCode.Failed, "device is tpu, want one of: cpu" },
        { "--model nowhere", ExitCode.Usage, "nowhere is no folder, want a folder with config.json" },
        { "--data nowhere", ExitCode.Usage, "nowhere is neither 'digits' nor a safetensors file" },
        { "--resume", ExitCode.Usage, "holds no unfinished run to resume; leave out --resume" },
        { "--schedule step", ExitCode.Usage, "Cosine" },
        { "--rank many", ExitCode.Usage, "--rank" },
        { "--no-such-option", ExitCode.Usage, "--no-such-option" },
        { "--learning-rate 1e30 --epochs 3 --max-gradient-norm 0", ExitCode.Failed, "want a finite number; lower the learning rate" },
    };

    public static TheoryData<string> Commands => [.. Program.Root().Subcommands.Select(c => c.Name)];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(BadWords))]
    public void Bad_words_name_themselves_and_leave_no_result(string words, int code, string message)
    {
        string[] bad = words.Split(' ');
        (string, string)[] good = [("--model", Cli.Golden), ("--data", "digits"), ("--per-class", "3")];
        Cli.Fails(code, [message], ["train", "--output", At("out"), "--quiet", .. bad, .. good.Where(g => !bad.Contains(g.Item1)).SelectMany(g => new[] { g.Item1, g.Item2 })]);
        Assert.Empty(Directory.Exists(At("out")) ? Directory.GetFiles(At("out")) : []);
    }

    [Theory]
    [InlineData("", "command")]
    [InlineData("trian", "trian")]
    [InlineData("train --model x", "--data")]
    [InlineData("eval --data digits", "neither --model nor --adapter")]
    [InlineData("eval --data digits --model x --part some", "'some'")]
    [InlineData("inspect", "path")]
    public void Words_that_do_not_parse_point_to_the_help(string words, string message) =>
        Cli.Fails(ExitCode.Usage, [message, "Try: lowrank ", "--help"], words.Split(' ', StringSplitOptions.RemoveEmptyEntries));

    [Fact]
    public void Images_and_labels_that_do_not_fit_are_named()
    {
        Png("mixed/a/1.png", 8, 8);
        Png("mixed/b/1.png", 9, 7);
        Cli.Fails(ExitCode.Usage, ["1.png is 7x9, want 8x8: resize it first"], Train("mixed"));
        Directory.CreateDirectory(At("none/a"));
        Cli.Fails(ExitCode.Usage, ["has no *.png"], Train("none"));
        Arrays("negative.safetensors", 8, [0, -1]);
        Cli.Fails(ExitCode.Usage, ["label 1 of", "is -1"], Train("negative.safetensors"));
        Arrays("one.safetensors", 8, [0]);
        Cli.Fails(ExitCode.Usage, ["want some of each"], Train("one.safetensors"));
        File.WriteAllText(At("text.safetensors"), "no tensors here");
        Cli.Fails(ExitCode.Usage, ["text.safetensors"], Train("text.safetensors"));
        Assert.False(Directory.Exists(At("out")));
    }

    [Fact]
    public void An_evaluation_refuses_what_the_model_was_not_trained_on()
    {
        Cli.Done("train", "--model", Cli.Golden, "--data", "digits", "--per-class", "2", "--epochs", "1", "--output", At("adapter"), "--quiet");
        Arrays("large.safetensors", 9, [0, 1]);
        Cli.Fails(ExitCode.Usage, ["images are 9x9, want 8x8", "resize them first"], "eval", "--adapter", At("adapter"), "--data", At("large.safetensors"));
        Arrays("label.safetensors", 8, [0, 12]);
        Cli.Fails(ExitCode.Usage, ["label 12 is out of range, want one of the model's 10 classes"], "eval", "--adapter", At("adapter"), "--data", At("label.safetensors"));
        Cli.Fails(ExitCode.Usage, ["has no lowrank.json"], "eval", "--model", Cli.Golden, "--data", "digits");
        Cli.Fails(ExitCode.Usage, ["has no adapter_config.json"], "eval", "--adapter", At("nowhere"), "--data", "digits");
        string other = Cli.SaveModel(At("other"));
        Cli.Fails(ExitCode.Usage, ["was made for another base model", "lora_A"], "eval", "--adapter", At("adapter"), "--model", other, "--data", "digits");
        File.WriteAllText(Path.Combine(At("adapter"), "lowrank.json"), "{\"channels\": 1}");
        Cli.Fails(ExitCode.Usage, ["lowrank.json"], "eval", "--adapter", At("adapter"), "--data", "digits");
        File.WriteAllText(Path.Combine(At("adapter"), "adapter_config.json"), "{\"peft_type\": \"OFT\"}");
        Cli.Fails(ExitCode.Usage, ["OFT, a method of PEFT's that is not built here yet"], "eval", "--adapter", At("adapter"), "--data", "digits");
    }

    [Fact]
    public void An_output_that_cannot_be_written_fails_before_training()
    {
        File.WriteAllText(At("file"), "");
        Cli.Fails(ExitCode.Failed, ["cannot make", "Choose a writable --output"], [.. Train("digits")[..^1], Path.Combine(At("file"), "out")]);
        Assert.Equal("", File.ReadAllText(At("file")));
    }

    [Fact]
    public void A_stopped_run_is_neither_overwritten_nor_resumed_with_other_settings()
    {
        using var stopped = new CancellationTokenSource();
        stopped.Cancel();
        CliResult result = Cli.Run(stopped.Token, Train("digits"));
        Assert.Equal(ExitCode.Cancelled, result.Code);
        Assert.Contains("stopped after step 0 of", result.Error, StringComparison.Ordinal);
        Cli.Fails(ExitCode.Usage, ["holds an unfinished run; add --resume to go on with it, or delete"], Train("digits"));
        Cli.Fails(ExitCode.Usage, ["other settings: Options.Alpha was 16 and is 3"], [.. Train("digits"), "--resume", "--alpha", "3"]);
        Cli.Done([.. Train("digits"), "--resume"]);
        Cli.Fails(ExitCode.Usage, ["holds no unfinished run"], [.. Train("digits"), "--resume"]);
    }

    [Theory, MemberData(nameof(Commands))]
    public void Help_describes_every_command_option_and_argument(string name)
    {
        Command command = Program.Root().Subcommands.Single(c => c.Name == name);
        string help = Cli.Done(name, "--help").Output;
        Assert.Contains(command.Description!, help, StringComparison.Ordinal);
        foreach (Symbol symbol in command.Options.Cast<Symbol>().Concat(command.Arguments))
        {
            Assert.False(string.IsNullOrWhiteSpace(symbol.Description), $"{name} {symbol.Name} has no description");
            Assert.EndsWith(".", symbol.Description, StringComparison.Ordinal);
            Assert.Contains(symbol.Name, help, StringComparison.Ordinal);
        }
        Assert.Contains(name, Cli.Done("--help").Output, StringComparison.Ordinal);
    }

    private string At(string name) => Path.Combine(folder, name);

    private string[] Train(string data) => ["train", "--model", Cli.Golden, "--data", data == "digits" ? data : At(data), "--epochs", "1", "--quiet", "--output", At("out")];

    private void Png(string name, int width, int height)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(At(name))!);
        using SKBitmap bitmap = new(width, height, SKColorType.Gray8, SKAlphaType.Opaque);
        using SKData data = bitmap.Encode(SKEncodedImageFormat.Png, 100);
        File.WriteAllBytes(At(name), data.ToArray());
    }

    private void Arrays(string name, int size, int[] labels)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        SafeTensorsFile.Save(At(name), [TensorData.Of("images", scope.NewZeros([labels.Length, size, size], DType.F32)), TensorData.Of("labels", scope.Of([labels.Length], labels))]);
    }
}
