using System.Text.Json;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>RandLoRA against golden/randlora, and what its sheet says must hold.</summary>
public sealed class RandLoraTests : IDisposable
{
    private static readonly RandLoraConfig Config = new() { Targets = "l.*", Rank = 4, Alpha = 8 };
    private readonly Device device = Devices.Open("cpu", DType.F64);
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string> Cases => Golden.Cases("randlora");

    public static TheoryData<string, RandLoraConfig> Settings => new()
    {
        { "r is 0, want a whole number of at least 1", Config with { Rank = 0 } },
        { "randlora_dropout is 1, want 0 or more and less than 1", Config with { Dropout = 1 } },
        { "randlora_alpha is NaN, want a finite number", Config with { Alpha = double.NaN } },
        { "bias is all, want none", Config with { Bias = "all" } },
        { "n_basis is 3, want null beside another variant than vision", Config with { MostTerms = 3 } },
        { "n_basis is 0, want at least 1", Config with { Variant = RandLoraVariant.Vision, MostTerms = 0 } },
    };

    [Theory, MemberData(nameof(Cases))]
    public void Golden_randlora(string name) => Golden.Run("randlora", name, golden =>
    {
        if (golden.Has("out.randlora_A"))
        {
            Bases(golden);
            return;
        }
        foreach (DType type in (DType[])[DType.F64, DType.F32])
        {
            using Device own = Devices.Open("cpu", type);
            if (golden.Has("buffer.basis_a"))
            {
                Vision(golden, own, type);
            }
            else
            {
                Peft(golden, own, type);
            }
        }
    });

    [Fact]
    public void The_start_changes_no_bit_of_the_weight()
    {
        foreach ((int outputs, int inputs) in ((int, int)[])[(8, 6), (6, 40), (9, 9), (40, 70)])
        {
            using LinearLayers model = Open(device, DType.F64, (outputs, inputs));
            double[] Output()
            {
                using Scope scope = device.BeginScope();
                return model.Sites[0].Forward(scope.Of([5, inputs], AdapterRow.Draw(new Rng(2), 5 * inputs), DType.F64)).ToDoubles();
            }
            double[] before = Output();
            using AdaptedModel adapted = model.Attach(Config);
            Assert.All(Change(adapted), change => Assert.Equal(0, change));
            Close.Check(Output(), before, Close.Bound(DType.F64), "output");
        }
    }

    [Theory]
    [InlineData(48, 32, 8)]
    [InlineData(32, 48, 8)]
    [InlineData(40, 40, 7)]
    public void The_change_has_full_rank(int outputs, int inputs, int rank)
    {
        using LinearLayers model = Open(device, DType.F64, (outputs, inputs));
        using AdaptedModel adapted = model.Attach(Config with { Rank = rank });
        AdapterTests.Move(adapted.Adapters[0]);     // both scales: with gamma at its start all terms are one
        double[] delta = Change(adapted);
        int least = Math.Min(outputs, inputs);
        double[] u = new double[outputs * least], s = new double[least], vt = new double[least * inputs];
        Svd.Of(delta.AsMatrix(outputs, inputs), u.AsMatrix(outputs, least), s, vt.AsMatrix(least, inputs));
        Assert.True(s[^1] / s[0] > Close.Difference, $"smallest singular value {s[^1]:E2} of {s[0]:E2}");
    }

    [Theory]
    [InlineData(4096, 4096, 16, 1_052_672)]
    [InlineData(768, 3072, 32, 19_200)]
    [InlineData(40, 40, 7, 282)]
    public void Counts_are_exact_and_half_the_rank_has_twice_the_gammas(int outputs, int inputs, int rank, long count)
    {
        using Scope store = device.NewStore();
        var site = new Site("layer", SiteKind.Linear, new Parameter("layer.weight", store.New([outputs, inputs], DType.BF16)), null);
        Assert.Equal(count, (Config with { Rank = rank }).ParameterCount(site));
        if (rank % 2 == 0)
        {
            Assert.Equal(2 * (Config with { Rank = rank }).Terms(site), (Config with { Rank = rank / 2 }).Terms(site));
        }
    }

    [Fact]
    public void Factors_are_paired_through_the_flat_index_and_not_as_the_paper_has_them()
    {
        const int r = 2, n = 3, d = 6, most = 8;
        double[] primes = [2, 3, 5, 7, 11, 13], paper = new double[most * d], flat = new double[most * d];
        using LinearLayers model = Open(device, DType.F64, (most, d));
        using AdaptedModel adapted = model.Attach(Config with { Rank = r, Alpha = r });
        Adapter adapter = adapted.Adapters[0];
        adapter.Parameters[0].Value.Set(primes);
        adapter.Parameters[1].Value.Set(AdapterRow.Draw(new Rng(1), n * d));
        double[] a = adapter.Shared.First().Value.ToDoubles(), b = adapter.Shared.Last().Value.ToDoubles(), gamma = adapter.Parameters[1].Value.ToDoubles();
        double Scaled(int k, int term, int i) => primes[(k * n) + term] * a[(k * d) + i] * gamma[(term * d) + i];
        for (int row = 0; row < most; row++)
        {
            for (int i = 0; i < d; i++)
            {
                for (int p = 0; p < r * n; p++)
                {
                    double left = b[(row * r * n) + p];     // B[row, p / r, p % r]
                    flat[(row * d) + i] += left * Scaled(p / n, p % n, i);
                    paper[(row * d) + i] += left * Scaled(p % r, p / r, i);
                }
            }
        }
        double[] delta = Change(adapted);
        Close.Check(delta, flat, Close.Golden64, "dW");
        Assert.True(Close.Error(delta, paper) > 0.5);
    }

    /// <summary>The sheet's scaled-down claim: a change that two scales of the bases make is found, of which the best changes of rank 4 and 5, with as many
    /// numbers, leave half.</summary>
    [Fact]
    public void A_change_of_full_rank_is_found_that_a_low_rank_cannot_hold()
    {
        const int side = 64;
        RandLoraConfig config = Config with { Rank = 8, Alpha = 8, Key = 5 };
        using Device single = Devices.Open("cpu");
        LinearLayers Zero() => new(single, DType.F32, ("l0", Shape.Of([side, side]), new double[side * side], null));
        double[] target;
        using (LinearLayers teacher = Zero())
        using (AdaptedModel made = teacher.Attach(config))
        {
            Assert.Equal(576, made.ParameterCount);
            made.Parameters[0].Value.Set(AdapterRow.Draw(new Rng(6), 64));
            made.Parameters[1].Value.Set([.. AdapterRow.Draw(new Rng(7), 512).Select(v => v / 8)]);
            using Scope scope = single.BeginScope();
            target = made.Adapters[0].EffectiveWeight().ToDoubles();
        }
        double[] u = new double[side * side], s = new double[side], vt = new double[side * side];
        Svd.Of(target.AsMatrix(side, side), u.AsMatrix(side, side), s, vt.AsMatrix(side, side));
        double total = s.Sum(v => v * v);
        Assert.InRange(s.Skip(5).Sum(v => v * v) / total, 0.4, 1);
        using LinearLayers student = Zero();
        using AdaptedModel adapted = student.Attach(config);
        Assert.InRange(WeightFit.Run(adapted, target, steps: 4000, rate: 1e-2), 0, Close.Difference);
    }

    [Fact]
    public void Dense_bases_have_unit_deviation_and_sparse_ones_three_values()
    {
        foreach (RandLoraConfig config in (RandLoraConfig[])[Config, Config with { Sparse = true }, Config with { VerySparse = true, Sparse = true }])
        {
            using LinearLayers model = Open(device, DType.F64, (400, 361));
            using AdaptedModel adapted = model.Attach(config with { Variant = RandLoraVariant.Official, Key = 8539 });
            foreach ((string name, Tensor value) in adapted.Adapters[0].Shared)
            {
                double[] values = value.ToDoubles();
                double mean = values.Average(), deviation = Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (values.Length - 1));
                Assert.Equal(1, deviation, Close.Layer);
                if (!config.Sparse)
                {
                    Assert.True(values.Max(Math.Abs) <= 1.74, name);
                    Assert.True(values.Length < 100_000 || Math.Abs(mean) < 0.02, $"{name}: mean {mean}");
                    continue;
                }
                Assert.Equal(3, values.Select(Math.Abs).Distinct().Count() + 1);
                double zeros = config.VerySparse ? 1 - (1 / Math.Sqrt(361)) : 2.0 / 3;
                Assert.True(values.Length < 100_000 || Math.Abs((values.Count(v => v == 0) / (double)values.Length) - zeros) < 0.01, name);
            }
        }
    }

    [Fact]
    public void Bases_are_the_same_bits_on_every_device_and_one_tensor_for_all_layers()
    {
        byte[][]? first = null;
        foreach (string name in Devices.Present)
        {
            using Device other = Devices.Open(name);
            using LinearLayers model = Open(other, DType.F32, (8, 6), (5, 9));
            using AdaptedModel adapted = model.Attach(Config with { Rank = 2, Key = 3 });
            Tensor[] bases = [.. adapted.Adapters[0].Shared.Select(s => s.Value)];
            Assert.Equal(([2, 1, 8], [9, 4, 2]), (bases[0].Shape, bases[1].Shape));
            Assert.All(adapted.Adapters, a => Assert.Equal(bases, a.Shared.Select(s => s.Value)));
            byte[][] bits = [.. bases.Select(b => b.ToBytes())];
            Assert.Equal(first ??= bits, bits);
        }
    }

    [Fact]
    public void At_the_start_lambda_alone_has_a_gradient()
    {
        using LinearLayers model = Open(device, DType.F64, (12, 9));
        using AdaptedModel adapted = model.Attach(Config);
        using Tape tape = device.BeginTape();
        Tensor y = model.Sites[0].Forward(tape.Of([6, 9], AdapterRow.Draw(new Rng(2), 54), DType.F64));
        tape.Backward(y, tape.Of(y.Shape, AdapterRow.Draw(new Rng(3), y.Shape.Count), DType.F64));
        Assert.All(adapted.Parameters[0].Gradient!.ToDoubles(), g => Assert.NotEqual(0, g));
        Assert.All(adapted.Parameters[1].Gradient!.ToDoubles(), g => Assert.Equal(0, g));
    }

    [Fact]
    public void A_file_without_bases_holds_the_scales_alone_and_computes_the_same_bits()
    {
        using Device single = Devices.Open("cpu");
        using LinearLayers first = Open(single, DType.F32, (8, 6), (5, 9)), second = Open(single, DType.F32, (8, 6), (5, 9));
        using AdaptedModel saved = first.Attach(Config with { SaveProjection = false, Key = 11 });
        saved.Adapters.ToList().ForEach(AdapterTests.Move);
        saved.SavePeft(folder.Path);
        using (SafeTensorsFile file = SafeTensorsFile.Open(Path.Combine(folder.Path, PeftFolder.ModelFile)))
        {
            Assert.All(file.Entries, e => Assert.Matches("^base_model[.]model[.]l[01][.]randlora_(lambda|gamma)$", e.Name));
        }
        using AdaptedModel read = second.AttachPeft(folder.Path);
        Assert.Empty(read.Warnings);
        using Scope scope = single.BeginScope();
        foreach ((Adapter one, Adapter other) in saved.Adapters.Zip(read.Adapters))
        {
            Assert.Equal(one.EffectiveWeight().ToBytes(), other.EffectiveWeight().ToBytes());
        }
    }

    [Fact]
    public void Bases_of_another_size_are_refused_with_both_sizes()
    {
        using Device single = Devices.Open("cpu");
        using LinearLayers small = Open(single, DType.F32, (8, 6)), large = Open(single, DType.F32, (12, 6), (8, 6));
        using (AdaptedModel saved = small.Attach(Config with { Targets = ["l0"] }))
        {
            saved.SavePeft(folder.Path);
        }
        Assert.Contains("randlora_B is [8, 2, 4], want [12, 2, 4]", Assert.Throws<ModelFormatException>(() => large.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Adapters_of_one_model_have_one_key_and_save_their_bases_alike()
    {
        using LinearLayers model = Open(device, DType.F64, (8, 6));
        using var adapters = new NamedAdapters(model);
        adapters.Add("one", Config);
        Assert.Contains("two cannot be loaded beside one: projection_prng_key is 1 beside 0", Assert.Throws<AdapterConfigException>(() => adapters.Add("two", Config with { Key = 1 })).Message, StringComparison.Ordinal);
        Assert.Contains("save_projection is False beside True", Assert.Throws<AdapterConfigException>(() => adapters.Add("two", Config with { SaveProjection = false })).Message, StringComparison.Ordinal);
        Assert.Equal(["one"], adapters.Names);
        adapters.Add("two", Config with { Rank = 2 });
    }

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named_and_nothing_is_attached(string message, RandLoraConfig config)
    {
        using LinearLayers model = Open(device, DType.F64, (8, 6));
        Assert.Contains(message, Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
        Assert.Null(model.Sites[0].Adapter);
    }

    [Fact]
    public void A_convolution_is_refused_with_the_kinds_there_are()
    {
        using var model = new OneLayer(device, DType.F64, SiteKind.Conv2d, [2, 2, 3, 3], new double[36]);
        Assert.Contains("a layer of kind Conv2d, want layers of kind Linear", Assert.Throws<AdapterConfigException>(() => model.Attach(Config)).Message, StringComparison.Ordinal);
    }

    public void Dispose()
    {
        folder.Dispose();
        device.Dispose();
    }

    private static LinearLayers Open(Device device, DType type, params (int Outputs, int Inputs)[] sizes) =>
        new(device, type, sizes.Select((s, i) => ($"l{i}", Shape.Of([s.Outputs, s.Inputs]), AdapterRow.Draw(new Rng((ulong)i), s.Outputs * s.Inputs), (double[]?)AdapterRow.Draw(new Rng(9), s.Outputs))));

    private double[] Change(AdaptedModel adapted)
    {
        using Scope scope = device.BeginScope();
        return [.. adapted.Adapters[0].EffectiveWeight().ToDoubles().Zip(adapted.Model.Sites[0].Weight.Value.ToDoubles(), (e, w) => e - w)];
    }

    private void Bases(GoldenCase golden)
    {
        JsonElement config = golden.Config;
        using LinearLayers model = Open(device, DType.F64, (config.GetProperty("out").GetInt32(), config.GetProperty("in").GetInt32()));
        using AdaptedModel adapted = model.Attach(Config with
        {
            Rank = config.GetProperty("r").GetInt32(),
            Key = config.GetProperty("projection_prng_key").GetInt64(),
            Sparse = Flag(config, "sparse"),
            VerySparse = Flag(config, "very_sparse"),
        });
        foreach ((string name, Tensor value) in adapted.Adapters[0].Shared)
        {
            golden.Check($"out.{name}", value.ToDoubles());
        }
    }

    private static void Peft(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        string[] prefixes = golden.Has("in.x") ? [""] : [.. Enumerable.Range(0, config.GetProperty("dims_out_in").GetArrayLength()).Select(i => $"l{i}.")];
        using var model = new LinearLayers(device, type, prefixes.Select((p, i) => ($"l{i}", golden.Shape(p + "in.W"), golden.Doubles(p + "in.W"), golden.Has(p + "in.bias") ? golden.Doubles(p + "in.bias") : null)));
        using AdaptedModel adapted = model.Attach(Config with
        {
            Rank = config.GetProperty("r").GetInt32(),
            Alpha = config.GetProperty("randlora_alpha").GetDouble(),
            Key = config.GetProperty("projection_prng_key").GetInt64(),
            Sparse = Flag(config, "sparse"),
            VerySparse = Flag(config, "very_sparse"),
        });
        foreach ((string name, Tensor value) in adapted.Adapters[0].Shared)
        {
            Assert.Equal(golden.Shape($"buffer.{name}"), value.Shape);
            value.Set(golden.Doubles($"buffer.{name}"));
        }
        foreach ((string prefix, Adapter adapter) in prefixes.Zip(adapted.Adapters))
        {
            var layer = new LayerGolden(golden, adapted, adapter, type) { Prefix = prefix };
            if (type == DType.F64 && config.GetProperty("point").GetString() == "init")
            {
                layer.Started();
            }
            layer.Load();
            layer.Gradients();
            layer.Merged();
            if (config.TryGetProperty("optimizer", out _))
            {
                using var optimizer = new AdamW(adapted.Parameters) { LearningRate = config.GetProperty("lr").GetDouble(), WeightDecay = config.GetProperty("weight_decay").GetDouble() };
                layer.Steps(optimizer, [.. config.GetProperty("steps_saved").EnumerateArray().Select(e => e.GetInt32())], 0.5);
            }
        }
    }

    /// <summary>The authors' code for vision: bases [1, r, ...] and [n_basis, D, r] of which the leading parts count, scales transposed.</summary>
    private static void Vision(GoldenCase golden, Device device, DType type)
    {
        JsonElement config = golden.Config;
        if (!Flag(config, "shared_A"))
        {
            Assert.Skip("a basis A for each term is not built: PEFT and the paper share one");
        }
        using var model = new LinearLayers(device, type, ("l0", golden.Shape("in.W"), golden.Doubles("in.W"), golden.Doubles("in.bias")));
        RandLoraConfig settings = Config with
        {
            Rank = config.GetProperty("r").GetInt32(),
            Alpha = config.GetProperty("lora_alpha").GetDouble(),
            Variant = RandLoraVariant.Vision,
            MostTerms = config.GetProperty("n_basis").GetInt32(),
        };
        using AdaptedModel adapted = model.Attach(settings);
        Adapter adapter = adapted.Adapters[0];
        Assert.Equal(config.GetProperty("n").GetInt32(), settings.Terms(model.Sites[0]));
        Fill(adapter.Shared.First().Value, golden.Doubles("buffer.basis_a"), golden.Shape("buffer.basis_a"), (k, _, i) => (0, k, i));
        Fill(adapter.Shared.Last().Value, golden.Doubles("buffer.basis_b"), golden.Shape("buffer.basis_b"), (row, term, k) => (term, row, k));
        var lambda = new LayerGolden(golden, adapted, adapter, type) { NameOf = suffix => suffix == "randlora_lambda" ? "B" : "A", IsTurned = suffix => suffix == "randlora_lambda" };
        if (type == DType.F64 && config.GetProperty("point").GetString() == "init")
        {
            lambda.Started();
        }
        lambda.Load();
        lambda.Gradients();
        if (type == DType.F64)
        {
            using Scope scope = device.BeginScope();
            double[] delta = [.. adapter.EffectiveWeight().ToDoubles().Zip(golden.Doubles("in.W"), (e, w) => e - w)];
            golden.Check("out.delta", delta);     // the official merge adds the transpose of a square layer's change: a fault of theirs
        }

        static void Fill(Tensor to, double[] from, Shape shape, Func<int, int, int, (int, int, int)> place)
        {
            double[] values = new double[to.Shape.Count];
            for (int i = 0; i < values.Length; i++)
            {
                (int x, int y, int z) = place(i / to.Shape[2] / to.Shape[1], i / to.Shape[2] % to.Shape[1], i % to.Shape[2]);
                values[i] = from[(((x * shape[1]) + y) * shape[2]) + z];
            }
            to.Set(values);
        }
    }

    private static bool Flag(JsonElement config, string name) => config.TryGetProperty(name, out JsonElement value) && value.GetBoolean();
}
