using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Inits that read the base weight: W_eff = W at the start, what A and B are made of, and the base as it was when the adapter goes.</summary>
public class StartTests
{
    private const int Outputs = 40, Inputs = 56, Rank = 4;
    private static readonly string[] Inits = ["pissa", "pissa_niter_4", "olora", "orthogonal", "gaussian"];
    private static readonly DType[] Types = [DType.F32, DType.F64, DType.BF16];

    public static TheoryData<string, DType> Rows => [.. Inits.SelectMany(init => Types.Select(type => (init, type)))];

    [Theory, MemberData(nameof(Rows))]
    public void An_adapter_starts_at_the_base_and_gives_it_back(string init, DType type)
    {
        using Device device = Devices.Open("cpu");
        using OneLayer model = Layer(device, type);
        Tensor before = model.Site.Weight.Value;
        byte[] bytes = before.ToBytes();
        Assert.Equal(type != DType.F64, before.IsPacked);
        using (AdaptedModel adapted = model.Attach(Config(init)))
        {
            Assert.Equal(LoraInit.Of(init).ChangesBase, !model.Site.Weight.Value.ToBytes().SequenceEqual(bytes));
            Assert.Equal(before.IsPacked, model.Site.Weight.Value.IsPacked);
            using Scope scope = device.BeginScope();
            Close.Check(adapted.Adapters[0].EffectiveWeight().ToDoubles(), before.ToDoubles(), type == DType.F32 ? Close.Layer : Close.Bound(type), $"W_eff of {init}");
            adapted.Disable();
            Assert.Equal(bytes, model.Site.Weight.Value.ToBytes());
            adapted.Enable();
            adapted.Merge();
            adapted.Unmerge();
        }
        Assert.Same(before, model.Site.Weight.Value);
        Assert.Equal(bytes, before.ToBytes());
    }

    [Fact]
    public void Pissa_takes_the_largest_components()
    {
        using Device device = Devices.Open("cpu");
        using OneLayer model = Layer(device, DType.F64);
        using Scope scope = device.BeginScope();
        double[] values = Svd.Of(model.Site.Weight.Value, scope).S.ToDoubles();
        using AdaptedModel adapted = model.Attach(Config("pissa"));
        double[] rest = Svd.Of(model.Site.Weight.Value, scope).S.ToDoubles();
        Close.Check(rest, [.. values.Skip(Rank), .. new double[Rank]], Close.Layer, "singular values of the residual");
        double scale = Config("pissa").ScaleOf(model.Site);
        double[] diagonal = [.. Enumerable.Range(0, Rank * Rank).Select(i => i / Rank == i % Rank ? values[i / Rank] / scale : 0)];
        Parameter a = adapted.Parameters[0], b = adapted.Parameters[1];
        Close.Check(new MatMul(TransposeB: true).Apply(a, a).ToDoubles(), diagonal, Close.Layer, "A·Aᵀ");
        Close.Check(new MatMul(TransposeA: true).Apply(b, b).ToDoubles(), diagonal, Close.Layer, "Bᵀ·B");
    }

    [Fact]
    public void Randomised_pissa_nears_the_exact_one_and_repeats_itself()
    {
        using Device device = Devices.Open("cpu");
        using OneLayer model = Layer(device, DType.F32);
        double[] Residual(string init)
        {
            using AdaptedModel adapted = model.Attach(Config(init), seed: 3);
            return model.Site.Weight.Value.ToDoubles();
        }
        Close.Check(Residual("pissa_niter_8"), Residual("pissa"), Close.RandomizedStart, "residual");
        Assert.Equal(Residual("pissa_niter_2"), Residual("pissa_niter_2"));
    }

    [Fact]
    public void Olora_is_orthonormal_and_orthogonal_cancels()
    {
        using Device device = Devices.Open("cpu");
        using OneLayer model = Layer(device, DType.F64);
        using Scope scope = device.BeginScope();
        double[] identity = [.. Enumerable.Range(0, Rank * Rank).Select(i => i / Rank == i % Rank ? 1.0 : 0)];
        using (AdaptedModel adapted = model.Attach(Config("olora")))
        {
            Close.Check(new MatMul(TransposeA: true).Apply(adapted.Parameters[1], adapted.Parameters[1]).ToDoubles(), identity, Close.Layer, "Bᵀ·B");
        }
        using (AdaptedModel adapted = model.Attach(Config("orthogonal")))
        {
            Assert.All(adapted.Parameters, p => Assert.Contains(p.Value.ToDoubles(), v => v != 0));
            Close.Check(new MatMul().Apply(adapted.Parameters[1], adapted.Parameters[0]).ToDoubles(), new double[Outputs * Inputs], Close.Layer, "B·A");
        }
    }

    [Fact]
    public void What_an_init_cannot_start_from_is_named()
    {
        using Device device = Devices.Open("cpu");
        using OneLayer model = Layer(device, DType.F32), table = new(device, DType.F32, SiteKind.Embedding, [8, 6], new double[48]), holed = new(device, DType.F32, SiteKind.Linear, [2, 2], [1, 2, double.NaN, 4]);
        string Refusal(OneLayer layer, LoraConfig config) => Assert.Throws<AdapterConfigException>(() => layer.Attach(config)).Message;
        Assert.Equal("LoraConfig: r is 41 at layer [40, 56], want at most 40 for init_lora_weights pissa", Refusal(model, Config("pissa") with { Rank = 41 }));
        Assert.Equal("LoraConfig: init_lora_weights is olora for layer, a layer of kind Embedding, want a linear layer", Refusal(table, Config("olora")));
        Assert.Equal("LoraConfig: lora_alpha over r is 0 at layer, want more than 0 for init_lora_weights pissa", Refusal(model, Config("pissa") with { Alpha = 0 }));
        Assert.Equal("LoraConfig: r is 3, want an even rank for init_lora_weights orthogonal", Refusal(model, Config("orthogonal") with { Rank = 3 }));
        Assert.Contains("init_lora_weights is pissa_niter_x", Refusal(model, Config("pissa_niter_x")), StringComparison.Ordinal);
        Assert.Equal("LoraConfig: layer.weight: Svd: a holds NaN at [1, 0], want finite values", Assert.Throws<NumericException>(() => holed.Attach(Config("pissa") with { Rank = 1 })).Message);
    }

    private static LoraConfig Config(string init) => new() { Targets = ["layer"], Rank = Rank, Alpha = 8, Init = LoraInit.Of(init) };

    /// <summary>A weight whose singular values fall off, as those of trained layers do.</summary>
    private static OneLayer Layer(Device device, DType type)
    {
        var w = new double[Outputs * Inputs];
        new Rng(5).FillNormal(w, 0, 1);
        return new OneLayer(device, type, SiteKind.Linear, [Outputs, Inputs], [.. w.Select((v, i) => v / (1 + (i / Inputs)))], pack: true);
    }
}
