using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/peft: folders of PEFT's own are read, computed with, merged, and written again the same.</summary>
public class PeftGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("peft", name => !name.StartsWith(MatchingTests.Table, StringComparison.Ordinal) && !name.StartsWith(NamedAdapterGoldenTests.Prefix, StringComparison.Ordinal));

    [Theory, MemberData(nameof(Cases))]
    public void Golden_peft(string name) => Golden.Run("peft", name, golden =>
    {
        Run(golden, DType.F32);
        Run(golden, DType.F64);
    });

    private static void Run(GoldenCase golden, DType type)
    {
        SkipWhatIsNotBuilt(golden);
        using Device device = Devices.Open("cpu");
        using var network = PeftNetwork.Open(golden, device, type);
        Model model = network.Model;
        Dictionary<string, byte[]> before = model.Parameters.ToDictionary(p => p.Key, p => p.Value.Value.ToBytes());
        using (AdaptedModel adapted = model.AttachPeft(golden.Path))
        {
            Assert.Empty(adapted.Warnings);
            Outputs(golden, network, adapted, type);
            if (type == DType.F32)
            {
                Counted(golden, adapted);
                WrittenAgain(golden, adapted);
                Converted(golden, adapted);
                Merged(golden, network, adapted);
            }
            adapted.Disable();
            golden.Check("out.y_base", network.Output());
            adapted.Enable();
        }
        Assert.All(model.Parameters, p => Assert.Equal(before[p.Key], p.Value.Value.ToBytes()));
    }

    private static void Outputs(GoldenCase golden, PeftNetwork network, AdaptedModel adapted, DType type)
    {
        bool wide = type == DType.F64 && golden.Has("out64.y");
        foreach (string buffer in golden.Names("buffer.base_after_init."))
        {
            golden.Check(buffer, network.Stored(network.Model.Parameters[buffer["buffer.base_after_init.".Length..]]));
        }
        using Tape tape = network.Model.Device.BeginTape();
        Tensor? x = network.Input(tape);
        if (golden.Has("grad.x"))
        {
            x!.NeedsGradient = true;
        }
        Tensor y = network.Forward(x);
        golden.Check("out.y", y.ToDoubles());
        if (wide && !adapted.Adapters.Any(a => a.ChangesBase))     // PEFT's init rounds the changed base to float32
        {
            Close.Check(y.ToDoubles(), golden.Doubles("out64.y"), Close.Golden64, $"{golden}: out64.y");
        }
        if (!golden.Has("in.gy"))
        {
            return;
        }
        tape.Backward(y, golden.Load("in.gy", tape, type));
        foreach (string key in golden.Names("grad."))
        {
            golden.Check(key, key == "grad.x" ? x!.Gradient!.ToDoubles() : Trained(adapted, key["grad.base_model.model.".Length..]).Gradient!.ToDoubles());
        }
    }

    private static Parameter Trained(AdaptedModel adapted, string key) =>
        adapted.Parameters.Single(p => p.Name == key.Replace(".base_layer.bias", ".bias", StringComparison.Ordinal));

    /// <summary>Every trained element is in the file once, beside what is frozen there and what a tied layer repeats.</summary>
    private static void Counted(GoldenCase golden, AdaptedModel adapted)
    {
        long shared = adapted.Adapters.SelectMany(a => a.Shared).DistinctBy(s => s.Name).Sum(s => s.Value.Shape.Count);
        long repeated = adapted.Adapters.Where(a => a.TiedTo is not null).Sum(a => a.TiedTo!.Parameters.Sum(p => p.Value.Shape.Count));
        Assert.Equal(golden.Open(PeftFolder.ModelFile).Entries.Sum(e => e.Count), adapted.ParameterCount + shared + repeated);
    }

    private static void Merged(GoldenCase golden, PeftNetwork network, AdaptedModel adapted)
    {
        adapted.Merge();
        foreach (string key in golden.Names("out.merged."))
        {
            string path = key["out.merged.".Length..];
            golden.Check(key, network.Stored(network.Model.Sites.FirstOrDefault(s => $"{s.Path}.weight" == path)?.Weight ?? network.Model.Parameters[path]));
        }
        if (golden.Has("out.y_merged"))
        {
            golden.Check("out.y_merged", network.Output());
        }
        adapted.Unmerge();
        golden.Check("out.y", network.Output());
    }

    private static void WrittenAgain(GoldenCase golden, AdaptedModel adapted)
    {
        using var folder = new TemporaryFolder();
        adapted.SavePeft(folder.Path, keepInit: true);
        using SafeTensorsFile want = SafeTensorsFile.Open(golden.PathOf(PeftFolder.ModelFile)), got = SafeTensorsFile.Open(Path.Combine(folder.Path, PeftFolder.ModelFile));
        Assert.Equal(want.Entries.Select(e => e.Name), got.Entries.Select(e => e.Name));
        Assert.Equal(want.Metadata, got.Metadata);
        Assert.All(want.Entries, e => Assert.True(e.Dimensions.SequenceEqual(got[e.Name].Dimensions) && want.Bytes(e.Name).SequenceEqual(got.Bytes(e.Name)), e.Name));
        string text = File.ReadAllText(Path.Combine(folder.Path, PeftFolder.ConfigFile)), original = File.ReadAllText(golden.PathOf(PeftFolder.ConfigFile));
        JsonObject ours = JsonNode.Parse(text)!.AsObject(), theirs = JsonNode.Parse(original)!.AsObject();
        foreach (string free in (ReadOnlySpan<string>)["peft_version", "auto_mapping"])
        {
            ours[free] = theirs[free]?.DeepClone();
        }
        Assert.True(JsonNode.DeepEquals(ours, theirs), $"{golden}: wrote {text}");
        Assert.Equal(original, text);     // byte for byte: nothing of the two is touched by reading and writing
    }

    /// <summary>An init that changes the base, written as plain LoRA: it goes with the original base.</summary>
    private static void Converted(GoldenCase golden, AdaptedModel adapted)
    {
        if (!adapted.Adapters.Any(a => a.ChangesBase))
        {
            return;
        }
        using var folder = new TemporaryFolder();
        adapted.SavePeft(folder.Path);
        using Device device = Devices.Open("cpu");
        using var network = PeftNetwork.Open(golden, device, DType.F32);
        using AdaptedModel plain = network.Model.AttachPeft(folder.Path);
        Assert.Equal((2 * ((LoraConfig)adapted.Config).Rank, LoraInit.Default), (((LoraConfig)plain.Config).Rank, ((LoraConfig)plain.Config).Init));
        golden.Check("out.y", network.Output());
    }

    /// <summary>Skips with the reader's own words where a method, a variant or the network is not built yet.</summary>
    private static void SkipWhatIsNotBuilt(GoldenCase golden)
    {
        try
        {
            AdapterCatalog.Read(File.ReadAllBytes(golden.PathOf(PeftFolder.ConfigFile)));
        }
        catch (ModelFormatException error) when (error.Message.Contains("not built", StringComparison.Ordinal) || error.Message.Contains("init_lora_weights", StringComparison.Ordinal))
        {
            Assert.Skip($"method {golden.Name.Split('_')[0]} is not built yet: {error.Message}");
        }
        if (!PeftNetwork.IsKnown(golden))
        {
            Assert.Skip($"network {PeftNetwork.NameOf(golden)} is not built yet");
        }
    }
}

/// <summary>A folder that goes with the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("lowrank-").FullName;

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
