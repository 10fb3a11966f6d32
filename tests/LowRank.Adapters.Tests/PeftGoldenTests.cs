using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/peft: folders of PEFT's own are read, computed with, merged, and written again the same.</summary>
public class PeftGoldenTests
{
    private const string Prefix = "base_model.model.";

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
        Assert.Equal(before.Keys, model.Parameters.Keys);
        Assert.All(model.Parameters, p => Assert.Equal(before[p.Key], p.Value.Value.ToBytes()));
    }

    /// <summary>The output; that of PEFT is wrong where the case holds a derived one.</summary>
    private static string Output(GoldenCase golden) => golden.Has("derived.y") ? "derived.y" : "out.y";

    /// <summary>Every trained element is in the file once, beside what is frozen there, whole embeddings among it, and what a tied layer repeats.</summary>
    private static void Counted(GoldenCase golden, AdaptedModel adapted)
    {
        long shared = adapted.Adapters.SelectMany(a => a.Shared).DistinctBy(s => s.Name).Sum(s => s.Value.Shape.Count);
        HashSet<string> copies = [.. adapted.Adapters.SelectMany(a => a.Shared.Select(s => $"{Prefix}{a.Path}.{s.Name}"))];
        long repeated = adapted.Adapters.Where(a => a.TiedTo is not null).Sum(a => a.TiedTo!.Parameters.Sum(p => p.Value.Shape.Count));
        Assert.Equal(golden.Open(PeftFolder.ModelFile).Entries.Where(e => !e.Name.EndsWith(".base_layer.weight", StringComparison.Ordinal) && !copies.Contains(e.Name)).Sum(e => e.Count), adapted.ParameterCount + shared + repeated);
    }

    private static void Outputs(GoldenCase golden, PeftNetwork network, AdaptedModel adapted, DType type)
    {
        // PEFT adds the change of an attention's output projection twice and takes its gradient once: as with twice its B here.
        Parameter? doubled = golden.Has("derived.y") ? adapted.Parameters.Single(p => p.Name.EndsWith(".out_proj.lora_B.weight", StringComparison.Ordinal)) : null;
        if (doubled is not null)
        {
            golden.Check("derived.y", network.Output());
            doubled.Value.Set([.. doubled.Value.ToDoubles().Select(v => 2 * v)]);
        }
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
        // PEFT rounds a base that its init changes, and a part of an attention module, to float32.
        if (type == DType.F64 && golden.Has("out64.y") && doubled is null && !adapted.Adapters.Any(a => a.ChangesBase))
        {
            Close.Check(y.ToDoubles(), golden.Doubles("out64.y"), Close.Golden64, $"{golden}: out64.y");
        }
        if (!golden.Has("in.gy"))
        {
            return;
        }
        tape.Backward(y, golden.Load("in.gy", tape, type));
        foreach (string name in golden.Names("grad."))
        {
            string key = name["grad.".Length..];
            if (key == "x")
            {
                golden.Check(name, x!.Gradient!.ToDoubles());
            }
            else if (!adapted.Adapters.OfType<TiedLora>().Any(a => key.StartsWith($"{Prefix}{a.Path}.", StringComparison.Ordinal)))
            {
                Parameter trained = Trained(adapted, key[Prefix.Length..]);
                bool twice = doubled is not null && trained.Name == doubled.Name.Replace("lora_B", "lora_A", StringComparison.Ordinal);
                golden.Check(name, [.. trained.Gradient!.ToDoubles().Select(g => twice ? g / 2 : g)], WithTied(golden, adapted, key));
            }
        }
        doubled?.Value.Set([.. doubled.Value.ToDoubles().Select(v => v / 2)]);
    }

    private static Parameter Trained(AdaptedModel adapted, string key) =>
        adapted.Parameters.Single(p => p.Name == key.Replace(".base_layer.bias", ".bias", StringComparison.Ordinal));

    /// <summary>A stored gradient; to that of an embedding the one of the output layer's use of the same tensor is added, which PEFT holds apart: A is its Bᵀ, B its Aᵀ.</summary>
    private static double[] WithTied(GoldenCase golden, AdaptedModel adapted, string key)
    {
        double[] want = golden.Doubles("grad." + key);
        if (adapted.Adapters.OfType<TiedLora>().FirstOrDefault(a => key.StartsWith($"{Prefix}{a.TiedTo.Path}.", StringComparison.Ordinal)) is not { } tied)
        {
            return want;
        }
        string other = $"grad.{Prefix}{tied.Path}.lora_{(key.EndsWith('A') ? 'B' : 'A')}.weight";
        (double[] values, Shape shape) = (golden.Doubles(other), golden.Shape(other));
        return [.. want.Select((value, i) => value + values[(i % shape[0] * shape[1]) + (i / shape[0])])];
    }

    /// <summary>Merged weights. Into one that several layers share PEFT adds the change of each, and that of an attention's output projection twice.</summary>
    private static void Merged(GoldenCase golden, PeftNetwork network, AdaptedModel adapted)
    {
        Model model = network.Model;
        Dictionary<Site, (Tensor Weight, double[] Values)> before = model.Sites.ToDictionary(s => s, s => (s.Weight.Value, network.Stored(s.Weight)));
        bool adds = adapted.Adapters.All(a => a is Lora or TiedLora), differs = golden.Has("derived.y") || adds && adapted.Adapters.Any(a => before.Count(b => b.Value.Weight == before[a.Site].Weight) > 1);
        adapted.Merge();
        foreach (string name in golden.Names("out.merged."))
        {
            string path = name["out.merged.".Length..];
            Site? site = model.Sites.FirstOrDefault(s => $"{s.Path}.weight" == path) ?? model.Sites.FirstOrDefault(s => s.Weight.Name == path);
            double[] got = network.Stored(site?.Weight ?? model.Parameters[path]);
            foreach (Site other in site is null || !adds ? [] : before.Keys.Where(s => before[s].Weight == before[site].Weight && (s != site || s.Path.EndsWith(".base_layer.out_proj", StringComparison.Ordinal))))
            {
                got = [.. got.Zip(network.Stored(other.Weight), before[other].Values).Select(v => v.First + v.Second - v.Third)];
            }
            golden.Check(name, got);
        }
        if (golden.Has("out.y_merged"))
        {
            golden.Check(differs ? Output(golden) : "out.y_merged", network.Output());
        }
        if (model is PretrainedModel merged)
        {
            using var folder = new TemporaryFolder();
            merged.Save(folder.Path);
            golden.Check(Output(golden), network.OutputOf(folder.Path));
        }
        adapted.Unmerge();
        golden.Check(Output(golden), network.Output());
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
        if (!File.Exists(golden.PathOf(PeftFolder.ConfigFile)))
        {
            Assert.Skip("routing between the adapters of sub-folders is not built");
        }
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
