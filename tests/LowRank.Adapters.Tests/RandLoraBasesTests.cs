using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>How layers of several shapes take their part of RandLoRA's bases, and what is said of odd settings.</summary>
public sealed class RandLoraBasesTests : IDisposable
{
    private static readonly RandLoraConfig Config = new() { Targets = "l.*", Rank = 2, Alpha = 6 };
    private readonly Device device = Devices.Open("cpu", DType.F64);

    public void Dispose() => device.Dispose();

    // A [2, 1, 8] and B [9, 4, 2] for both: a layer takes the first d columns of A, and of B the first D rows and n terms.
    [Fact]
    public void Layers_take_the_leading_blocks_through_the_flat_index()
    {
        const int r = 2;
        using LinearLayers model = Open((8, 6), (5, 9));
        using AdaptedModel adapted = model.Attach(Config);
        foreach (Adapter adapter in adapted.Adapters)
        {
            AdapterTests.Move(adapter);
            (int outputs, int inputs) = (adapter.Site.Outputs, adapter.Site.Inputs);
            (int d, int most) = (Math.Min(outputs, inputs), Math.Max(outputs, inputs));
            int n = (d + r - 1) / r;
            double[] a = adapter.Shared.First().Value.ToDoubles(), b = adapter.Shared.Last().Value.ToDoubles();
            double[] lambda = adapter.Parameters[0].Value.ToDoubles(), gamma = adapter.Parameters[1].Value.ToDoubles(), want = new double[outputs * inputs];
            for (int row = 0; row < most; row++)
            {
                for (int i = 0; i < d; i++)
                {
                    double sum = 0;
                    for (int p = 0; p < r * n; p++)
                    {
                        double left = b[(row * 4 * r) + p];      // B[row, p / r, p % r]
                        sum += left * lambda[p] * a[(p / n * 8) + i] * gamma[(p % n * d) + i];
                    }
                    want[inputs <= outputs ? (row * inputs) + i : (i * inputs) + row] = Config.Alpha / r * sum;
                }
            }
            Close.Check(Change(adapter), want, Close.Golden64, $"dW of {adapter.Path}");
        }
    }

    // The sheet asks for full rank with lambda alone at normal numbers. With gamma at its start all rows of S that one row of A makes are parallel: the rank is r
    // until gamma moves.
    [Fact]
    public void Until_gamma_moves_the_change_has_rank_r()
    {
        using LinearLayers model = Open((48, 32));
        using AdaptedModel adapted = model.Attach(Config with { Rank = 8 });
        Adapter adapter = adapted.Adapters[0];
        adapter.Parameters[0].Value.Set(AdapterRow.Draw(new Rng(1), adapter.Parameters[0].Value.Shape.Count));
        Assert.Equal(8, Rank());
        adapter.Parameters[1].Value.Set(AdapterRow.Draw(new Rng(2), adapter.Parameters[1].Value.Shape.Count));
        Assert.Equal(32, Rank());

        int Rank()
        {
            using Scope scope = device.BeginScope();
            double[] s = Svd.Of(scope.Of([48, 32], Change(adapter)), scope).S.ToDoubles();
            return s.Count(v => v > Close.Golden64 * s[0]);
        }
    }

    [Fact]
    public void A_rank_above_the_smaller_side_and_two_kinds_of_sparse_bases_are_remarked_on()
    {
        using LinearLayers model = Open((8, 6), (5, 9));
        using (AdaptedModel wide = model.Attach(Config with { Rank = 6 }))
        {
            Assert.Equal("l1: r is 6, more than the smaller side of [5, 9]: one term is made", Assert.Single(wide.Remarks));
        }
        byte[] very;
        using (AdaptedModel sparse = model.Attach(Config with { VerySparse = true }))
        {
            Assert.Empty(sparse.Remarks);
            very = sparse.Adapters[0].Shared.Last().Value.ToBytes();
        }
        using AdaptedModel both = model.Attach(Config with { Sparse = true, VerySparse = true });
        Assert.Equal("RandLora: sparse and very_sparse are both true: very_sparse wins", Assert.Single(both.Remarks));
        Assert.Equal(very, both.Adapters[0].Shared.Last().Value.ToBytes());
    }

    private LinearLayers Open(params (int Outputs, int Inputs)[] sizes) =>
        new(device, DType.F64, sizes.Select((s, i) => ($"l{i}", Shape.Of([s.Outputs, s.Inputs]), AdapterRow.Draw(new Rng((ulong)i), s.Outputs * s.Inputs), (double[]?)null)));

    private double[] Change(Adapter adapter)
    {
        using Scope scope = device.BeginScope();
        return new Add(-1).Apply(adapter.EffectiveWeight(), adapter.Site.WeightMatrix()).ToDoubles();
    }
}
