using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What SNELL and SoRA do beside the contract of every adapter: settings, what training drops, sparse export, pruning, penalties.</summary>
public sealed class SnellSoraTests : IDisposable
{
    private static readonly SnellConfig Snell = new() { Targets = ["layer"], Rank = 4, Sparsity = 0.5 };
    private static readonly SoraConfig Sora = new() { Targets = ["layer"], Rank = 6, Alpha = 12 };
    private readonly Device device = Devices.Open("cpu");
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string, AdapterConfig> Settings => new()
    {
        { "SnellConfig: r is 1, want at least 2 (SNELL has two heads)", Snell with { Rank = 1 } },
        { "SnellConfig: sparsity is 1.5, want 0 .. 1", Snell with { Sparsity = 1.5 } },
        { "SnellConfig: sparsity is NaN, want 0 .. 1", Snell with { Sparsity = double.NaN } },
        { "SnellConfig: norm_p is 0, want more than 0 and finite", Snell with { Norm = 0 } },
        { "SnellConfig: snell_dropout is 1, want 0 or more and less than 1", Snell with { Dropout = 1 } },
        { "SnellConfig: drop_path is -1, want 0 or more and less than 1", Snell with { DropPath = -1 } },
        { "SoraConfig: r is 0, want a whole number of at least 1", Sora with { Rank = 0 } },
        { "SoraConfig: lora_alpha is NaN, want a finite number", Sora with { Alpha = double.NaN } },
        { "SoraConfig: lora_dropout is 1, want 0 or more and less than 1", Sora with { Dropout = 1 } },
        { "SoraConfig: sparse_lambda is -1, want 0 or more", Sora with { Lambda1 = -1 } },
    };

    public void Dispose()
    {
        folder.Dispose();
        device.Dispose();
    }

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named(string message, AdapterConfig config)
    {
        using OneLayer model = Layer();
        Assert.Contains(message, Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
        Assert.Null(model.Site.Adapter);
    }

    [Fact]
    public void Layers_that_are_not_linear_are_refused()
    {
        using var model = new OneLayer(device, DType.F32, SiteKind.Conv2d, [6, 4, 3, 3], new double[216]);
        foreach (AdapterConfig config in (AdapterConfig[])[Snell, Sora])
        {
            Assert.Contains("a layer of kind Conv2d, want layers of kind Linear", Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("soft", "'mode' is soft, want one of official, paper-soft, klora")]
    [InlineData("official", null)]
    [InlineData("paper-soft", null)]
    [InlineData("klora", null)]
    public void The_mode_is_one_of_the_words(string mode, string? message)
    {
        byte[] text = System.Text.Encoding.UTF8.GetBytes($$"""{"peft_type": "SNELL", "r": 4, "mode": "{{mode}}"}""");
        if (message is null)
        {
            Assert.Contains($"\"mode\": \"{mode}\"", AdapterCatalog.Write(AdapterCatalog.Read(text)), StringComparison.Ordinal);
            return;
        }
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => AdapterCatalog.Read(text)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Sparsity_zero_is_the_unsparsified_kernel_unless_the_threshold_is_asked_for()
    {
        Assert.Equal(new SnellRule(0, SnellMode.Distances), (Snell with { Sparsity = 0 }).Rule);
        Assert.Equal(new SnellRule(0), (Snell with { Sparsity = 0, ThresholdAtZero = true }).Rule);
        Assert.Equal(new SnellRule(0, SnellMode.PaperSoft), (Snell with { Sparsity = 0, Mode = SnellMode.PaperSoft }).Rule);
    }

    [Fact]
    public void Tables_start_within_the_bound_of_their_heads_and_nothing_of_the_size_of_w_is_trained()
    {
        using OneLayer model = Layer();
        using AdaptedModel adapted = model.Attach(Snell with { Rank = 7 });
        Assert.Equal("layer: r is 7, of which SNELL's two heads use 6", Assert.Single(adapted.Remarks));
        foreach ((Parameter p, int rows) in adapted.Parameters.Zip([14, 9]))
        {
            Assert.Equal([2, rows, 3], p.Value.Shape);
            double bound = 1 / Math.Sqrt(rows * 3), most = p.Value.ToDoubles().Max(Math.Abs);
            Assert.InRange(most, 0.8 * bound, bound);
        }
        using var optimizer = new AdamW(adapted.Parameters);
        Train(model, adapted, optimizer);
        Assert.Equal(2 * adapted.ParameterCount, optimizer.State().Sum(s => s.Value.Shape.Count));
    }

    [Fact]
    public void Samples_and_inputs_are_dropped_by_step_and_on_average_nothing_is()
    {
        const int steps = 2000;
        foreach (AdapterConfig config in (AdapterConfig[])[Snell with { DropPath = 0.5 }, Snell with { Dropout = 0.5 }, Sora with { Dropout = 0.5 }])
        {
            using OneLayer model = Layer();
            double[] plain = Forward(model);
            using AdaptedModel adapted = model.Attach(config);
            AdapterTests.Move(adapted.Adapters[0]);
            double[] whole = Forward(model), mean = new double[whole.Length];
            double[][] taped = [.. Enumerable.Range(0, steps).Select(step => Taped(adapted, model, step))];
            Assert.Equal(taped[3], Taped(adapted, model, 3));
            Assert.Contains(taped, y => !y.SequenceEqual(taped[0]));
            foreach (double[] y in taped)
            {
                mean = [.. mean.Zip(y, (a, b) => a + (b / steps))];
            }
            Close.Check(mean, whole, Close.Average, $"mean of {config.Method}");
            if (config is SnellConfig { DropPath: > 0 })
            {
                // A sample is the base's, or has twice what the adapter adds.
                Assert.All(taped[..20], y => Assert.All(y.Chunk(9).Select((row, i) => (row, i)), sample =>
                {
                    double[] own = plain[(9 * sample.i)..(9 * (sample.i + 1))];
                    double[] twice = [.. own.Zip(whole[(9 * sample.i)..(9 * (sample.i + 1))], (a, b) => a + (2 * (b - a)))];
                    Assert.True(Close.Error(sample.row, own) == 0 || Close.Error(sample.row, twice) < Close.Layer);
                }));
            }
        }
    }

    [Fact]
    public void A_sparse_delta_goes_to_a_file_and_makes_the_merged_weight_again()
    {
        using OneLayer model = Layer();
        float[] w = [.. model.Site.Weight.Value.ToDoubles().Select(v => (float)v)];
        using AdaptedModel adapted = model.Attach(Snell with { Sparsity = 0.8 });
        AdapterTests.Move(adapted.Adapters[0]);
        string file = Path.Combine(folder.Path, "delta.safetensors");
        SparseDelta.Save(file, adapted.SparseDeltas());
        SparseDelta read = Assert.Single(SparseDelta.Load(file), d => d.Key == "layer").Value;
        Assert.Equal((9 * 14) - 1 - (int)(0.8 * ((9 * 14) - 1)), read.Values.Count);
        adapted.Merge();
        Assert.Equal(model.Site.Weight.Value.ToDoubles().Select(v => (float)v), w.Zip(read.ToDense(), (a, b) => a + b));
        adapted.Unmerge();
        File.WriteAllBytes(file, [.. File.ReadAllBytes(file).Select((b, i) => i == 20 ? (byte)'~' : b)]);
        Assert.ThrowsAny<ModelFormatException>(() => SparseDelta.Load(file));
        using OneLayer other = Layer();
        using AdaptedModel lora = other.Attach(Sora);
        Assert.Contains("SORA on layer has no zeros", Assert.Throws<AdapterConfigException>(lora.SparseDeltas).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Broken_tables_and_gates_name_their_layer()
    {
        using OneLayer model = Layer();
        using (AdaptedModel adapted = model.Attach(Snell))
        {
            Break(adapted.Parameters[0]);
            Assert.Equal("Snell: on layer: Snell: P or Q holds NaN or infinity, want finite tables", Assert.Throws<InvalidOperationException>(() => Forward(model)).Message);
        }
        using AdaptedModel sora = model.Attach(Sora);
        Break(sora.Parameters[2]);
        using var optimizer = new GatedAdamW(sora.Parameters, SoraGates.Parameters(sora));
        Assert.Equal("Sora: gate 0 of layer is NaN, want finite numbers", Assert.Throws<InvalidOperationException>(() => sora.Step(optimizer)).Message);
        Assert.Equal("Sora: gate 0 of layer is NaN, want finite numbers", Assert.Throws<InvalidOperationException>(() => SoraGates.Prune(sora, folder.Path)).Message);

        static void Break(Parameter p) => p.Value.Set([double.NaN, .. p.Value.ToDoubles().Skip(1)]);
    }

    [Fact]
    public void The_penalty_is_the_mean_of_all_gates_of_the_model()
    {
        using var model = new TwoLayers(device);
        using AdaptedModel adapted = model.Attach(Sora with { Targets = ["a", "b"], Lambda1 = 0.5 });
        adapted.Parameters[2].Value.Set([.. adapted.Parameters[2].Value.ToDoubles()[..5], 0.0]);
        using Tape tape = device.BeginTape();
        Tensor penalty = adapted.Penalty()!;
        Parameter[] gates = [.. SoraGates.Parameters(adapted)];
        Assert.Equal(0.5 * gates.SelectMany(g => g.Value.ToDoubles()).Average(Math.Abs), penalty.Item(), Close.Bound(DType.F32));
        tape.Backward(penalty);
        Assert.All(gates, g => Close.Check(g.Gradient!.ToDoubles(), [.. g.Value.ToDoubles().Select(v => 0.5 * Math.Sign(v) / 12)], Close.Bound(DType.F32), g.Name));
        using var free = new TwoLayers(device);
        using AdaptedModel without = free.Attach(Sora with { Targets = ["a"], Lambda1 = 0 });
        Assert.Null(without.Penalty());
    }

    [Fact]
    public void Dead_components_are_taken_out_and_the_outputs_stay()
    {
        using var model = new TwoLayers(device);
        using AdaptedModel adapted = model.Attach(Sora with { Targets = ["a", "b"] });
        adapted.Adapters.ToList().ForEach(AdapterTests.Move);
        Parameter[] gates = [.. SoraGates.Parameters(adapted)];
        gates[0].Value.Set([0.5, 0, 0, -1.5, 0, 0]);
        gates[1].Value.Set(new double[6]);
        Assert.Equal([new GateCount("a", 6, 2, 2 * (5 + 4)), new GateCount("b", 6, 0, 0)], SoraGates.Count(adapted));
        Assert.Contains("b: every gate is 0: the adapter adds nothing here", adapted.Remarks);
        double[] want = model.Output();
        LoraConfig config = SoraGates.Prune(adapted, folder.Path);
        Assert.Equal(["a"], config.Targets);
        using var other = new TwoLayers(device);
        using AdaptedModel plain = other.AttachPeft(folder.Path);
        Assert.Empty(plain.Warnings);
        Assert.Equal([2, 5], plain.Parameters[0].Value.Shape);
        Assert.Equal(2, ((Lora)plain.Adapters[0]).Scale, Close.Bound(DType.F64));
        Close.Check(other.Output(), want, Close.Identity, "pruned");
        gates[0].Value.Set(new double[6]);
        Assert.Contains("every gate of every layer is 0", Assert.Throws<AdapterConfigException>(() => SoraGates.Prune(adapted, folder.Path)).Message, StringComparison.Ordinal);
        using OneLayer layer = Layer();
        using AdaptedModel snell = layer.Attach(Snell);
        Assert.Contains("want SoRA, whose components have gates", Assert.Throws<AdapterConfigException>(() => SoraGates.Count(snell)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.F64)]
    public void A_component_whose_gate_is_zero_has_a_gradient_at_its_gate_alone(DType type)
    {
        const int dead = 2;
        using Device own = Devices.Open("cpu", type);
        using OneLayer model = new AdapterRow(Sora, SiteKind.Linear, [9, 14], 0).Model(own, type);
        using AdaptedModel adapted = model.Attach(Sora);
        AdapterTests.Move(adapted.Adapters[0]);
        (Parameter a, Parameter b, Parameter g) = (adapted.Parameters[0], adapted.Parameters[1], adapted.Parameters[2]);
        g.Value.Set([.. g.Value.ToDoubles().Select((v, i) => i == dead ? 0 : v)]);
        using (Tape tape = own.BeginTape())
        {
            Tensor y = model.Site.Forward(tape.Of([4, 14], AdapterRow.Draw(new Rng(2), 4 * 14), type));
            tape.Backward(y, tape.Of(y.Shape, AdapterRow.Draw(new Rng(3), y.Shape.Count), type));
        }
        double[] da = a.Gradient!.ToDoubles(), db = b.Gradient!.ToDoubles(), dg = g.Gradient!.ToDoubles();
        Assert.All(da.Index(), v => Assert.Equal(v.Index / 14 == dead, v.Item == 0));
        Assert.All(db.Index(), v => Assert.Equal(v.Index % 6 == dead, v.Item == 0));
        Assert.All(dg, v => Assert.NotEqual(0, v));
        using Scope scope = own.BeginScope();
        double[] s = Svd.Of(new Add(-1).Apply(adapted.Adapters[0].EffectiveWeight(), model.Site.WeightMatrix()).ConvertTo(DType.F64, scope), scope).S.ToDoubles();
        Assert.Equal(5, s.Count(v => v > Close.Layer * s[0]));
        g.Value.Fill(0);
        double[] x = AdapterRow.Draw(new Rng(4), 3 * 14), off = model.Site.Forward(scope.Of([3, 14], x, type)).ToDoubles();
        adapted.Disable();
        Close.Check(off, model.Site.Forward(scope.Of([3, 14], x, type)).ToDoubles(), type == DType.F64 ? Close.Bound(type) : 0, "without gates");
    }

    [Fact]
    public void A_rank_above_the_smaller_side_is_remarked_on()
    {
        using OneLayer model = Layer();
        using AdaptedModel adapted = model.Attach(Sora with { Rank = 10 });
        Assert.Equal("layer: r is 10, more than the smaller side of [9, 14]", Assert.Single(adapted.Remarks));
    }

    [Fact]
    public void Gates_find_the_rank_of_what_there_is_to_learn()
    {
        const int size = 32, samples = 4096, steps = 1500;
        double[] u = new double[size * 3], v = new double[3 * size], x = new double[samples * size];
        var rng = new Rng(11);
        Fill(u, "u");
        Fill(v, "v");
        Fill(x, "x");
        using var model = new OneLayer(device, DType.F32, SiteKind.Linear, [size, size], new double[size * size]);
        using AdaptedModel adapted = model.Attach(new SoraConfig { Targets = ["layer"], Rank = 8, Alpha = 8, Lambda1 = 0 }, seed: 2);
        using Scope data = device.NewStore();
        using (Scope scope = device.BeginScope())
        {
            Tensor teacher = new MatMul(Scale: 1 / Math.Sqrt(size)).Apply(scope.Of([size, 3], u, DType.F32), scope.Of([3, size], v, DType.F32));
            Tensor inputs = scope.Of([samples, size], x, DType.F32), target = new Linear().Apply(inputs, teacher);
            (Tensor keptInputs, Tensor keptTarget, double[] want) = (inputs.CopyTo(data), target.CopyTo(data), teacher.ToDoubles());
            using var optimizer = new GatedAdamW(adapted.Parameters, SoraGates.Parameters(adapted)) { Threshold = 2e-3, Proximal = true, WeightDecay = 0.1, LearningRate = 1e-2 };
            for (int step = 0; step < steps; step++)
            {
                using Tape tape = device.BeginTape();
                tape.Backward(new SquaredError().Apply(model.Site.Forward(keptInputs), keptTarget));
                adapted.Step(optimizer);
            }
            Assert.InRange(SoraGates.Count(adapted)[0].Active, 3, 4);
            Assert.InRange(Close.Error(adapted.Adapters[0].EffectiveWeight().ToDoubles(), want), 0, 0.05);
        }

        void Fill(double[] values, string name)
        {
            var drawn = new float[values.Length];
            rng.Fork(name).FillNormal(drawn, 0, 1);
            drawn.Select(d => (double)d).ToArray().CopyTo(values, 0);
        }
    }

    private OneLayer Layer() => new AdapterRow(Snell, SiteKind.Linear, [9, 14], 0).Model(device, DType.F32);

    private double[] Forward(OneLayer model)
    {
        using Scope scope = device.BeginScope();
        return model.Site.Forward(Input(scope)).ToDoubles();
    }

    private double[] Taped(AdaptedModel adapted, OneLayer model, long step)
    {
        adapted.Steps = step;
        using Tape tape = device.BeginTape();
        return model.Site.Forward(Input(tape)).ToDoubles();
    }

    private void Train(OneLayer model, AdaptedModel adapted, Optimizer optimizer)
    {
        using Tape tape = device.BeginTape();
        Tensor y = model.Site.Forward(Input(tape));
        tape.Backward(new SquaredError().Apply(y, tape.NewZeros(y.Shape, y.DType)));
        adapted.Step(optimizer);
    }

    private static Tensor Input(Scope scope) => scope.Of([4, 14], AdapterRow.Draw(new Rng(2), 4 * 14), DType.F32);

    /// <summary>y = b(a(x)), a [4,5], b [3,4].</summary>
    private sealed class TwoLayers : Model
    {
        private readonly Site first, second;

        public TwoLayers(Device device)
            : base(device, DType.F32)
        {
            Site Make(string name, int outputs, int inputs) => Add(new Site(name, SiteKind.Linear, Add($"{name}.weight", Init.Normal(1).Make(Store, new Rng(1).Fork(name), [outputs, inputs], DType.F32)), null));
            (first, second) = (Make("a", 4, 5), Make("b", 3, 4));
        }

        public double[] Output()
        {
            using Scope scope = Device.BeginScope();
            return second.Forward(first.Forward(scope.Of([6, 5], AdapterRow.Draw(new Rng(3), 30), DType.F32))).ToDoubles();
        }
    }
}
