using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>golden/training: whole runs of PEFT's, step by step, and the folder that comes out.</summary>
public class TrainingGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("training");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_training(string name) => Golden.Run("training", name, golden =>
    {
        Run(golden, DType.F64);
        Run(golden, DType.F32);
    });

    private static void Run(GoldenCase golden, DType type)
    {
        if (new TrainingSetup(golden).Missing() is { } reason)
        {
            Assert.Skip(reason);
        }
        using var run = new TrainingCase(golden, type);
        run.Run();
        if (type != DType.F32)
        {
            return;
        }
        string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;
        try
        {
            Converted(golden, folder);
            if (run.Adapted is not null)
            {
                run.Adapted.SavePeft(folder, keepInit: true);
                Same(run, golden.PathOf("adapter_final"), folder, PeftFolder.ModelFile, key => key);
                SameSettings(golden.PathOf("adapter_final"), folder, PeftFolder.ConfigFile);
            }
            else
            {
                ((PretrainedModel)run.Model).Save(folder);
                Same(run, golden.PathOf("model_final"), folder, PretrainedModel.WeightFile, run.Model.ModulePath);
                SameSettings(golden.PathOf("model_final"), folder, "config.json");
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>A start that took a part of the base: PEFT's own conversion to plain LoRA, byte for byte, and back.</summary>
    private static void Converted(GoldenCase golden, string folder)
    {
        if (!Directory.Exists(golden.PathOf("adapter_final_as_lora")))
        {
            return;
        }
        string plain = Path.Combine(folder, "plain"), back = Path.Combine(folder, "back");
        LoraConversion.ToPlain(golden.PathOf("adapter_final"), golden.PathOf("adapter_init"), plain);
        LoraConversion.FromPlain(plain, golden.PathOf("adapter_init"), back);
        foreach ((string want, string got) in (ReadOnlySpan<(string, string)>)[(golden.PathOf("adapter_final_as_lora"), plain), (golden.PathOf("adapter_final"), back)])
        {
            Assert.Equal(File.ReadAllBytes(Path.Combine(want, PeftFolder.ModelFile)), File.ReadAllBytes(Path.Combine(got, PeftFolder.ModelFile)));
            SameSettings(want, got, PeftFolder.ConfigFile);
        }
    }

    private static void Same(TrainingCase run, string wanted, string written, string name, Func<string, string> keyOf)
    {
        using SafeTensorsFile want = SafeTensorsFile.Open(Path.Combine(wanted, name)), got = SafeTensorsFile.Open(Path.Combine(written, name));
        Assert.Equal(want.Entries.Select(e => e.Name).Order(StringComparer.Ordinal), got.Entries.Select(e => e.Name).Order(StringComparer.Ordinal));
        Assert.Equal(want.Metadata, got.Metadata);
        foreach (SafeTensorsEntry entry in want.Entries)
        {
            Assert.Equal(entry.Type, got[entry.Name].Type);
            Assert.Equal(entry.Dimensions, got[entry.Name].Dimensions);
            if (!run.IsNoisy(keyOf(entry.Name)))
            {
                run.CheckSaved(entry.Name, got.ReadDouble(entry.Name), want.ReadDouble(entry.Name));
            }
        }
    }

    private static void SameSettings(string wanted, string written, string name)
    {
        JsonNode want = JsonNode.Parse(File.ReadAllText(Path.Combine(wanted, name)))!, got = JsonNode.Parse(File.ReadAllText(Path.Combine(written, name)))!;
        Assert.True(JsonNode.DeepEquals(want, got), $"{name}: wrote {got.ToJsonString()}, want {want.ToJsonString()}");
    }
}
