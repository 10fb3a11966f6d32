using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Several adapters of every method on one layer, and what may not be combined.</summary>
public sealed class NamedAdapterTests : IDisposable
{
    private static readonly LoraConfig Config = new() { Targets = ["layers.0", "layers.1"], Rank = 2, Alpha = 4 };
    private readonly Device device = Devices.Open("cpu");
    private readonly Mlp model;
    private readonly NamedAdapters adapters;
    private readonly TemporaryFolder folder = new();

    public NamedAdapterTests()
    {
        model = new Mlp([4, 6, 5, 3], device, new Rng(1));
        adapters = new NamedAdapters(model);
    }

    public static TheoryData<string, int, string> Rows => AdapterTests.Rows();

    [Theory, MemberData(nameof(Rows))]
    public void What_several_add_is_summed_and_merged_together(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer layer = row.Model(device, type);
            byte[] before = layer.Site.Weight.Value.ToBytes();
            using (var sets = new NamedAdapters(layer))
            {
                double[] plain = Output(row, layer, type);
                double[][] alone = [.. Two(sets, row).Select(set =>
                {
                    sets.Activate(set);
                    return Output(row, layer, type);
                })];
                if (sets["one"].Adapters[0].ChangesBase)
                {
                    Assert.Contains("changed the base weights", Assert.Throws<AdapterConfigException>(() => sets.Activate("one", "two")).Message, StringComparison.Ordinal);
                    continue;
                }
                sets.Activate("one", "two");
                double[] both = Output(row, layer, type);
                double bound = type == DType.BF16 ? 2 * Close.Bound(type) : type == DType.F32 ? Close.Layer : Close.Bound(type);
                Close.Check(both, [.. plain.Select((y, i) => alone[0][i] + alone[1][i] - y)], bound, $"{name}: both in {type}");
                if (sets["one"].Adapters[0].CanMerge)
                {
                    sets.Merge();
                    Close.Check(Output(row, layer, type), both, bound, $"{name}: both merged in {type}");
                    sets.Unmerge();
                    Assert.Equal(both, Output(row, layer, type));
                }
            }
            Assert.Equal(before, layer.Site.Weight.Value.ToBytes());
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Samples_of_a_batch_take_their_own_adapter_and_no_notice_of_the_others(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer layer = row.Model(device, type);
            using var sets = new NamedAdapters(layer);
            double[] plain = Output(row, layer, type);
            Two(sets, row);
            if (sets["one"].Adapters[0].ChangesBase)
            {
                Assert.Contains("changed the base weights", Assert.Throws<AdapterConfigException>(() => sets.Mix("one", null)).Message, StringComparison.Ordinal);
                continue;
            }
            sets.Activate("two");
            double[] two = Output(row, layer, type);
            int half = plain.Length / 2;
            double[] mixed = Mixed(null, "two");
            Assert.Equal(plain[..half], mixed[..half]);
            Close.Check(mixed.AsSpan(half), two.AsSpan(half), type == DType.BF16 ? 2 * Close.Bound(type) : type == DType.F32 ? Close.Layer : Close.Bound(type), $"{name}: mixed in {type}");
            Assert.Equal(mixed[half..], Mixed("one", "two")[half..]);
            Assert.Equal(two, Output(row, layer, type));

            double[] Mixed(params string?[] names)
            {
                using IDisposable batch = sets.Mix(names);
                return Output(row, layer, type);
            }
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Strength_counts_in_forward_and_merged_weights_alike(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        using OneLayer layer = row.Model(device, DType.F32);
        using var sets = new NamedAdapters(layer);
        Two(sets, row);
        sets.Activate("one");
        double[] whole = Output(row, layer, DType.F32);
        sets["one"].Strength = -0.75;
        double[] scaled = Output(row, layer, DType.F32);
        Assert.NotEqual(whole, scaled);
        if (sets["one"].Adapters[0].CanMerge)
        {
            sets.Merge();
            Close.Check(Output(row, layer, DType.F32), scaled, Close.Layer, name);
            Assert.Throws<InvalidOperationException>(() => sets["one"].Strength = 1);
            sets.Unmerge();
        }
        sets["one"].Strength = 1;
        Assert.Equal(whole, Output(row, layer, DType.F32));
    }

    [Fact]
    public void A_batch_sees_steps_strengths_and_swaps()
    {
        Moved("a", Config, 1);
        Moved("b", Config with { Rank = 3 }, 2).SavePeft(folder.Path);
        double[] first = Mixed("a", "b");
        adapters["a"].Strength = 0.5;
        double[] second = Mixed("a", "b");
        Assert.NotEqual(first[..3], second[..3]);
        Assert.Equal(first[3..], second[3..]);
        adapters.Swap("a", folder.Path);
        Assert.Equal(first[3..], Mixed("b", "a")[3..]);
        adapters.Remove("a");
        Assert.Equal(["b"], adapters.Names);
        Assert.Equal(first[3..], Mixed(null, "b")[3..]);
    }

    [Fact]
    public void Whole_modules_of_linear_layers_go_with_their_sample()
    {
        double[] plain = Forward();
        AdaptedModel head = Moved("head", Config with { ModulesToSave = ["layers.2"] }, 1);
        Moved("other", Config with { ModulesToSave = ["layers.2"] }, 2);
        adapters.Activate("head");
        head.Parameters.Single(p => p.Name == "layers.2.weight").Value.Fill(0.5);
        double[] own = Forward();
        double[] mixed = Mixed("head", null);
        Close.Check(mixed.AsSpan(0, 3), own.AsSpan(0, 3), Close.Layer, "own head");
        Assert.Equal(plain[3..], mixed[3..]);
        Assert.Equal(own, Forward());
        Assert.Contains("layers.2.weight", Assert.Throws<AdapterConfigException>(() => adapters.Activate("head", "other")).Message, StringComparison.Ordinal);
        adapters.Dispose();
        Assert.Equal(plain, Forward());
        Assert.All(model.Parameters.Values, p => Assert.True(p.Frozen));
    }

    [Fact]
    public void A_combination_is_the_weighted_sum_of_what_its_parts_add()
    {
        Moved("a", Config, 1);
        Moved("b", Config with { Rank = 3, RankStabilized = true }, 2);
        Moved("d", Config with { Dora = true, Targets = ["layers.1"] }, 3);
        double[] want = Weighted(("a", 0.7), ("b", -0.4));
        foreach ((CombineOptions options, bool exact) in ((CombineOptions, bool)[])
        [
            (new(), true),
            (new() { Kind = Combination.Linear }, true),
            (new() { Kind = Combination.Svd, Rank = 5 }, true),
            (new() { Kind = Combination.MagnitudePrune }, true),
            (new() { Kind = Combination.DareLinear, Density = 1 }, true),
            (new() { Kind = Combination.Svd, Rank = 1 }, false),
            (new() { Kind = Combination.MagnitudePrune, Density = 0.5 }, false),
        ])
        {
            AdaptedModel sum = adapters.Combine("sum", [("a", 0.7), ("b", -0.4)], options);
            double error = Close.Error(Delta(sum), want);
            Assert.True(exact ? error <= Close.Layer : error > Close.Layer, $"{options}: {error:E2}");
            adapters.Remove("sum");
        }
        Close.Check(Delta(adapters.Combine("dora", [("a", 1), ("d", 2)], new() { Rank = 5 })), Weighted(("a", 1), ("d", 2)), Close.Layer, "with DoRA");

        double[] Weighted(params (string Name, double Weight)[] parts) =>
            [.. Delta(adapters[parts[0].Name]).Select(v => parts[0].Weight * v).Zip(Delta(adapters[parts[1].Name]), (sum, v) => sum + (parts[1].Weight * v))];
    }

    [Fact]
    public void What_does_not_go_together_is_refused_by_name()
    {
        Moved("a", Config, 1);
        Moved("b", Config with { Rank = 3 }, 2);
        Refused("'a', want one that is not taken", () => adapters.Add("a", Config));
        Refused("want one that is not empty or __base__", () => adapters.Add(NamedAdapters.None, Config));
        Refused("'c', want one of a, b", () => adapters.Activate("c"));
        Refused("a name twice", () => adapters.Activate("a", "a"));
        Refused("'c', want one of a, b", () => adapters.Mix("a", "c"));
        Refused("PEFT's Linear sums A and B apart", () => adapters.Combine("c", [("a", 1), ("b", 1)], new() { Kind = Combination.Linear, LikePeft = true }));
        Refused("above 0 to 1", () => adapters.Combine("c", [("a", 1)], new() { Density = 0 }));
        Moved("whole", Config with { Bias = "all" }, 3);
        Refused("whole modules", () => adapters.Combine("c", [("a", 1), ("whole", 1)]));
        adapters.Activate("a");
        adapters.Merge();
        Assert.Contains("call Unmerge", Assert.Throws<InvalidOperationException>(() => adapters.Mix("a", "b")).Message, StringComparison.Ordinal);
        adapters.Activate("a", "b");
        Assert.Contains("NamedAdapters.Merge", Assert.Throws<InvalidOperationException>(() => adapters["a"].Merge()).Message, StringComparison.Ordinal);
        using (adapters.Mix("a", "b", "a"))
        using (Scope scope = device.BeginScope())
        {
            Assert.Contains("3 samples", Assert.Throws<ShapeException>(() => model.Forward(scope.Of([2, 4], new float[8]))).Message, StringComparison.Ordinal);
        }

        void Refused(string message, Action action) => Assert.Contains(message, Assert.Throws<AdapterConfigException>(action).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Bare_parameters_are_not_for_a_batch_whose_samples_choose()
    {
        using var stack = new OneLayer(device, DType.F32, SiteKind.Stack, [2, 3, 4], new double[24]);
        using var sets = new NamedAdapters(stack);
        sets.Add("a", new LoraConfig { TargetParameters = ["layer"], Rank = 2 });
        Assert.Contains("bare parameters", Assert.Throws<AdapterConfigException>(() => sets.Mix("a")).Message, StringComparison.Ordinal);
    }

    public void Dispose()
    {
        adapters.Dispose();
        model.Dispose();
        device.Dispose();
        folder.Dispose();
    }

    private static string[] Two(NamedAdapters sets, AdapterRow row)
    {
        string[] names = ["one", "two"];
        foreach ((int i, string name) in names.Index())
        {
            foreach (Adapter adapter in sets.Add(name, row.Config, seed: (ulong)i).Adapters)
            {
                AdapterTests.Move(adapter, 20 + i);
            }
        }
        return names;
    }

    private static double[] Output(AdapterRow row, OneLayer layer, DType type)
    {
        using Scope scope = layer.Device.BeginScope();
        return layer.Site.Forward(row.Tensor(scope, type, row.Values())).ToDoubles();
    }

    private AdaptedModel Moved(string name, LoraConfig config, int seed)
    {
        AdaptedModel set = adapters.Add(name, config, (ulong)seed);
        foreach (Adapter adapter in set.Adapters)
        {
            AdapterTests.Move(adapter, seed);
        }
        return set;
    }

    /// <summary>W_eff − W of all layers that some set here adapts.</summary>
    private double[] Delta(AdaptedModel set)
    {
        using Scope scope = device.BeginScope();
        return [.. model.Sites.Take(2).SelectMany(site =>
        {
            double[] w = site.Weight.Value.ToDoubles();
            return set.Adapters.FirstOrDefault(a => a.Site == site)?.EffectiveWeight().ToDoubles().Select((v, i) => v - w[i]) ?? new double[w.Length];
        })];
    }

    private double[] Mixed(params string?[] names)
    {
        using IDisposable batch = adapters.Mix(names);
        return Forward();
    }

    private double[] Forward()
    {
        using Scope scope = device.BeginScope();
        return model.Forward(scope.Of([2, 4], [0.3f, -0.7f, 0.1f, 0.9f, -0.2f, 0.4f, 0.8f, -0.5f])).ToDoubles();
    }
}
