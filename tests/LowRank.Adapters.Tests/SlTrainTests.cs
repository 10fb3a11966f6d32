using System.Text.Json;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>SLTrain against golden/sltrain, and what its sheet says must hold.</summary>
public sealed class SlTrainTests : IDisposable
{
    private const string ScheduleCase = "schedule";
    private static readonly SlTrainConfig Config = new() { Targets = "l.*", Rank = 4, Alpha = 8, Density = 0.2 };
    private readonly Device device = Devices.Open("cpu", DType.F64);

    public static TheoryData<string> Cases => Golden.Cases("sltrain", name => !name.StartsWith(ScheduleCase, StringComparison.Ordinal));

    public static TheoryData<string, SlTrainConfig> Settings => new()
    {
        { "r is 0, want a whole number of at least 1", Config with { Rank = 0 } },
        { "sp_ratio is 0, want more than 0 and less than 1", Config with { Density = 0 } },
        { "sp_ratio is 1, want more than 0 and less than 1", Config with { Density = 1 } },
        { "sp_ratio is 0.01 for l0 of [8, 6], want at least one value", Config with { Density = 0.01 } },
        { "alpha is NaN, want a finite number", Config with { Alpha = double.NaN } },
        { "target_modules [nothing] matches no layer", Config with { Targets = ["nothing"] } },
    };

    [Theory, MemberData(nameof(Cases))]
    public void Golden_sltrain(string name) => Golden.Run("sltrain", name, golden =>
    {
        JsonElement config = golden.Config;
        foreach (DType type in (DType[])[DType.F64, DType.F32])
        {
            using Device own = Devices.Open("cpu", type);
            (int outputs, int inputs) = (golden.Shape("param.B")[0], golden.Shape("param.A")[1]);
            using var model = new LinearLayers(own, type, ("l0", Shape.Of([outputs, inputs]), new double[outputs * inputs], golden.Has("param.bias") ? new double[outputs] : null));
            SlTrainConfig settings = Config with
            {
                Rank = config.GetProperty("r").GetInt32(),
                Alpha = config.GetProperty("alpha").GetDouble(),
                Density = config.GetProperty("sp_ratio").GetDouble(),
                TrainsScale = config.GetProperty("trainable_scaling").GetBoolean(),
            };
            using AdaptedModel adapted = model.Attach(settings);
            Assert.Equal(golden.Shape("buffer.idx")[0], settings.Count(model.Sites[0]));
            Places(adapted.Adapters[0]).Set(golden.Doubles("buffer.idx"));
            Assert.Null(adapted.Adapters[0].Fault);
            var layer = new LayerGolden(golden, adapted, adapted.Adapters[0], type) { NameOf = suffix => suffix["sltrain_".Length..] };
            layer.Load();
            if (golden.Has("in.gy"))
            {
                layer.Gradients();
                layer.Merged();
            }
            if (golden.Has("out.lr"))
            {
                double[] rates = golden.Doubles("out.lr");
                using var optimizer = new AdamW(adapted.Parameters) { WeightDecay = config.GetProperty("weight_decay").GetDouble() };
                int[] saved = [.. Enumerable.Range(1, config.GetProperty("steps").GetInt32()).Where(k => golden.Has($"step{k}.A"))];
                LoraCoreGoldenTests.Check(golden, type, "out.loss", layer.Steps(optimizer, saved, 1, rate: k => rates[k - 1]), trajectory: true);
                Assert.Equal(golden.Doubles("buffer.idx"), Places(adapted.Adapters[0]).ToDoubles());
            }
        }
    });

    [Fact]
    public void Places_are_sorted_distinct_as_many_as_asked_and_each_as_likely()
    {
        int[] hits = new int[20 * 30];
        for (ulong seed = 0; seed < 200; seed++)
        {
            using LinearLayers model = Open((20, 30), (20, 30));
            using AdaptedModel adapted = model.Attach(Config, seed), again = Again(model, adapted, seed);
            int[] places = Places(adapted.Adapters[0]).ToInts();
            Assert.Equal(120, places.Length);
            Assert.Equal(places.Distinct().Order(), places);
            Assert.InRange(places[0], 0, places[^1]);
            Assert.InRange(places[^1], 0, 599);
            Assert.Equal(places, Places(again.Adapters[0]).ToInts());
            Assert.NotEqual(places, Places(adapted.Adapters[1]).ToInts());
            Array.ForEach(places, place => hits[place]++);
        }
        double expected = 200 * 0.2, deviation = Math.Sqrt(200 * 0.2 * 0.8);
        Assert.All(hits, h => Assert.InRange(h, expected - (Close.Deviations * deviation), expected + (Close.Deviations * deviation)));
    }

    [Fact]
    public void A_layer_starts_as_its_sparse_part_whatever_its_weight_was()
    {
        using LinearLayers model = Open((400, 500));
        using AdaptedModel adapted = model.Attach(Config with { Density = 0.6 });
        Adapter adapter = adapted.Adapters[0];
        double[] want = new double[400 * 500], v = adapter.Parameters[2].Value.ToDoubles();
        int[] places = Places(adapter).ToInts();
        for (int j = 0; j < v.Length; j++)
        {
            want[places[j]] = v[j];
        }
        Assert.Equal(want, Effective(adapter));
        double deviation = Math.Sqrt(v.Sum(x => x * x) / v.Length) * Math.Sqrt(3 * 500);
        Assert.InRange(deviation, 0.98, 1.02);
        Assert.InRange(adapter.Parameters[^1].Value.ToDoubles().Max(Math.Abs), 0, 1 / Math.Sqrt(400));
    }

    [Fact]
    public void At_the_start_a_has_no_gradient_and_alpha_scales_the_low_rank_part_alone()
    {
        using LinearLayers model = Open((12, 9)), other = Open((12, 9));
        using AdaptedModel adapted = model.Attach(Config), doubled = other.Attach(Config with { Alpha = 16 });
        Adapter adapter = adapted.Adapters[0];
        double[] sparse = Effective(adapter);
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Sites[0].Forward(tape.Of([6, 9], AdapterRow.Draw(new Rng(2), 54), DType.F64));
            tape.Backward(y, tape.Of(y.Shape, AdapterRow.Draw(new Rng(3), y.Shape.Count), DType.F64));
            Assert.All(adapter.Parameters[0].Gradient!.ToDoubles(), g => Assert.Equal(0, g));
            Assert.All(adapter.Parameters[1].Gradient!.ToDoubles(), g => Assert.NotEqual(0, g));
        }
        double[] b = AdapterRow.Draw(new Rng(4), 12 * 4);
        adapter.Parameters[1].Value.Set(b);
        doubled.Adapters[0].Parameters[1].Value.Set(b);
        double[] once = [.. Effective(adapter).Zip(sparse, (w, s) => w - s)], twice = [.. Effective(doubled.Adapters[0]).Zip(sparse, (w, s) => w - s)];
        Close.Check(twice, [.. once.Select(d => 2 * d)], Close.Golden64, "2·alpha");
    }

    // dW dense: dv is what lies at its places, dB = dW·(sigma·A)ᵀ, dA = sigma·Bᵀ·dW; so that a step moves W beside its places by the low-rank part alone.
    [Theory]
    [InlineData(DType.F64)]
    [InlineData(DType.F32)]
    public void Outputs_and_gradients_are_those_of_the_dense_weight(DType type)
    {
        using Device own = Devices.Open("cpu", type);
        using var model = new LinearLayers(own, type, ("l0", Shape.Of([12, 9]), new double[108], AdapterRow.Draw(new Rng(9), 12)));
        using AdaptedModel adapted = model.Attach(Config);
        Adapter adapter = adapted.Adapters[0];
        AdapterTests.Move(adapter);
        int[] places = Places(adapter).ToInts();
        (Parameter a, Parameter b, Parameter v) = (adapter.Parameters[0], adapter.Parameters[1], adapter.Parameters[2]);
        double bound = type == DType.F64 ? Close.Golden64 : Close.Identity;
        foreach (Shape shape in (Shape[])[[6, 9], [2, 3, 9]])
        {
            double[] x = AdapterRow.Draw(new Rng(2), 54), dy = AdapterRow.Draw(new Rng(3), 72);
            using Tape tape = own.BeginTape();
            Tensor w = adapter.EffectiveWeight(), y = model.Sites[0].Forward(tape.Of(shape, x, type));
            Tensor dense = new Linear().Apply(tape.Of(shape, x, type), w, adapter.Parameters[^1]);
            Close.Check(y.ToDoubles(), dense.ToDoubles(), bound, $"y of {shape}");
            tape.Backward(y, tape.Of(y.Shape, dy, type));
            Tensor dw = new MatMul(TransposeA: true).Apply(tape.Of([6, 12], dy, type), tape.Of([6, 9], x, type));
            double[] whole = dw.ToDoubles();
            Close.Check(v.Gradient!.ToDoubles(), [.. places.Select(p => whole[p])], bound, $"dv of {shape}");
            Close.Check(b.Gradient!.ToDoubles(), new MatMul(TransposeB: true, Scale: 2).Apply(dw, a).ToDoubles(), bound, $"dB of {shape}");
            Close.Check(a.Gradient!.ToDoubles(), new MatMul(TransposeA: true, Scale: 2).Apply(b, dw).ToDoubles(), bound, $"dA of {shape}");
            adapted.Parameters.ToList().ForEach(p => p.Gradient!.Fill(0));
        }
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 0.1 };
        for (int step = 0; step < 3; step++)
        {
            using Tape tape = own.BeginTape();
            Tensor y = model.Sites[0].Forward(tape.Of([6, 9], AdapterRow.Draw(new Rng(2), 54), type));
            tape.Backward(new SquaredError().Apply(y, tape.NewZeros(y.Shape, y.DType)));
            adapted.Step(optimizer);
        }
        Assert.Equal(places, Places(adapter).ToInts());
        using Scope scope = own.BeginScope();
        double[] beside = [.. adapter.EffectiveWeight().ToDoubles().Where((_, i) => !places.Contains(i))], low = [.. new MatMul(Scale: 2).Apply(b, a).ToDoubles().Where((_, i) => !places.Contains(i))];
        Close.Check(beside, low, bound, "W beside the places");
    }

    [Fact]
    public void No_row_and_no_column_is_empty_at_a_fifth()
    {
        using LinearLayers model = Open((64, 64));
        using AdaptedModel adapted = model.Attach(Config);
        int[] places = Places(adapted.Adapters[0]).ToInts();
        Assert.Equal((64, 64), (places.Select(p => p / 64).Distinct().Count(), places.Select(p => p % 64).Distinct().Count()));
    }

    [Fact]
    public void A_few_values_lift_a_low_rank_to_nearly_the_full_one()
    {
        const int side = 256, rank = 8;
        using LinearLayers model = Open((side, side));
        using AdaptedModel adapted = model.Attach(Config with { Rank = rank, Density = 0.03 });
        Adapter adapter = adapted.Adapters[0];
        double[] b = new double[side * rank];
        new Rng(5).FillNormal(b, 0, 1);
        adapter.Parameters[1].Value.Set(b);
        Assert.InRange(Rank(Effective(adapter)), 245, side);
        adapter.Parameters[2].Value.Set(new double[adapter.Parameters[2].Value.Shape.Count]);
        Assert.Equal(rank, Rank(Effective(adapter)));

        static int Rank(double[] w)
        {
            double[] u = new double[side * side], s = new double[side], vt = new double[side * side];
            Svd.Of(w.AsMatrix(side, side), u.AsMatrix(side, side), s, vt.AsMatrix(side, side));
            return s.Count(value => value > Close.Difference * s[0]);
        }
    }

    /// <summary>The sheet's recovery: with the places of the target the error is below 1 %, with others at least three times as large.</summary>
    [Fact]
    public void A_low_rank_and_a_few_values_are_found_where_the_places_are_known()
    {
        const int side = 64, rank = 4;
        SlTrainConfig config = Config with { Rank = rank, Alpha = rank, Density = 0.03 };
        using Device single = Devices.Open("cpu");
        double[] target;
        using (LinearLayers teacher = Zero(single, side))
        using (AdaptedModel made = teacher.Attach(config, seed: 1))
        {
            made.Parameters[1].Value.Set([.. AdapterRow.Draw(new Rng(6), side * rank).Select(v => v / 2)]);
            made.Parameters[2].Value.Set(AdapterRow.Draw(new Rng(7), made.Parameters[2].Value.Shape.Count));
            using Scope scope = single.BeginScope();
            target = made.Adapters[0].EffectiveWeight().ToDoubles();
        }
        double Error(ulong seed)
        {
            using LinearLayers student = Zero(single, side);
            using AdaptedModel adapted = student.Attach(config, seed);
            adapted.Parameters[0].Value.Set(AdapterRow.Draw(new Rng(8), side * rank));
            adapted.Parameters[2].Value.Fill(0);
            return Math.Sqrt(WeightFit.Run(adapted, target, steps: 2000, rate: 1e-2));
        }
        double known = Error(1), unknown = Error(2);
        Assert.InRange(known, 0, Close.Recovery);
        Assert.InRange(unknown, 3 * known, 1);

        static LinearLayers Zero(Device device, int side) => new(device, DType.F32, ("l0", Shape.Of([side, side]), new double[side * side], null));
    }

    [Fact]
    public void Counts_are_exact()
    {
        using Scope store = device.NewStore();
        var site = new Site("layer", SiteKind.Linear, new Parameter("layer.weight", store.New([4096, 4096], DType.BF16)), null);
        Assert.Equal(634_388, (Config with { Rank = 16, Density = 0.03 }).ParameterCount(site));
        Assert.Equal(634_389, (Config with { Rank = 16, Density = 0.03, TrainsScale = true }).ParameterCount(site));
    }

    [Fact]
    public void The_weights_that_it_replaces_can_be_freed_and_nothing_else_changes()
    {
        const int outputs = 40, inputs = 30;
        using var folder = new TemporaryFolder();
        using LinearLayers model = Open((outputs, inputs), (outputs, inputs)), second = Open((outputs, inputs), (outputs, inputs));
        using AdaptedModel adapted = model.Attach(Config, seed: 3);
        double[] before = Output(model);
        long bytes = device.Bytes, resident = model.ResidentBytes.Total;
        adapted.ReleaseBase();
        adapted.ReleaseBase();
        const long weights = 2L * outputs * inputs * sizeof(double);
        Assert.InRange(bytes - device.Bytes, weights, weights * 1.5);        // panels are padded
        Assert.InRange(resident - model.ResidentBytes.Total, weights, weights * 1.5);
        Assert.Equal(before, Output(model));
        using (var optimizer = new AdamW(adapted.Parameters))
        {
            using (Tape tape = device.BeginTape())
            {
                Tensor y = model.Sites[0].Forward(tape.Of([2, inputs], AdapterRow.Draw(new Rng(5), 2 * inputs)));
                tape.Backward(new SquaredError().Apply(y, tape.NewZeros(y.Shape, DType.F64)));
            }
            adapted.Step(optimizer);
        }
        double[] trained = Output(model);
        Assert.NotEqual(before, trained);
        adapted.SavePeft(folder.Path);
        using (AdaptedModel read = second.AttachPeft(folder.Path))
        {
            Assert.Equal(trained, Output(second));
            read.ReleaseBase();
            Assert.Equal(trained, Output(second));
        }
        adapted.Merge();
        Close.Check(Output(model), trained, Close.Bound(DType.F64), "merged");
        using (device.BeginScope())
        {
            Assert.Equal(Effective(adapted.Adapters[0]), model.Sites[0].WeightMatrix().ToDoubles());
        }
        adapted.Unmerge();
        Assert.Equal(trained, Output(model));
        Assert.Contains("Disable: the weights that SLTRAIN replaces were freed", Assert.Throws<InvalidOperationException>(adapted.Disable).Message, StringComparison.Ordinal);
        Assert.Equal(trained, Output(model));

        double[] Output(LinearLayers layers)
        {
            using Scope scope = device.BeginScope();
            return layers.Sites[0].Forward(scope.Of([3, inputs], AdapterRow.Draw(new Rng(4), 3 * inputs))).ToDoubles();
        }
    }

    [Fact]
    public void Weights_that_are_read_or_shared_are_not_freed()
    {
        using LinearLayers model = Open((8, 6));
        using (AdaptedModel lora = model.Attach(new LoraConfig { Targets = "l.*", Rank = 2 }))
        {
            Assert.False(lora.ReplacesBase);
            Assert.Contains("LORA on l0 computes with the layer's weight", Assert.Throws<InvalidOperationException>(lora.ReleaseBase).Message, StringComparison.Ordinal);
        }
        using AdaptedModel adapted = model.Attach(Config);
        adapted.Merge();
        Assert.Contains("the adapters are merged, want them in place; call Unmerge first", Assert.Throws<InvalidOperationException>(adapted.ReleaseBase).Message, StringComparison.Ordinal);
        adapted.Unmerge();
        Assert.True(model.Sites[0].Weight.Value.IsAlive);
        adapted.ReleaseBase();
        adapted.Dispose();
        using Scope scope = device.BeginScope();
        Assert.Contains("it was freed", Assert.Throws<ObjectDisposedException>(() => model.Sites[0].Forward(scope.NewZeros([2, 6], DType.F64))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Places_that_are_missing_unsorted_or_outside_are_refused()
    {
        using var folder = new TemporaryFolder();
        using LinearLayers model = Open((8, 6));
        void Save(Action<int[]> change)
        {
            using AdaptedModel adapted = model.Attach(Config);
            int[] places = Places(adapted.Adapters[0]).ToInts();
            change(places);
            Places(adapted.Adapters[0]).Set([.. places.Select(p => (double)p)]);
            adapted.SavePeft(folder.Path);
        }
        string Refusal() => Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message;
        Save(places => places[^1] = 48);
        Assert.Contains("has place 48 in l0.sltrain_idx, want 0 .. 47", Refusal(), StringComparison.Ordinal);
        Save(places => places[1] = places[0]);
        Assert.Contains("want them sorted and each once", Refusal(), StringComparison.Ordinal);
        Assert.Null(model.Sites[0].Adapter);
        Save(_ => { });
        string path = Path.Combine(folder.Path, PeftFolder.ModelFile);
        List<TensorData> kept;
        using (Scope scope = device.BeginScope())
        {
            using (SafeTensorsFile file = SafeTensorsFile.Open(path))
            {
                kept = [.. file.Entries.Where(e => !e.Name.EndsWith("idx", StringComparison.Ordinal)).Select(e => TensorData.Of(e.Name, file.Load(e.Name, scope)))];
            }
            SafeTensorsFile.Save(path, kept, new Dictionary<string, string> { ["format"] = "pt" });
        }
        Assert.Contains("lacks 1 of 5 tensors that the config asks for on this model: base_model.model.l0.sltrain_idx [9]", Refusal(), StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named_and_nothing_is_attached(string message, SlTrainConfig config)
    {
        using LinearLayers model = Open((8, 6));
        Assert.Contains(message, Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
        Assert.Null(model.Sites[0].Adapter);
    }

    [Fact]
    public void A_convolution_is_refused()
    {
        using var model = new OneLayer(device, DType.F64, SiteKind.Conv2d, [2, 2, 3, 3], new double[36]);
        Assert.Contains("a layer of kind Conv2d, want layers of kind Linear", Assert.Throws<AdapterConfigException>(() => model.Attach(Config)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_input_of_another_width_is_refused()
    {
        using LinearLayers model = Open((8, 6));
        using AdaptedModel adapted = model.Attach(Config);
        using Scope scope = device.BeginScope();
        Assert.Contains("x is [2, 5], want [..., 6]", Assert.Throws<ShapeException>(() => model.Sites[0].Forward(scope.NewZeros([2, 5], DType.F64))).Message, StringComparison.Ordinal);
    }

    public void Dispose() => device.Dispose();

    private LinearLayers Open(params (int Outputs, int Inputs)[] sizes) =>
        new(device, DType.F64, sizes.Select((s, i) => ($"l{i}", Shape.Of([s.Outputs, s.Inputs]), AdapterRow.Draw(new Rng((ulong)i), s.Outputs * s.Inputs), (double[]?)AdapterRow.Draw(new Rng(9), s.Outputs))));

    private static AdaptedModel Again(LinearLayers model, AdaptedModel first, ulong seed)
    {
        first.Disable();
        return new AdaptedModel(model, Config, seed, shares: true);
    }

    private double[] Effective(Adapter adapter)
    {
        using Scope scope = device.BeginScope();
        return adapter.EffectiveWeight().ToDoubles();
    }

    private static Tensor Places(Adapter adapter)
    {
        using Scope scope = adapter.Site.Weight.Value.Device.BeginScope();
        return adapter.Saved(false, scope).Single(s => s.Suffix == "sltrain_idx").Value;
    }
}
