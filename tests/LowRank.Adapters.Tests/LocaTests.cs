using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>LoCA beyond its golden cases: the schedule, what coefficients can express and find, runs that are resumed inside a phase, and bad settings.</summary>
public sealed class LocaTests : IDisposable
{
    private static readonly LocaConfig Loca = new() { Targets = ["layer"], Coefficients = 8 };
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<string, LocaConfig> Settings => new()
    {
        { "n_frequency is 0, want a whole number of at least 1", Loca with { Coefficients = 0 } },
        { "n_frequency is 127, want 1 .. 126, the elements of layer [9, 14]", Loca with { Coefficients = 127 } },
        { "learn_location_iter is -1, want 0 or more", Loca with { LocationIterations = -1 } },
        { "coefficient_steps is 0, want a whole number of at least 1", Loca with { CoefficientSteps = 0 } },
        { "location_steps is -2, want 0 or more", Loca with { LocationSteps = -2 } },
        { "location_rate is NaN, want 0 or more", Loca with { LocationRate = double.NaN } },
        { "scale is Infinity, want a finite number", Loca with { Scale = double.PositiveInfinity } },
        { "loca_dropout is 1, want 0 or more and less than 1", Loca with { Dropout = 1 } },
        { "dct_mode is slow, want default, sparse or fast", Loca with { Mode = "slow" } },
    };

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named(string message, LocaConfig config)
    {
        using OneLayer model = Layer(9, 14);
        Assert.Equal($"LocaConfig: {message}", Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message);
        Assert.Null(model.Site.Adapter);
    }

    [Fact]
    public void Layers_that_are_not_linear_are_refused()
    {
        using var model = new OneLayer(device, DType.F32, SiteKind.Conv2d, [6, 4, 3, 3], new double[216]);
        Assert.Contains("a layer of kind Conv2d, want layers of kind Linear", Assert.Throws<AdapterConfigException>(() => model.Attach(Loca)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(65, "aaaaaaaaaauuuuuuuuuuuuuuuuuuuuaaaaaaaaaauuuuuuuuuuuuuuuuuuuuaaaaaaaaaaa")]
    [InlineData(15, "aaaaaaaaaauuuuuaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
    [InlineData(0, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
    public void Coefficients_and_places_take_turns(int until, string phases) =>
        Assert.Equal(phases, string.Concat(Enumerable.Range(0, phases.Length).Select(step => (Loca with { LocationIterations = until }).MovesLocations(step) ? 'u' : 'a')));

    [Fact]
    public void Places_follow_the_formula_up_to_the_border_and_stay_beyond_it()
    {
        const int m = 9, n = 14, tokens = 5;
        using Device wide = Devices.Open("cpu", DType.F64);
        using var model = new OneLayer(wide, DType.F64, SiteKind.Linear, [m, n], AdapterRow.Draw(new Rng(5), m * n));
        using AdaptedModel adapted = model.Attach(Loca with { Scale = 0.5 });
        // Both first cells, both last, two coefficients at one cell, a place below and one above, a coefficient whose step is clipped, one inside.
        double[] rows = [0, 0.9985, 3 / 8.0, 3 / 8.0, -0.2, 0.5, 0.25, 0.75], cols = [0, 0.9985, 5 / 13.0, 5 / 13.0, 0.5, 1.3, 0.25, 10 / 13.0], a = [1, -0.5, 0.25, 0.75, 1, 1, 1e6, -0.1];
        adapted.Parameters[0].Value.Set([.. rows, .. cols]);
        adapted.Parameters[1].Value.Set(a);
        adapted.Parameters[0].Frozen = adapted.Parameters[1].Frozen = false;
        using Tape tape = wide.BeginTape();
        Tensor x = tape.Of([tokens, n], AdapterRow.Draw(new Rng(1), tokens * n)), dy = tape.Of([tokens, m], AdapterRow.Draw(new Rng(2), tokens * m));
        double[] k = new Dct2().Apply(new MatMul(TransposeA: true, Scale: 0.5).Apply(dy, x)).ToDoubles();
        tape.Backward(model.Site.Forward(x), dy);
        double[] da = adapted.Parameters[1].Gradient!.ToDoubles(), du = adapted.Parameters[0].Gradient!.ToDoubles();
        int Cell(double u, int size) => (int)Math.Round(Math.Clamp(u, 0, 0.999) * (size - 1), MidpointRounding.ToEven);
        double At(int i, int j) => k[(Math.Clamp(i, 0, m - 1) * n) + Math.Clamp(j, 0, n - 1)];
        (int Row, int Col)[] cells = [.. rows.Zip(cols, (u, v) => (Cell(u, m), Cell(v, n)))];
        Close.Check(da, [.. cells.Select(c => At(c.Row, c.Col))], Close.Golden64, "da");
        Assert.Equal(da[2], da[3]);
        double Step(double u, double difference, int size) => u is >= 0 and <= 0.999 ? (size - 1) * Math.Clamp(0.5 * difference, -1, 1) : 0;
        double[] want =
        [
            .. cells.Select((c, j) => Step(rows[j], a[j] * (At(c.Row + 1, c.Col) - At(c.Row - 1, c.Col)), m)),
            .. cells.Select((c, j) => Step(cols[j], a[j] * (At(c.Row, c.Col + 1) - At(c.Row, c.Col - 1)), n)),
        ];
        Close.Check(du, want, Close.Golden64, "du");
        Assert.Equal((0.0, 0.0), (du[4], du[8 + 5]));
        Assert.Equal((m - 1.0, n - 1.0), (Math.Abs(du[6]), Math.Abs(du[8 + 6])));
        Assert.All([du[0], du[1], du[8], du[8 + 1], du[8 + 4], du[5]], g => Assert.NotEqual(0, g));
        double[] outside = adapted.Adapters[0].EffectiveWeight().ToDoubles();
        adapted.Parameters[0].Value.Set([.. rows.Concat(cols).Select(u => Math.Clamp(u, 0, 1))]);
        Assert.Equal(adapted.Adapters[0].EffectiveWeight().ToDoubles(), outside);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void Places_and_coefficients_that_are_not_numbers_are_refused(int which)
    {
        using var folder = new TemporaryFolder();
        using OneLayer model = Layer(9, 14);
        using (AdaptedModel adapted = model.Attach(Loca))
        {
            Tensor value = adapted.Parameters[which].Value;
            value.Set([.. value.ToDoubles().Select((v, i) => i == 3 ? double.NaN : v)]);
            Assert.Contains("LOCA on layer gives NaN or infinity", Assert.Throws<InvalidOperationException>(adapted.Merge).Message, StringComparison.Ordinal);
            adapted.SavePeft(folder.Path);
        }
        string name = which == 0 ? "layer.loca_spectrum_indices" : "layer.loca_spectrum,";
        Assert.Contains($"has NaN or infinity in {name}", Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path)).Message, StringComparison.Ordinal);
        Assert.Null(model.Site.Adapter);
    }

    [Fact]
    public void The_rank_is_that_of_the_places()
    {
        foreach ((int count, int rank) in ((int, int)[])[(3, 3), (7, 7), (12, 7), (14, 7)])
        {
            using OneLayer model = Layer(9, 7, zero: true);
            using AdaptedModel adapted = model.Attach(Loca with { Coefficients = count });
            adapted.Parameters[0].Value.Set([.. At(count, i => i % 7, 9), .. At(count, i => (i + (i / 7)) % 7, 7)]);
            adapted.Parameters[1].Value.Set([.. Enumerable.Range(0, count).Select(i => 1 + (0.1 * i))]);
            using Scope scope = device.BeginScope();
            double[] values = Svd.Of(adapted.Adapters[0].EffectiveWeight(), scope).S.ToDoubles();
            Assert.Equal(rank, values.Count(v => v > Close.Layer * values[0]));
        }
    }

    // What a choice of places is worth: of a random matrix the largest 1/16 of the coefficients hold a third of the energy, any 1/16 of them 1/16, and as many
    // numbers in factors of rank 8 a ninth.
    [Fact]
    public void The_largest_coefficients_hold_more_than_factors_of_as_many_numbers()
    {
        const int n = 256, count = 4096;
        var values = new double[n * n];
        new Rng(6).FillNormal(values, 0, 1);
        using Scope scope = device.BeginScope();
        Tensor x = scope.Of([n, n], values, DType.F32);
        double[] energy = [.. new Dct2().Apply(x).ToDoubles().Select(v => v * v)];
        double total = energy.Sum();
        Assert.InRange(energy.OrderDescending().Take(count).Sum() / total, 0.315, 0.335);
        Assert.InRange(new Rng(7).Permutation(n * n).Take(count).Sum(i => energy[i]) / total, 0.0575, 0.0675);
        Assert.InRange(Svd.Of(x, scope).S.ToDoubles().Take(8).Sum(v => v * v) / total, 0, 0.13);
    }

    [Fact]
    public void Coefficients_at_known_places_are_recovered()
    {
        const int n = 32, count = 20;
        using OneLayer model = Layer(n, n, zero: true);
        using AdaptedModel adapted = model.Attach(Loca with { Coefficients = count, LocationIterations = 0 });
        double[] places = [.. At(count, i => (7 * i) % n, n), .. At(count, i => (11 * i) % n, n)];
        adapted.Parameters[0].Value.Set(places);
        double[] target, input = new double[256 * n];
        new Rng(3).FillNormal(input, 0, 1);
        using (Scope scope = device.BeginScope())
        {
            Tensor a = scope.Of([count], [.. Enumerable.Range(0, count).Select(i => i % 2 == 0 ? 1.0 : -0.5)], DType.F32);
            Tensor w = new SparseDct(n, n, 1).Apply(a, scope.Of([2, count], places, DType.F32));
            target = new Linear().Apply(scope.Of([256, n], input, DType.F32), w).ToDoubles();
        }
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 5e-2, WeightDecay = 0 };
        double loss = 1;
        for (int step = 0; step < 300; step++)
        {
            loss = Train(model, adapted, optimizer, input, target);
        }
        Assert.True(loss < 1e-8, $"the loss is {loss}");
    }

    [Fact]
    public void A_place_moves_to_the_cell_next_to_it_within_a_phase()
    {
        const int n = 16;
        using OneLayer model = Layer(n, n, zero: true);
        using AdaptedModel adapted = model.Attach(Loca with { Coefficients = 1, CoefficientSteps = 1, LocationRate = 1 });
        adapted.Parameters[0].Value.Set([5.0 / 15, 4.0 / 15]);
        adapted.Parameters[1].Value.Set([1.0]);
        double[] input = new double[64 * n], target;
        new Rng(3).FillNormal(input, 0, 1);
        using (Scope scope = device.BeginScope())
        {
            Tensor w = new SparseDct(n, n, 1).Apply(scope.Of([1], [1f]), scope.Of([2, 1], [6f / 15, 4f / 15]));
            target = new Linear().Apply(scope.Of([64, n], input, DType.F32), w).ToDoubles();
        }
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 5e-3, WeightDecay = 0 };
        adapted.Steps = 1;      // the first of the twenty steps of places
        for (int step = 0; step < 20; step++)
        {
            Train(model, adapted, optimizer, input, target);
        }
        Assert.Equal((6, 4), (Cell(0), Cell(1)));

        int Cell(int side) => (int)Math.Round(adapted.Parameters[0].Value.ToArray()[side] * (n - 1), MidpointRounding.ToEven);
    }

    // What a phase freezes takes no step: neither decay nor moments, nor does its count of steps go on. All of that is in the optimiser's state.
    [Theory]
    [InlineData(4)]
    [InlineData(7)]
    public void A_run_resumed_inside_a_phase_ends_with_the_same_bits(int at)
    {
        const int steps = 13;
        LocaConfig config = Loca with { CoefficientSteps = 3, LocationSteps = 3, LocationIterations = 11, LocationRate = 1, Dropout = 0.25 };
        double[] input = AdapterRow.Draw(new Rng(1), 6 * 14), target = AdapterRow.Draw(new Rng(2), 6 * 9);
        using OneLayer first = Layer(9, 14), second = Layer(9, 14), third = Layer(9, 14);
        using AdaptedModel whole = first.Attach(config), begun = second.Attach(config), resumed = third.Attach(config);
        using var all = new AdamW(whole.Parameters) { LearningRate = 0.05 };
        using var some = new AdamW(begun.Parameters) { LearningRate = 0.05 };
        using var rest = new AdamW(resumed.Parameters) { LearningRate = 0.05 };
        for (int step = 0; step < steps; step++)
        {
            byte[][] before = [.. whole.Parameters.Select(p => p.Value.ToBytes())];
            bool places = config.MovesLocations(step);
            Train(first, whole, all, input, target);
            Assert.Equal((places, !places), (!before[0].AsSpan().SequenceEqual(whole.Parameters[0].Value.ToBytes()), !before[1].AsSpan().SequenceEqual(whole.Parameters[1].Value.ToBytes())));
        }
        for (int step = 0; step < at; step++)
        {
            Train(second, begun, some, input, target);
        }
        foreach ((Parameter to, Parameter from) in resumed.Parameters.Zip(begun.Parameters))
        {
            to.Value.CopyFrom(from.Value);
        }
        Dictionary<string, byte[]> state = some.State().ToDictionary(s => s.Name, s => s.Value.ToBytes());
        rest.Restore(some.Steps, [.. some.Pack.StateNames], (name, tensor) => tensor.SetRaw(state[name]));
        resumed.Steps = begun.Steps;
        for (int step = at; step < steps; step++)
        {
            Train(third, resumed, rest, input, target);
        }
        Assert.Equal(whole.Parameters.Select(p => p.Value.ToBytes()), resumed.Parameters.Select(p => p.Value.ToBytes()));
        Assert.Equal(all.State().Select(s => (s.Name, Convert.ToHexString(s.Value.ToBytes()))), rest.State().Select(s => (s.Name, Convert.ToHexString(s.Value.ToBytes()))));
    }

    public void Dispose() => device.Dispose();

    private static IEnumerable<double> At(int count, Func<int, int> place, int n) => Enumerable.Range(0, count).Select(i => place(i) / (n - 1.0));

    private static double Train(OneLayer model, AdaptedModel adapted, AdamW optimizer, double[] input, double[] target)
    {
        using Tape tape = model.Device.BeginTape();
        Tensor x = tape.Of([input.Length / model.Site.Inputs, model.Site.Inputs], input, DType.F32);
        Tensor loss = new SquaredError().Apply(model.Site.Forward(x), tape.Of([x.Shape[0], model.Site.Outputs], target, DType.F32));
        double value = loss.Item();
        tape.Backward(loss);
        adapted.Step(optimizer);
        return value;
    }

    private OneLayer Layer(int outputs, int inputs, bool zero = false) =>
        new(device, DType.F32, SiteKind.Linear, [outputs, inputs], zero ? new double[outputs * inputs] : AdapterRow.Draw(new Rng(5), outputs * inputs));
}
