using System.Text.Json;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>SALT against golden/salt, and what its sheet says must hold.</summary>
public sealed class SaltTests : IDisposable
{
    private static readonly SaltConfig Config = new() { Targets = ["layer"], Rank = 3, LowRank = 2, Regularization = 1 };
    private readonly Device device = Devices.Open("cpu", DType.F64);

    public static TheoryData<string> Cases => Golden.Cases("salt");

    public static TheoryData<string, SaltConfig> Settings => new()
    {
        { "r is 0, want a whole number of at least 1", Config with { Rank = 0 } },
        { "r is 7 for layer, whose weight is [9, 6], want 1 .. 6", Config with { Rank = 7 } },
        { "r_lora is 0, want a whole number of at least 1", Config with { LowRank = 0 } },
        { "rho is 1.5, want more than 0, up to 1", Config with { Ratio = 1.5 } },
        { "rho is NaN, want more than 0, up to 1", Config with { Ratio = double.NaN } },
        { "reg_lambda is -1, want a finite number of 0 or more", Config with { Regularization = -1 } },
    };

    [Theory, MemberData(nameof(Cases))]
    public void Golden_salt(string name) => Golden.Run("salt", name, golden =>
    {
        JsonElement config = golden.Config;
        if (config.TryGetProperty("groups", out JsonElement groups) && groups.GetInt32() > 1)
        {
            Assert.Skip("convolutions in groups are not built");
        }
        foreach (DType type in (DType[])[DType.F64, DType.F32])
        {
            using Device own = Devices.Open("cpu", type);
            bool image = config.GetProperty("kind").GetString() == "conv2d";
            Convolution geometry = image ? new() { Stride = config.GetProperty("stride").GetInt32(), Padding = config.GetProperty("padding").GetInt32() } : new();
            using var model = new OneLayer(own, type, image ? SiteKind.Conv2d : SiteKind.Linear, golden.Shape("in.W"), golden.Doubles("in.W"), golden.Has("in.bias") ? golden.Doubles("in.bias") : null, geometry, pack: true);
            bool ratio = config.TryGetProperty("rho", out JsonElement rho);
            using AdaptedModel adapted = model.Attach(Config with
            {
                Rank = ratio ? null : config.GetProperty("r").GetInt32(),
                Ratio = ratio ? rho.GetDouble() : Config.Ratio,
                LowRank = config.GetProperty("r_lora").GetInt32(),
                Variant = config.GetProperty("variant").GetString() == "V1" ? SaltVariant.V1 : SaltVariant.V2,
            });
            Put(adapted.Adapters[0], suffix => golden.Doubles("buffer." + suffix["salt_".Length..]));
            var layer = new LayerGolden(golden, adapted, adapted.Adapters[0], type) { NameOf = suffix => suffix["salt_".Length..] };
            layer.Load();
            layer.Gradients();
            layer.Penalty();
            layer.Merged();
            using Optimizer optimizer = config.GetProperty("optimizer").GetString() == "adamw"
                ? new AdamW(adapted.Parameters) { LearningRate = config.GetProperty("lr").GetDouble(), WeightDecay = config.GetProperty("weight_decay").GetDouble() }
                : new Sgd(adapted.Parameters) { LearningRate = config.GetProperty("lr").GetDouble() };
            layer.Steps(optimizer, [.. config.GetProperty("steps_saved").EnumerateArray().Select(e => e.GetInt32())], 0.5, config.GetProperty("reg_lambda").GetDouble());
        }
    });

    [Theory]
    [InlineData(64, 48)]
    [InlineData(48, 64)]
    [InlineData(32, 32)]
    public void The_second_variant_starts_at_the_weight(int outputs, int inputs)
    {
        using Device single = Devices.Open("cpu");
        using OneLayer model = new AdapterRow(Config, SiteKind.Linear, [outputs, inputs], 0).Model(single, DType.F32);
        using AdaptedModel adapted = model.Attach(Config with { Rank = 16, LowRank = 8 });
        using Scope scope = single.BeginScope();
        Tensor w = model.Site.WeightMatrix();
        double most = new Add(-1).Apply(adapted.Adapters[0].EffectiveWeight(), w).ToDoubles().Max(Math.Abs);
        Assert.InRange(most, 0, Close.Layer * Svd.Of(w, scope).S.ToDoubles()[0]);
    }

    [Fact]
    public void The_first_variant_starts_within_its_product_of_the_weight()
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config with { Variant = SaltVariant.V1 });
        double change = Norm(Change(adapted)), product = Norm(Product(adapted));
        Assert.InRange(change, double.Epsilon, product);
        (double[] u, double[] s, double[] vt) = Factors(adapted.Adapters[0]);
        double[] moved = [.. Core(adapted).Select((c, i) => Math.Max(c, 0) - (i % 7 == 0 ? s[i / 7] : 0))];
        Close.Check(Change(adapted), Built(u, moved, vt), Close.Golden64, "U·(relu(C) - S)·Vt");
        Assert.Equal(product, Penalty(adapted), Close.Golden64);
    }

    [Theory]
    [InlineData(64, 48, 16, 8, 544)]
    [InlineData(48, 64, 1, 3, 284)]
    [InlineData(32, 32, 32, 8, 64)]
    [InlineData(4096, 4096, 409, 16, 118_802)]
    [InlineData(4096, 4096, 16, 16, 130_592)]
    public void Counts_are_exact(int outputs, int inputs, int top, int low, long count)
    {
        using Scope store = device.NewStore();
        Assert.Equal(count, (Config with { Rank = top, LowRank = low }).ParameterCount(Site(store, outputs, inputs)));
    }

    [Theory]
    [InlineData(4096, 0.1, 409)]
    [InlineData(48, 0.1, 4)]
    [InlineData(9, 0.1, 1)]
    [InlineData(9, 1, 9)]
    public void A_ratio_is_rounded_down_to_a_rank_of_at_least_one(int side, double ratio, int top)
    {
        using Scope store = device.NewStore();
        Assert.Equal(top, (Config with { Rank = null, Ratio = ratio }).Top(Site(store, side, side)));
    }

    [Fact]
    public void The_largest_values_are_scaled_and_one_that_falls_below_zero_is_gone_with_its_gradient()
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config);
        Adapter adapter = adapted.Adapters[0];
        (double[] u, double[] s, double[] vt) = Factors(adapter);
        double[] Component(int i, double value) => [.. Enumerable.Range(0, 54).Select(e => u[(e / 6 * 6) + i] * value * vt[(i * 6) + (e % 6)])];
        double[] Sum(IEnumerable<double[]> parts) => parts.Aggregate((x, y) => [.. x.Zip(y, (a, b) => a + b)]);
        adapter.Parameters[2].Value.Set([2.5, 2.5, 2.5]);
        Close.Check(Effective(adapter), Sum(Enumerable.Range(0, 6).Select(i => Component(i, i < 3 ? 2.5 * s[i] : s[i]))), Close.Golden64, "scaled");
        adapter.Parameters[2].Value.Set([1.0, 1, 1]);
        adapter.Parameters[3].Value.Set([0, -s[1] - 1, 0]);
        Close.Check(Effective(adapter), Sum(Enumerable.Range(0, 6).Select(i => Component(i, i == 1 ? 0 : s[i]))), Close.Golden64, "gone");
        Run(model, (_, _) =>
        {
            Assert.Equal((0.0, 0.0), (adapter.Parameters[2].Gradient!.ToDoubles()[1], adapter.Parameters[3].Gradient!.ToDoubles()[1]));
            Assert.NotEqual(0, adapter.Parameters[2].Gradient!.ToDoubles()[0]);
        });
    }

    /// <summary>Y = 0 makes every coupling zero, where relu passes nothing: X has no gradient, and Y that of the diagonal alone.</summary>
    [Fact]
    public void The_first_step_passes_the_diagonal_alone()
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config);
        Adapter adapter = adapted.Adapters[0];
        (double[] u, _, double[] vt) = Factors(adapter);
        double[] x0 = adapter.Parameters[0].Value.ToDoubles();
        Run(model, (x, dy) =>
        {
            Assert.All(adapter.Parameters[0].Gradient!.ToDoubles(), g => Assert.Equal(0, g));
            double[] want = new double[2 * 3];
            for (int i = 0; i < 3; i++)
            {
                double h = 0;     // (Uᵀ·dYᵀ·x·V)[3 + i, 3 + i]
                for (int t = 0; t < 5; t++)
                {
                    double left = Enumerable.Range(0, 9).Sum(o => dy[(t * 9) + o] * u[(o * 6) + 3 + i]), right = Enumerable.Range(0, 6).Sum(c => x[(t * 6) + c] * vt[((3 + i) * 6) + c]);
                    h += left * right;
                }
                (want[i], want[3 + i]) = (x0[i * 2] * h, x0[(i * 2) + 1] * h);
            }
            Close.Check(adapter.Parameters[1].Gradient!.ToDoubles(), want, Close.Golden64, "dY");
        });
    }

    [Fact]
    public void The_penalty_of_the_start_is_zero_and_so_is_its_gradient()
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config);
        using Tape tape = device.BeginTape();
        Tensor penalty = adapted.Penalty()!;
        Assert.Equal(0, penalty.Item());
        tape.Backward(penalty);
        Assert.All(adapted.Parameters, p => Assert.All(p.Gradient!.ToDoubles(), g => Assert.Equal(0, g)));
        using OneLayer other = Open([9, 6]);
        using AdaptedModel without = other.Attach(Config with { Regularization = 0 });
        Assert.Null(without.Penalty());
    }

    /// <summary>Couplings between the top and the rest stay zero, and W_eff is U·relu(C)·Vt.</summary>
    [Fact]
    public void Top_and_rest_are_apart()
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config);
        AdapterTests.Move(adapted.Adapters[0]);
        (double[] u, double[] s, double[] vt) = Factors(adapted.Adapters[0]);
        double[] w = Effective(adapted.Adapters[0]);
        for (int i = 0; i < 36; i++)
        {
            double coupling = Enumerable.Range(0, 54).Sum(e => u[(e / 6 * 6) + (i / 6)] * w[e] * vt[(i % 6 * 6) + (e % 6)]);
            Assert.True((i / 6 < 3) == (i % 6 < 3) || Math.Abs(coupling) <= Close.Layer * s[0], $"C[{i / 6}, {i % 6}] is {coupling}");
        }
        Close.Check(w, Built(u, [.. Core(adapted).Select(c => Math.Max(c, 0))], vt), Close.Golden64, "W_eff");
    }

    // The sheet: W_eff stays "only if relu is inactive". Of a coupling and of its negative relu cuts one, so that is where both are zero and nowhere else.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_pair_of_vectors_may_change_signs_only_where_it_is_coupled_to_nothing(bool coupled)
    {
        using OneLayer model = Open([9, 6]);
        using AdaptedModel adapted = model.Attach(Config);
        Adapter adapter = adapted.Adapters[0];
        AdapterTests.Move(adapter);
        Parameter x = adapter.Parameters[0], y = adapter.Parameters[1];
        if (!coupled)
        {
            x.Value.Set([.. x.Value.ToDoubles().Select((v, i) => i / 2 == 1 ? 0 : v)]);
            y.Value.Set([.. y.Value.ToDoubles().Select((v, i) => i % 3 == 1 ? 0 : v)]);
        }
        (double[] u, double[] s, double[] vt) = Factors(adapter);
        double[] w = Effective(adapter), core = Core(adapted);
        double[] Flipped(double[] values, Func<int, bool> negative) => [.. values.Select((v, i) => negative(i) ? -v : v)];
        (double[] turnedU, double[] turnedVt) = (Flipped(u, i => i % 6 == 4), Flipped(vt, i => i / 6 == 4));
        Put(adapter, suffix => suffix switch { "salt_U" => turnedU, "salt_Vt" => turnedVt, _ => s });
        x.Value.Set(Flipped(x.Value.ToDoubles(), i => i / 2 == 1));
        y.Value.Set(Flipped(y.Value.ToDoubles(), i => i % 3 == 1));
        Assert.Equal(Flipped(core, i => i / 6 == 4 != (i % 6 == 4)), Core(adapted));
        Close.Check(Effective(adapter), Built(turnedU, [.. Core(adapted).Select(c => Math.Max(c, 0))], turnedVt), Close.Golden64, "W_eff of turned vectors");
        double change = Close.Error(Effective(adapter), w);
        Assert.True(coupled ? change > Close.Layer : change < Close.Golden64, $"W_eff changed by {change}");
    }

    [Fact]
    public void A_convolution_is_the_linear_layer_on_its_patches()
    {
        double[] w = AdapterRow.Draw(new Rng(4), 6 * 12), image = AdapterRow.Draw(new Rng(5), 2 * 7 * 6), patches = new double[9 * 12];     // [6, 2, 3, 2] at stride 2 on [2, 7, 6]
        for (int i = 0; i < patches.Length; i++)
        {
            (int place, int channel, int row, int col) = (i / 12, i % 12 / 6, i % 6 / 2, i % 2);
            patches[i] = image[(((channel * 7) + (place / 3 * 2) + row) * 6) + (place % 3 * 2) + col];
        }
        using var layer = new OneLayer(device, DType.F64, SiteKind.Linear, [6, 12], w);
        using var convolution = new OneLayer(device, DType.F64, SiteKind.Conv2d, [6, 2, 3, 2], w, null, new() { Stride = 2 });
        using AdaptedModel flat = layer.Attach(Config), deep = convolution.Attach(Config);
        AdapterTests.Move(flat.Adapters[0]);
        AdapterTests.Move(deep.Adapters[0]);
        using Scope scope = device.BeginScope();
        double[] want = new Transpose().Apply(layer.Site.Forward(scope.Of([9, 12], patches, DType.F64))).ToDoubles();
        Close.Check(convolution.Site.Forward(scope.Of([1, 2, 7, 6], image, DType.F64)).ToDoubles(), want, Close.Golden64, "convolution");
    }

    [Fact]
    public void A_file_without_its_factors_or_of_another_inner_rank_is_refused()
    {
        using var folder = new TemporaryFolder();
        using OneLayer model = Open([9, 6]);
        using (AdaptedModel saved = model.Attach(Config))
        {
            saved.SavePeft(folder.Path);
        }
        string settings = Path.Combine(folder.Path, PeftFolder.ConfigFile), file = Path.Combine(folder.Path, PeftFolder.ModelFile), text = File.ReadAllText(settings);
        File.WriteAllText(settings, text.Replace("\"r_lora\": 2", "\"r_lora\": 3", StringComparison.Ordinal));
        Assert.Contains("salt_X is [3, 2], want [3, 3]", Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        File.WriteAllText(settings, text);
        using (Scope scope = device.BeginScope())
        {
            TensorData[] kept;
            using (SafeTensorsFile whole = SafeTensorsFile.Open(file))
            {
                kept = [.. whole.Entries.Where(e => !e.Name.EndsWith("salt_U", StringComparison.Ordinal)).Select(e => TensorData.Of(e.Name, whole.Load(e.Name, scope)))];
            }
            SafeTensorsFile.Save(file, kept, new Dictionary<string, string> { ["format"] = "pt" });
        }
        Assert.Contains("lacks 1 of 7 tensors that the config asks for on this model: base_model.model.layer.salt_U [9, 6]", Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        Assert.Null(model.Site.Adapter);
    }

    [Fact]
    public void The_factors_are_in_the_file_and_a_reader_takes_them_from_there()
    {
        using var folder = new TemporaryFolder();
        using OneLayer first = Open([9, 6]), second = Open([9, 6]);
        using AdaptedModel saved = first.Attach(Config);
        AdapterTests.Move(saved.Adapters[0]);
        (double[] u, double[] s, double[] vt) = Factors(saved.Adapters[0]);
        Put(saved.Adapters[0], suffix => [.. (suffix switch { "salt_U" => u, "salt_S" => s, _ => vt }).Select(v => (double)(suffix == "salt_S" ? (float)v : -(float)v))]);
        saved.SavePeft(folder.Path);
        using AdaptedModel read = second.AttachPeft(folder.Path);
        Assert.Empty(read.Warnings);
        Assert.Equal(Factors(saved.Adapters[0]).U, Factors(read.Adapters[0]).U);
        Close.Check(Effective(read.Adapters[0]), Effective(saved.Adapters[0]), Close.Layer, "read");
        using OneLayer other = Open([9, 7]);
        Assert.Contains("salt_Vt is [6, 6], want [7, 7]", Assert.Throws<ModelFormatException>(() => other.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named_and_nothing_is_attached(string message, SaltConfig config)
    {
        using OneLayer model = Open([9, 6]);
        Assert.Contains(message, Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
        Assert.Null(model.Site.Adapter);
    }

    [Fact]
    public void A_weight_that_is_not_finite_is_refused()
    {
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [2, 2], [1, double.NaN, 0, 1]);
        Assert.Contains("the weight of layer has NaN or infinity in it", Assert.Throws<AdapterConfigException>(() => model.Attach(Config with { Rank = 1 })).Message, StringComparison.Ordinal);
        using var words = new OneLayer(device, DType.F64, SiteKind.Embedding, [4, 4], new double[16]);
        Assert.Contains("a layer of kind Embedding, want layers of kind Linear, Conv2d", Assert.Throws<AdapterConfigException>(() => words.Attach(Config)).Message, StringComparison.Ordinal);
    }

    public void Dispose() => device.Dispose();

    private OneLayer Open(Shape shape) => new AdapterRow(Config, SiteKind.Linear, shape, 0).Model(device, DType.F64);

    private static Site Site(Scope store, int outputs, int inputs) => new("layer", SiteKind.Linear, new Parameter("layer.weight", store.New([outputs, inputs], DType.BF16)), null);

    private static double Norm(double[] values) => Math.Sqrt(values.Sum(v => v * v));

    private double[] Effective(Adapter adapter)
    {
        using Scope scope = device.BeginScope();
        return adapter.EffectiveWeight().ToDoubles();
    }

    [Theory]
    [InlineData(SaltVariant.V1, 3)]
    [InlineData(SaltVariant.V2, 6)]
    public void Few_tokens_through_the_factors_give_what_many_give_through_the_weight(SaltVariant variant, int top)
    {
        const int parts = 8, each = 4;
        (double[] Y, double[][] Gradients) Pass(bool together)
        {
            using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [9, 6], AdapterRow.Draw(new Rng(1), 54), AdapterRow.Draw(new Rng(5), 9));
            using AdaptedModel adapted = model.Attach(Config with { Rank = top, Variant = variant });
            foreach (Parameter p in adapted.Parameters)
            {
                p.Value.Set([.. p.Value.ToDoubles().Zip(AdapterRow.Draw(new Rng(7).Fork(p.Name), (int)p.Value.Shape.Count), (v, d) => v + (0.3 * d))]);
            }
            double[] x = AdapterRow.Draw(new Rng(2), parts * each * 6), dy = AdapterRow.Draw(new Rng(3), parts * each * 9);
            List<double> y = [];
            for (int part = 0; part < (together ? 1 : parts); part++)
            {
                using Tape tape = device.BeginTape();
                int tokens = together ? parts * each : each;
                Tensor output = model.Site.Forward(tape.Of([tokens, 6], x.AsSpan(part * each * 6, tokens * 6)));
                y.AddRange(output.ToDoubles());
                tape.Backward(output, tape.Of([tokens, 9], dy.AsSpan(part * each * 9, tokens * 9)));
            }
            return ([.. y], [.. adapted.Parameters.Select(p => p.Gradient!.ToDoubles())]);
        }
        (double[] y, double[][] gradients) = Pass(together: true);
        (double[] want, double[][] wanted) = Pass(together: false);
        Close.Check(y, want, Close.Bound(DType.F64), "y");
        Assert.All(gradients.Zip(wanted), pair => Close.Check(pair.First, pair.Second, Close.Bound(DType.F64), "gradient"));
        Assert.All(gradients, g => Assert.Contains(g, v => v != 0));
    }

    private double[] Change(AdaptedModel adapted) => [.. Effective(adapted.Adapters[0]).Zip(adapted.Model.Sites[0].Weight.Value.ToDoubles(), (e, w) => e - w)];

    private double[] Product(AdaptedModel adapted)
    {
        using Scope scope = device.BeginScope();
        return new MatMul().Apply(adapted.Parameters[0], adapted.Parameters[1]).ToDoubles();
    }

    /// <summary>C [6,6] before relu, spelled out.</summary>
    private double[] Core(AdaptedModel adapted)
    {
        double[] s = Factors(adapted.Adapters[0]).S, product = Product(adapted), a = adapted.Parameters[2].Value.ToDoubles(), b = adapted.Parameters[3].Value.ToDoubles();
        return [.. Enumerable.Range(0, 36).Select(e => (Row: e / 6, Col: e % 6)).Select(c =>
            (c.Row != c.Col ? 0 : c.Row < 3 ? (a[c.Row] * s[c.Row]) + b[c.Row] : s[c.Row]) + (c.Row < 3 || c.Col < 3 ? 0 : product[((c.Row - 3) * 3) + c.Col - 3]))];
    }

    /// <summary>U [9,6] · core [6,6] · Vt [6,6].</summary>
    private double[] Built(double[] u, double[] core, double[] vt)
    {
        using Scope scope = device.BeginScope();
        return new MatMul().Apply(new MatMul().Apply(scope.Of([9, 6], u), scope.Of([6, 6], core)), scope.Of([6, 6], vt)).ToDoubles();
    }

    private double Penalty(AdaptedModel adapted)
    {
        using Scope scope = device.BeginScope();
        return adapted.Penalty()!.Item();
    }

    private void Run(OneLayer model, Action<double[], double[]> check)
    {
        double[] x = AdapterRow.Draw(new Rng(2), 30), dy = AdapterRow.Draw(new Rng(3), 45);
        using Tape tape = device.BeginTape();
        tape.Backward(model.Site.Forward(tape.Of([5, 6], x, DType.F64)), tape.Of([5, 9], dy, DType.F64));
        check(x, dy);
    }

    private (double[] U, double[] S, double[] Vt) Factors(Adapter adapter)
    {
        using Scope scope = device.BeginScope();
        Dictionary<string, double[]> saved = adapter.Saved(false, scope).ToDictionary(s => s.Suffix, s => s.Value.ToDoubles());
        return (saved["salt_U"], saved["salt_S"], saved["salt_Vt"]);
    }

    private static void Put(Adapter adapter, Func<string, double[]> values)
    {
        using Scope scope = adapter.Site.Weight.Value.Device.BeginScope();
        foreach ((string suffix, Tensor value) in adapter.Saved(false, scope).Where(s => s.Suffix is "salt_U" or "salt_S" or "salt_Vt"))
        {
            value.Set(values(suffix));
        }
    }
}
