using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Variants of LoRA where no golden looks: layers that share a weight, bare parameters, starts from data, and settings that ask for too much.</summary>
public class VariantTests
{
    private static readonly LoraConfig Lora = new() { Targets = ["q"], Rank = 2 };

    [Theory, InlineData(false), InlineData(true)]
    public void A_module_trained_as_a_whole_takes_tied_layers_along_only_if_told(bool tie)
    {
        using Device device = Devices.Open("cpu");
        using var model = new Words(device);
        double[] before = model.Head.Weight.Value.ToDoubles();
        using (AdaptedModel adapted = model.Attach(Lora with { ModulesToSave = ["embed"], EnsureWeightTying = tie }))
        {
            model.Embed.Weight.Value.Fill(1);
            Assert.Equal(tie, model.Head.Weight == model.Embed.Weight);
            Assert.Equal(tie ? model.Embed.Weight.Value.ToDoubles() : before, model.Head.Weight.Value.ToDoubles());
            using var folder = new TemporaryFolder();
            adapted.SavePeft(folder.Path);
            using PeftFolder saved = PeftFolder.Open(folder.Path);
            Assert.Equal(tie, saved.Tensors.Contains("base_model.model.head.weight"));
        }
        Assert.Same(model.Embed.Weight, model.Head.Weight);
        Assert.Equal(before, model.Head.Weight.Value.ToDoubles());
        Assert.DoesNotContain("head.weight", model.Parameters.Keys);
    }

    [Fact]
    public void Merging_one_of_two_tied_layers_leaves_the_other()
    {
        using Device device = Devices.Open("cpu");
        using var model = new Words(device);
        double[] before = model.Head.Weight.Value.ToDoubles();
        using AdaptedModel adapted = model.Attach(Lora with { Targets = ["embed"], Init = LoraInit.None });
        adapted.Merge();
        Assert.NotEqual(before, model.Embed.Weight.Value.ToDoubles());
        Assert.Equal(before, model.Head.Weight.Value.ToDoubles());
        adapted.Unmerge();
        Assert.Same(model.Embed.Weight, model.Head.Weight);
        Assert.Equal(before, model.Embed.Weight.Value.ToDoubles());
    }

    [Theory, InlineData(4), InlineData(8)]
    public void Loftq_makes_up_for_a_part_of_what_quantising_loses(int bits)
    {
        using Device device = Devices.Open("cpu");
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [40, 56], AdapterRow.Draw(new Rng(3), 40 * 56));
        double[] w = model.Site.Weight.Value.ToDoubles();
        using AdaptedModel adapted = model.Attach(new LoraConfig { Targets = ["layer"], Rank = 8, Alpha = 8, Init = LoraInit.Loftq, Loftq = new(bits, 2) });
        using Scope scope = device.BeginScope();
        double with = Close.Error(adapted.Adapters[0].EffectiveWeight().ToDoubles(), w), without = Close.Error(model.Site.Weight.Value.ToDoubles(), w);
        Assert.True(with < without, $"{with:E2} with A and B, {without:E2} without");
    }

    [Fact]
    public void What_cannot_be_is_named()
    {
        using Device device = Devices.Open("cpu");
        using var model = new Words(device);
        string Refusal(LoraConfig config) => Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message;
        Assert.Equal("LoraConfig: these settings start from data, want a Calibration beside them, or a saved adapter", Refusal(Lora with { Init = LoraInit.Eva }));
        Assert.Contains("the layers of this model cannot be stacked anew", Refusal(Lora with { LayerReplication = [[0, 1]] }), StringComparison.Ordinal);
        Assert.StartsWith("LoraConfig: target_parameters [experts.gate] match no parameter", Refusal(new LoraConfig { TargetParameters = ["experts.gate"] }), StringComparison.Ordinal);
        Assert.StartsWith("LoraConfig: experts.up is a bare parameter, want it without use_dora", Refusal(new LoraConfig { TargetParameters = ["up"], Dora = true }), StringComparison.Ordinal);
        Assert.Contains("want an embedding, a linear layer and use_dora false", Refusal(Lora with { Targets = ["embed"], Dora = true, EnsureWeightTying = true }), StringComparison.Ordinal);
        var unseen = new Calibration(1, _ => { });
        Assert.Contains("batch 0 does not reach q", Assert.Throws<AdapterConfigException>(() => model.Attach(Lora with { Init = LoraInit.Eva }, unseen)).Message, StringComparison.Ordinal);
        Assert.All(model.Sites, site => Assert.Null(site.Adapter));
    }

    [Fact]
    public void A_conversion_wants_the_adapters_own_start()
    {
        using Device device = Devices.Open("cpu");
        using var folder = new TemporaryFolder();
        string At(string name) => Path.Combine(folder.Path, name);
        foreach ((string name, string init, int rank) in (ReadOnlySpan<(string, string, int)>)[("first", "pissa", 2), ("other", "pissa", 3), ("plain", "gaussian", 2)])
        {
            using var model = new Words(device);
            using AdaptedModel adapted = model.Attach(Lora with { Rank = rank, Init = LoraInit.Of(init) });
            adapted.SavePeft(At(name), keepInit: true);
        }
        LoraConversion.ToPlain(At("first"), At("first"), At("twice"));
        LoraConversion.FromPlain(At("twice"), At("first"), At("back"));
        Assert.Equal(File.ReadAllBytes(Path.Combine(At("first"), PeftFolder.ModelFile)), File.ReadAllBytes(Path.Combine(At("back"), PeftFolder.ModelFile)));
        Assert.Contains("not of twice the rank", Assert.Throws<ModelFormatException>(() => LoraConversion.FromPlain(At("twice"), At("other"), At("no"))).Message, StringComparison.Ordinal);
        Assert.Contains("has init_lora_weights gaussian, want a start that takes a part of the base", Assert.Throws<AdapterConfigException>(() => LoraConversion.ToPlain(At("plain"), At("plain"), At("no"))).Message, StringComparison.Ordinal);
    }

    /// <summary>Words that the output shares, a layer between, and a stack that nothing multiplies.</summary>
    private sealed class Words : Model
    {
        public Words(Device device)
            : base(device, DType.F32)
        {
            double[] Draw(string name, int count) => AdapterRow.Draw(new Rng(1).Fork(name), count);
            Embed = Add(new Site("embed", SiteKind.Embedding, Add("embed.weight", Store.Of([9, 6], Draw("embed", 54), DType.F32)), null));
            Add(new Site("q", SiteKind.Linear, Add("q.weight", Store.Of([6, 6], Draw("q", 36), DType.F32)), null));
            Add(new Site("experts.up", SiteKind.Stack, Add("experts.up", Store.Of([2, 4, 6], Draw("up", 48), DType.F32)), null));
            Head = Add(new Site("head", SiteKind.Linear, Embed.Weight, null) { IsOutput = true });
        }

        public Site Embed { get; }

        public Site Head { get; }
    }
}
