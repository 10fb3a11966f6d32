using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What must hold of WaRA, by the list of its sheet, and what is refused.</summary>
public sealed class WaraTests : IDisposable
{
    private const string Shared = "shared", Subband = "subband";
    private static readonly WaraConfig Wara = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private readonly Device device = Devices.Open("cpu");
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string, WaraConfig> Forms => new()
    {
        { "shared haar", Wara with { Wavelet = "haar" } },
        { "shared db2", Wara },
        { "shared db2 J 2", Wara with { Levels = 2 } },
        { "subband haar", Wara with { Mode = Subband } },
        { "subband db2 J 2", Wara with { Mode = Subband, Wavelet = "db2", Levels = 2, PhaseShift = 1, Rank = 2 } },
    };

    public static TheoryData<string, WaraConfig> Settings => new()
    {
        { "WaraConfig: r is 0, want a whole number of at least 1", Wara with { Rank = 0 } },
        { "WaraConfig: mode is both, want shared or subband", Wara with { Mode = "both" } },
        { "WaraConfig: levels is 0, want 1 .. 16", Wara with { Levels = 0 } },
        { "WaraConfig: wavelet is db99, want an orthonormal one: haar, db2,", Wara with { Wavelet = "db99" } },
        { "WaraConfig: wavelet is bior2.2, want an orthonormal one", Wara with { Wavelet = "bior2.2" } },
        { "WaraConfig: alpha is NaN, want a finite number", Wara with { Alpha = double.NaN } },
        { "WaraConfig: wara_dropout is 1, want 0 or more", Wara with { Dropout = 1 } },
        { "WaraConfig: ranks is of a band LL1, want none in mode shared", Wara with { Ranks = Of("LL1", 2) } },
        { "WaraConfig: ranks is of a band LL1, want bands of LL2, LH2, HL2, HH2, LH1, HL1, HH1", Wara with { Mode = Subband, Levels = 2, Ranks = Of("LL1", 2) } },
        { "WaraConfig: ranks LL1 is 1.5, want a whole number", Wara with { Mode = Subband, Ranks = Of("LL1", 1.5) } },
        { "WaraConfig: levels is 4 on layer with out = 24, want out a multiple of 16, or pad true", Wara with { Levels = 4 } },
        { "WaraConfig: wavelet is db7 of 14 taps on layer with out = 24, want at least 28 for levels 2", Wara with { Levels = 2, Wavelet = "db7" } },
        { "WaraConfig: r is 13 on layer, want at most 12, the smaller side of its band", Wara with { Rank = 13 } },
        { "WaraConfig: r is 9 of HH2 on layer, want at most 6", Wara with { Mode = Subband, Levels = 2, Ranks = Of("HH2", 9) } },
        { "WaraConfig: target_modules names words, a layer of kind Embedding, want layers of kind Linear", Wara with { Targets = ["words"] } },
    };

    public void Dispose()
    {
        folder.Dispose();
        device.Dispose();
    }

    [Theory, MemberData(nameof(Forms))]
    public void The_delta_has_the_rank_and_the_energy_of_its_bands(string name, WaraConfig config)
    {
        using OneLayer model = Layer(32, 24);
        using AdaptedModel adapted = Moved(model, config);
        double[] delta = Delta(model, adapted);
        using Scope scope = device.BeginScope();
        double[] s = Svd.Of(scope.Of([32, 24], delta), scope).S.ToDoubles();
        int rank = config.Mode == Shared ? config.Rank << config.Levels : config.Rank * ((3 * config.Levels) + 1);
        Assert.True(Math.Min(24, rank) == s.Count(v => v > Close.Golden64 * s[0]), $"{name}: {string.Join(", ", s)}");
        // Parseval: the bands' energies, a shared one as often as it stands on the diagonal.
        double energy = adapted.Parameters.Chunk(2).Sum(pair => new MatMul().Apply(pair[1], pair[0]).ToDoubles().Sum(v => v * v));
        double scale = config.Alpha / config.Rank;
        Assert.Equal(1, delta.Sum(v => v * v) / (scale * scale * energy * (config.Mode == Shared ? 1 << config.Levels : 1)), Close.Golden64);
    }

    [Fact]
    public void Shared_haar_is_a_kronecker_product_and_longer_filters_are_none()
    {
        foreach (string wavelet in (string[])["haar", "db2"])
        {
            using OneLayer model = Layer(24, 16);
            using AdaptedModel adapted = Moved(model, Wara with { Wavelet = wavelet });
            double[] delta = Delta(model, adapted), kron = new double[24 * 16];
            using Scope scope = device.BeginScope();
            double[] product = new MatMul(Scale: 2).Apply(adapted.Parameters[1], adapted.Parameters[0]).ToDoubles();     // [12, 8]
            for (int i = 0; i < 24; i++)
            {
                for (int j = i % 2; j < 16; j += 2)
                {
                    kron[(i * 16) + j] = product[(i / 2 * 8) + (j / 2)];
                }
            }
            double error = Close.Error(delta, kron);
            Assert.True(wavelet == "haar" ? error < Close.Golden64 : error > 0.1, $"{wavelet}: {error}");
        }
    }

    [Fact]
    public void A_transform_over_tokens_and_back_changes_nothing()
    {
        const int tokens = 8;
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [24, 16], new double[24 * 16]);
        using AdaptedModel adapted = Moved(model, Wara);
        using Scope scope = device.BeginScope();
        Tensor x = scope.Of([tokens, 16], AdapterRow.Draw(new Rng(3), tokens * 16)), identity = scope.Of([tokens / 2, tokens / 2], [.. Enumerable.Range(0, tokens * tokens / 4).Select(i => i % 5 == 0 ? 1.0 : 0)]);
        Tensor h = new WaveletLift(Wavelet.Of("db2"), 0, tokens, 0b10).Apply(identity, identity);
        Tensor back = new MatMul(TransposeA: true).Apply(h, model.Site.Forward(new MatMul().Apply(h, x)));
        Close.Check(back.ToDoubles(), model.Site.Forward(x).ToDoubles(), Close.Bound(DType.F64), "tokens");
    }

    [Fact]
    public void Shared_is_subband_with_tied_diagonal_bands_and_the_others_zero()
    {
        using OneLayer one = Layer(24, 16), other = Layer(24, 16);
        using AdaptedModel shared = Moved(one, Wara), bands = Moved(other, Wara with { Mode = Subband, Wavelet = "db2" });
        foreach (Parameter p in bands.Parameters)
        {
            string name = bands.Adapters[0].Suffix(p);
            p.Value.Set(name.EndsWith("LL1", StringComparison.Ordinal) || name.EndsWith("HH1", StringComparison.Ordinal)
                ? shared.Parameters[name.Contains("_A_", StringComparison.Ordinal) ? 0 : 1].Value.ToDoubles() : new double[p.Value.Shape.Count]);
        }
        Close.Check(Delta(other, bands), Delta(one, shared), Close.Golden64, "tied bands");
    }

    [Theory]
    [InlineData(65_536, Shared, 1, 16, 0)]
    [InlineData(32_768, Shared, 2, 16, 0)]
    [InlineData(262_144, Subband, 1, 16, 0)]
    [InlineData(131_072, Subband, 1, 8, 0)]
    [InlineData(114_688, Subband, 1, 4, 16)]
    public void Counts_are_those_of_the_sheet(long count, string mode, int levels, int rank, int coarse)
    {
        using var model = new OneLayer(device, DType.BF16, SiteKind.Linear, [4096, 4096], new double[1 << 24]);
        WaraConfig config = Wara with { Mode = mode, Levels = levels, Rank = rank, Ranks = coarse > 0 ? Of("LL1", coarse) : new Dictionary<string, double>() };
        using AdaptedModel adapted = model.Attach(config);
        Assert.Equal((count, count), (config.ParameterCount(model.Site), adapted.Parameters.Sum(p => p.Value.Shape.Count)));
        Assert.Equal(131_072, new LoraConfig { Rank = 16 }.ParameterCount(model.Site));      // beside LoRA's
    }

    [Theory, MemberData(nameof(Forms))]
    public void Files_and_plain_lora_give_the_same_layer(string name, WaraConfig config)
    {
        using OneLayer model = Layer(32, 24);
        double[] want;
        string own = Path.Combine(folder.Path, "own"), plain = Path.Combine(folder.Path, "plain");
        using (AdaptedModel adapted = Moved(model, config with { PhaseShift = 3 }))
        {
            want = Delta(model, adapted);
            adapted.SavePeft(own);
            adapted.SaveLora(plain);
        }
        foreach (string path in (string[])[own, plain])
        {
            using AdaptedModel read = model.AttachPeft(path);
            Assert.Empty(read.Warnings);
            Close.Check(Delta(model, read), want, path == own ? 0 : Close.Bound(DType.F64), $"{name} from {path}");
        }
        string text = File.ReadAllText(Path.Combine(own, PeftFolder.ConfigFile));
        string other = config.Mode == Shared ? Subband : Shared;
        File.WriteAllText(Path.Combine(own, PeftFolder.ConfigFile), text.Replace($"\"{config.Mode}\"", $"\"{other}\"", StringComparison.Ordinal));
        Assert.Contains("tensors that the config asks for on this model: base_model.model.layer.wara_A_", Assert.Throws<ModelFormatException>(() => model.AttachPeft(own)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Coarse_and_local_parts_of_an_update_are_found()
    {
        const int n = 32, block = 8, steps = 1000;
        var rng = new Rng(9);
        double[] left = AdapterRow.Draw(rng.Fork("l"), 2 * n / block), right = AdapterRow.Draw(rng.Fork("r"), 2 * n / block), target = new double[n * n];
        double smooth = 0;
        for (int i = 0; i < n * n; i++)
        {
            (int row, int col) = (i / n, i % n);
            target[i] = (left[2 * (row / block)] * right[2 * (col / block)]) + (left[(2 * (row / block)) + 1] * right[(2 * (col / block)) + 1]);
            smooth += target[i] * target[i];
        }
        using (Scope scope = device.BeginScope())
        {
            WaveletLayout layout = new(Wavelet.Of("haar"), WaveletMode.Periodization, 1, n, n);
            WaveletPlace coarse = layout[1, WaveletBand.Approximation];
            double kept = new Wavelet2(layout.Wavelet, layout.Mode, 1).Apply(scope.Of([n, n], target)).Slice(coarse.Offset, coarse.Count).ToDoubles().Sum(v => v * v);
            Assert.InRange(kept / smooth, 0.9, 1 + Close.Bound(DType.F64));
        }
        for (int i = 0; i < 16; i++)
        {
            target[((12 + (i / 4)) * n) + 4 + (i % 4)] += ((i / 4) + i) % 2 == 0 ? 1 : -1;
        }
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [n, n], new double[n * n]);
        using AdaptedModel adapted = model.Attach(Wara with { Mode = Subband, Rank = 2, Alpha = 2 });
        using var optimizer = new AdamW(adapted.Parameters) { WeightDecay = 0 };
        for (int k = 0; k < steps; k++)
        {
            optimizer.LearningRate = 0.05 * (1 - ((double)k / steps));
            using Tape tape = device.BeginTape();
            tape.Backward(new SquaredError(n).Apply(adapted.Adapters[0].EffectiveWeight(), tape.Of([n, n], target)));
            adapted.Step(optimizer);
        }
        Assert.InRange(Close.Error(Delta(model, adapted), target), 0, 0.01);
    }

    [Theory, MemberData(nameof(Settings))]
    public void What_is_wrong_is_named(string message, WaraConfig config)
    {
        using var model = new Words(device);
        Assert.StartsWith(message, Assert.Throws<AdapterConfigException>(() => model.Attach(config)).Message, StringComparison.Ordinal);
    }

    private static Dictionary<string, double> Of(string band, double rank) => new() { [band] = rank };

    private OneLayer Layer(int outputs, int inputs) => new(device, DType.F64, SiteKind.Linear, [outputs, inputs], AdapterRow.Draw(new Rng(1), outputs * inputs));

    private static AdaptedModel Moved(OneLayer model, WaraConfig config)
    {
        AdaptedModel adapted = model.Attach(config);
        foreach (Parameter p in adapted.Parameters)
        {
            p.Value.Set(AdapterRow.Draw(new Rng(2).Fork(p.Name), p.Value.Shape.Count));
        }
        return adapted;
    }

    private double[] Delta(OneLayer model, AdaptedModel adapted)
    {
        using Scope scope = device.BeginScope();
        return new Add(-1).Apply(adapted.Adapters[0].EffectiveWeight(), model.Site.WeightMatrix()).ToDoubles();
    }

    /// <summary>A linear layer and an embedding.</summary>
    private sealed class Words : Model
    {
        public Words(Device device)
            : base(device, DType.F64)
        {
            Add(new Site("layer", SiteKind.Linear, Add("layer.weight", Store.NewZeros([24, 32], DType.F64)), null));
            Add(new Site("words", SiteKind.Embedding, Add("words.weight", Store.NewZeros([6, 8], DType.F64)), null));
        }
    }
}
