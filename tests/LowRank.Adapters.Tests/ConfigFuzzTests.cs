using System.Text;
using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Thousands of damaged adapter_config.json: two in three changed in their values, keys and nesting, the others anywhere.</summary>
public sealed class ConfigFuzzTests(ITestOutputHelper output)
{
    private const int Limit = 120_000, Seed = 15, Files = 10_000;      // ms for the whole run: more is a hang
    private const int Factor = 512;     // bytes for a byte of text: nodes of a tree, a copy of it over the defaults, the config

    [Fact(Timeout = Limit)]
    public async Task Adapter_config()
    {
        string text = AdapterCatalog.Write(new LoraConfig { Rank = 4, Targets = ["q_proj", "v_proj"], RankPattern = new Dictionary<string, double> { ["a.*"] = 2 } });
        using JsonDocument seed = JsonDocument.Parse(text);
        var json = new JsonFuzz("LORA", "lora", "VERA", "NONE", "", "all-linear", "(", "(a+)+$", "none", "all", "lora_only", "gaussian", "pissa", "peft_type", "target_modules", "r", "q_proj", "../x");
        FuzzReport report = await Task.Run(() => Fuzz.Run(Seed, Files, Make, file => AdapterCatalog.Write(AdapterCatalog.Read(file)), Factor), TestContext.Current.CancellationToken);
        output.WriteLine($"seed {Seed}: {report}");
        Assert.InRange(report.Accepted, Files / 50, Files - (Files / 5));
        Assert.InRange(report.Refusals, 10, Files);

        byte[] Make(Random random) => random.Next(3) == 0
            ? Fuzz.Damage(Encoding.UTF8.GetBytes(text), random)
            : Encoding.UTF8.GetBytes(json.Change(seed.RootElement, random, Fuzz.Pick<int>([10, 30, 80], random)));
    }
}
