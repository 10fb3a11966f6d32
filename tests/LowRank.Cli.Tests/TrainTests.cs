using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Adapting a small model to the digits from the command line: what is written, that it can be measured again, resumed and read by others.</summary>
[Collection(ConsoleTests.Name)]
public sealed class TrainTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-train").FullName;

    public static TheoryData<string> Methods => [.. FineTuneMethod.All.Select(m => m.Name)];

    public static TheoryData<string> Optimizers => [.. FineTuneOptimizer.All.Select(o => o.Name)];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Methods))]
    public void Every_method_trains_saves_and_measures_the_same_again(string method)
    {
        string model = Cli.SaveModel(At("model")), output = At("out");
        JsonNode trained = Cli.Done("train", "--model", model, "--data", "digits", "--per-class", "20", "--epochs", "6", "--method", method, "--output", output, "--json", "--quiet").Json;
        double accuracy = trained["accuracy"]!.GetValue<double>();
        Assert.Equal(200, trained["images"]!.GetValue<int>());
        Assert.Equal(1597, trained["count"]!.GetValue<int>());
        Assert.True(accuracy > 0.15, $"{method}: accuracy {accuracy} is no better than chance");
        bool whole = method is "head" or "full";
        Assert.Equal(
            whole ? ["config.json", "lowrank.json", "model.safetensors"] : ["adapter_config.json", "adapter_model.safetensors", "lowrank.json"],
            Directory.GetFiles(output).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(["accuracy.png", "loss.png", "rate.png", "report.json", "report.md"], Directory.GetFiles(Path.Combine(output, "report")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.False(Directory.Exists(RunFolder.Of(output)));
        JsonNode measured = Cli.Done(["eval", "--data", "digits", "--json", .. whole ? ["--model", output] : (string[])["--adapter", output]]).Json;
        Assert.Equal("held out", measured["part"]!.GetValue<string>());
        Assert.Equal(1597, measured["count"]!.GetValue<int>());
        // PiSSA and OLoRA are saved as plain LoRA of twice the rank: equal up to rounding, which may move an image on the border.
        Assert.Equal(accuracy, measured["accuracy"]!.GetValue<double>(), tolerance: method is "pissa" or "olora" ? 2.0 / 1597 : 0);
    }

    [Theory, MemberData(nameof(Optimizers))]
    public void Every_optimiser_trains_and_what_was_best_is_saved(string optimizer)
    {
        string model = Cli.SaveModel(At("model")), output = At("out");
        JsonNode trained = Cli.Done([
            "train", "--model", model, "--data", "digits", "--per-class", "20", "--epochs", "6", "--accumulate", "2", "--clip", "1", "--label-smoothing", "0.1", "--patience", "2",
            "--output", output, "--json", "--quiet", .. optimizer == "sora" ? ["--method", "sora"] : (string[])["--optimizer", optimizer]]).Json;
        double accuracy = trained["accuracy"]!.GetValue<double>();
        Assert.True(accuracy > 0.15, $"{optimizer}: accuracy {accuracy} is no better than chance");
        Assert.Equal(accuracy, Cli.Done("eval", "--data", "digits", "--json", "--adapter", output).Json["accuracy"]!.GetValue<double>());
        Assert.Contains(optimizer, File.ReadAllText(Path.Combine(output, "report", "report.md")), StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_folder_is_what_peft_writes()
    {
        string model = Cli.SaveModel(At("model"));
        Cli.Done("train", "--model", model, "--data", "digits", "--per-class", "2", "--epochs", "1", "--rank", "3", "--alpha", "5", "--targets", "q_proj,v_proj", "--dropout", "0.1", "--output", At("out"), "--quiet");
        var config = (JsonObject)JsonNode.Parse(File.ReadAllText(Path.Combine(At("out"), "adapter_config.json")))!;
        using (PeftFolder golden = PeftFolder.Open(Testing.Golden.Find("peft/lora_bias_all")!))
        {
            var keys = (JsonObject)JsonNode.Parse(File.ReadAllText(Path.Combine(golden.Path, "adapter_config.json")))!;
            Assert.Equal(keys.Select(p => p.Key), config.Select(p => p.Key));
        }
        Assert.Equal(model, config["base_model_name_or_path"]!.GetValue<string>());
        Assert.Equal(3, config["r"]!.GetValue<int>());
        Assert.Equal("[\"classifier\"]", config["modules_to_save"]!.ToJsonString());
        using SafeTensorsFile tensors = SafeTensorsFile.Open(Path.Combine(At("out"), "adapter_model.safetensors"));
        Assert.Equal(2 + (2 * 2 * 2), tensors.Entries.Count);
        Assert.Contains("base_model.model.vit.layers.0.attention.q_proj.lora_A.weight", tensors.Entries.Select(e => e.Name));
        Assert.Contains("base_model.model.classifier.weight", tensors.Entries.Select(e => e.Name));
    }

    [Fact]
    public void The_same_words_give_the_same_bits_and_another_seed_others()
    {
        string[] words = ["train", "--model", Cli.Golden, "--data", "digits", "--per-class", "3", "--epochs", "2", "--dropout", "0.2", "--quiet"];
        Cli.Done([.. words, "--output", At("a")]);
        Cli.Done([.. words, "--output", At("b")]);
        Cli.Done([.. words, "--output", At("c"), "--seed", "1"]);
        Assert.Equal(Weights("a"), Weights("b"));
        Assert.NotEqual(Weights("a"), Weights("c"));
    }

    [Theory, InlineData("lora"), InlineData("full")]
    public void A_dry_run_prints_figures_and_writes_nothing(string method)
    {
        JsonNode figures = Cli.Done("train", "--model", Cli.Golden, "--data", "digits", "--method", method, "--output", At("dry"), "--dry-run", "--json").Json;
        Assert.False(Directory.Exists(At("dry")));
        using Device device = Device.Cpu();
        using PretrainedModel model = PretrainedModel.Load(Cli.Golden, device, new LoadOptions { Classes = [.. Enumerable.Range(0, 10).Select(i => $"{i}")] });
        long all = model.Parameters.Values.Sum(p => p.Value.Shape.Count);
        Assert.Equal(all, figures["parameters"]!.GetValue<long>());
        Assert.Equal(method == "full" ? all : figures["trainable"]!.GetValue<long>(), figures["trainable"]!.GetValue<long>());
        Assert.True(figures["trainable"]!.GetValue<long>() <= all);
        Assert.Equal(16 * figures["trainable"]!.GetValue<long>(), figures["state_bytes"]!.GetValue<long>());
        Assert.True(figures["activation_bytes"]!.GetValue<long>() > 0 && figures["seconds"]!.GetValue<double>() > 0 && figures["weight_bytes"]!.GetValue<long>() >= 4 * all);
        Assert.Equal(1438, figures["images"]!.GetValue<int>());
        Assert.Equal(359, figures["test_images"]!.GetValue<int>());
    }

    [Fact]
    public void Per_layer_trains_to_the_same_bits_without_clipping()
    {
        string[] words = ["train", "--model", Cli.Golden, "--data", "digits", "--per-class", "3", "--epochs", "2", "--optimizer", "galore", "--output"];
        Cli.Done([.. words, At("a"), "--clip", "0", "--quiet"]);
        Cli.Done([.. words, At("b"), "--per-layer", "--quiet"]);
        Assert.Equal(Weights("a"), Weights("b"));
        Cli.Fails(ExitCode.Usage, ["max-gradient-norm is 1, want 0 beside per-layer"], [.. words, At("c"), "--per-layer", "--clip", "1"]);
        Cli.Fails(ExitCode.Usage, ["accumulate is 2, want 1 beside per-layer"], [.. words, At("c"), "--per-layer", "--accumulate", "2"]);
        long State(params string[] more) => Cli.Done([.. words, At("d"), "--method", "full", "--dry-run", "--json", .. more]).Json["state_bytes"]!.GetValue<long>();
        Assert.True(State("--per-layer") < State());
    }

    [Fact]
    public void Bfloat16_and_lora_plus_train()
    {
        string[] words = ["train", "--model", Cli.SaveModel(At("model")), "--data", "digits", "--per-class", "20", "--epochs", "6", "--output", At("out"), "--json", "--quiet"];
        Assert.True(Cli.Done([.. words, "--type", "bf16"]).Json["accuracy"]!.GetValue<double>() > 0.15);
        Assert.True(Cli.Done([.. words, "--lora-plus", "4"]).Json["accuracy"]!.GetValue<double>() > 0.15);
        Assert.True(Cli.Done([.. words, "--type", "bf16", "--method", "head"]).Json["accuracy"]!.GetValue<double>() > 0.15);
        Assert.True(Cli.Done([.. words, "--type", "bf16", "--method", "full"]).Json["accuracy"]!.GetValue<double>() > 0.15);
    }

    private string At(string name) => Path.Combine(folder, name);

    private byte[] Weights(string name) => File.ReadAllBytes(Path.Combine(At(name), "adapter_model.safetensors"));
}
