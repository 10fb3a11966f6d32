using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary><c>lowrank compress</c>: what it writes, what it says, and what it refuses.</summary>
[Collection(ConsoleTests.Name)]
public sealed class CompressTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-compress").FullName;
    private readonly string text;

    public CompressTests()
    {
        text = At("text.txt");
        File.WriteAllText(text, string.Concat(Enumerable.Range(0, 40).Select(i => $"The ship {i} sails at dawn and comes home at night.\n")));
    }

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_compressed_model_and_its_adapter_are_written_and_read()
    {
        string model = Cli.SaveDecoder(At("model")), to = At("small");
        JsonNode done = Cli.Done("compress", "--model", model, "--bits", "3", "--calibration", text, "--samples", "2", "--tokens", "24", "--rank", "8", "--floor", "1e-6", "--measure", text, "--output", to, "--quiet", "--json").Json;
        JsonObject[] layers = [.. done["layers"]!.AsArray().OfType<JsonObject>()];
        Assert.NotEmpty(layers);
        Assert.All(layers, l => Assert.True(l["compensated"]!.GetValue<double>() <= l["error"]!.GetValue<double>()));
        Assert.All(["bits_per_token", "bits_compressed", "bits_compensated"], key => Assert.True(done[key]!.GetValue<double>() > 0));
        using (TensorSource before = TensorSource.Open(model), after = TensorSource.Open(to))
        {
            Assert.Equal(before.Entries.Select(e => $"{e}").Order(), after.Entries.Select(e => $"{e}").Order());
        }
        using (PeftFolder adapter = PeftFolder.Open(Path.Combine(to, CompressCommand.AdapterFolder)))
        {
            var config = (LoraConfig)adapter.Config;
            Assert.Equal((8, 8.0, to), (config.Rank, config.Alpha, config.BaseModel));
        }
        Assert.NotEmpty(Cli.Done("generate", "--model", to, "--adapter", Path.Combine(to, CompressCommand.AdapterFolder), "--prompt", "The ship", "--max-new-tokens", "2", "--greedy").Output);
    }

    [Fact]
    public void A_plan_writes_nothing()
    {
        string model = Cli.SaveDecoder(At("model"));
        CliResult plan = Cli.Done("compress", "--model", model, "--sparsity", "1:2", "--calibration", text, "--tokens", "24", "--rank", "8", "--output", At("small"), "--dry-run");
        Assert.Contains("q_proj", plan.Output, StringComparison.Ordinal);
        Assert.False(Directory.Exists(At("small")));
    }

    [Fact]
    public void Wrong_words_are_refused_before_the_work()
    {
        string model = Cli.SaveDecoder(At("model"));
        string[] With(params string[] more) => ["compress", "--model", model, "--calibration", text, "--output", At("small"), .. more];
        Cli.Fails(ExitCode.Usage, ["neither --bits nor --sparsity"], With());
        Cli.Fails(ExitCode.Usage, ["Bits is 9"], With("--bits", "9", "--tokens", "24"));
        Cli.Fails(ExitCode.Usage, ["the pattern is 24"], With("--sparsity", "24", "--tokens", "24"));
        Cli.Fails(ExitCode.Usage, ["Rank is 0"], With("--bits", "3", "--rank", "0", "--tokens", "24"));
        Cli.Fails(ExitCode.Usage, ["samples of"], With("--bits", "3", "--samples", "0"));
        Cli.Fails(ExitCode.Usage, ["no such file"], "compress", "--model", model, "--calibration", At("none.txt"), "--output", At("small"), "--bits", "3");
        Assert.False(Directory.Exists(At("small")));
    }

    private string At(string name) => Path.Combine(folder, name);
}
