using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>WaRA beside its sheet's formulas with every transform spelled out as a matrix: the weight form, and the form that transforms the inputs.</summary>
public sealed class WaraFormTests : IDisposable
{
    private const int Outputs = 32, Inputs = 24;
    private readonly Device device = Devices.Open("cpu", DType.F64);
    private readonly Scope scope;

    public WaraFormTests() => scope = device.BeginScope();

    public static TheoryData<string, string, int> Forms => new()
    {
        { "shared", "haar", 1 },
        { "shared", "db2", 1 },
        { "shared", "db2", 2 },
        { "subband", "haar", 1 },
        { "subband", "db2", 2 },
    };

    public void Dispose()
    {
        scope.Dispose();
        device.Dispose();
    }

    [Theory, MemberData(nameof(Forms))]
    public void Both_forms_are_the_sheets(string mode, string wavelet, int levels)
    {
        using var model = new OneLayer(device, DType.F64, SiteKind.Linear, [Outputs, Inputs], AdapterRow.Draw(new Rng(1), Outputs * Inputs));
        double[] x = AdapterRow.Draw(new Rng(2), 5 * Inputs);
        double[] plain = Output(model, x);
        using AdaptedModel adapted = model.Attach(new WaraConfig { Targets = ["layer"], Mode = mode, Wavelet = wavelet, Levels = levels, Rank = 3, Alpha = 6 });
        AdapterTests.Move(adapted.Adapters[0]);
        Tensor core = mode == "shared" ? Shared(adapted, levels) : Pyramid(adapted, levels, wavelet);
        // A packet of J levels transforms every band again; a pyramid, which holds its deeper levels as bands of its first, only once.
        Tensor hOut = Transform(wavelet, Outputs, mode == "shared" ? levels : 1), hIn = Transform(wavelet, Inputs, mode == "shared" ? levels : 1);
        Tensor delta = new MatMul(Scale: 2).Apply(new MatMul(TransposeA: true).Apply(hOut, core), hIn);
        Close.Check(new Add(-1).Apply(adapted.Adapters[0].EffectiveWeight(), model.Site.WeightMatrix()).ToDoubles(), delta.ToDoubles(), Close.Golden64, "s·H_outᵀ·C·H_in");
        Tensor bands = new MatMul(TransposeB: true).Apply(scope.Of([5, Inputs], x), hIn), mixed = new MatMul(TransposeB: true, Scale: 2).Apply(bands, core);
        double[] added = new MatMul().Apply(mixed, hOut).ToDoubles();
        Close.Check([.. Output(model, x).Zip(plain, (y, p) => y - p)], added, Close.Golden64, "inputs transformed");
    }

    /// <summary>I ⊗ B·A over 2^J bands.</summary>
    private Tensor Shared(AdaptedModel adapted, int levels)
    {
        double[] product = new MatMul().Apply(adapted.Parameters[1], adapted.Parameters[0]).ToDoubles();
        (int rows, int cols) = (Outputs >> levels, Inputs >> levels);
        double[] core = new double[Outputs * Inputs];
        for (int i = 0; i < Outputs; i++)
        {
            for (int j = 0; j < cols; j++)
            {
                core[(i * Inputs) + (i / rows * cols) + j] = product[(i % rows * cols) + j];
            }
        }
        return scope.Of([Outputs, Inputs], core);
    }

    /// <summary>[[LL, LH], [HL, HH]] of level 1, whose LL is the inverse transform of those of level 2.</summary>
    private Tensor Pyramid(AdaptedModel adapted, int levels, string wavelet)
    {
        Tensor? low = null;
        for (int level = levels; level >= 1; level--)
        {
            Tensor Band(string name) => new MatMul().Apply(Named(adapted, $"B_{name}{level}"), Named(adapted, $"A_{name}{level}"));
            (Tensor ll, Tensor lh, Tensor hl, Tensor hh) = (low ?? Band("LL"), Band("LH"), Band("HL"), Band("HH"));
            (int rows, int cols) = (ll.Shape[0], ll.Shape[1]);
            double[][] parts = [ll.ToDoubles(), lh.ToDoubles(), hl.ToDoubles(), hh.ToDoubles()];
            Tensor core = scope.Of([2 * rows, 2 * cols], [.. Enumerable.Range(0, 4 * rows * cols).Select(e => (Row: e / (2 * cols), Col: e % (2 * cols))).Select(c => parts[(c.Row / rows * 2) + (c.Col / cols)][(c.Row % rows * cols) + (c.Col % cols)])]);
            low = level == 1 ? core : new MatMul().Apply(new MatMul(TransposeA: true).Apply(Transform(wavelet, 2 * rows, 1), core), Transform(wavelet, 2 * cols, 1));
        }
        return low!;
    }

    /// <summary>H_n by its definition: a_i = Σ h_k·x[(2i+k) mod n] above d_i with g_k = (-1)^k·h[L-1-k]; of a packet the halves are transformed again.</summary>
    private Tensor Transform(string wavelet, int n, int levels)
    {
        double q = Math.Sqrt(3), unit = wavelet == "haar" ? Math.Sqrt(2) : 4 * Math.Sqrt(2);
        double[] taps = wavelet == "haar" ? [1, 1] : [1 + q, 3 + q, 3 - q, 1 - q];
        double[] h = new double[n * n];
        for (int i = 0; i < n / 2; i++)
        {
            for (int k = 0; k < taps.Length; k++)
            {
                h[(i * n) + (((2 * i) + k) % n)] += taps[k] / unit;
                h[(((n / 2) + i) * n) + (((2 * i) + k) % n)] += (k % 2 == 0 ? 1 : -1) * taps[taps.Length - 1 - k] / unit;
            }
        }
        Tensor whole = scope.Of([n, n], h);
        if (levels == 1)
        {
            return whole;
        }
        double[] inner = Transform(wavelet, n / 2, levels - 1).ToDoubles(), both = new double[n * n];
        for (int i = 0; i < n; i++)
        {
            inner.AsSpan(i % (n / 2) * (n / 2), n / 2).CopyTo(both.AsSpan((i * n) + (i / (n / 2) * (n / 2))));
        }
        return new MatMul().Apply(scope.Of([n, n], both), whole);
    }

    private double[] Output(OneLayer model, double[] x) => model.Site.Forward(scope.Of([5, Inputs], x)).ToDoubles();

    private static Tensor Named(AdaptedModel adapted, string name) => adapted.Parameters.Single(p => p.Name == $"layer.wara_{name}").Value;
}
