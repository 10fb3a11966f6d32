using LowRank.Testing;
using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>Bad input is refused with its place; what is allowed but odd is reported.</summary>
public class CompletionInputTests
{
    private static readonly Observations Small = new(3, 4, [0, 0, 1, 2, 2], [0, 1, 1, 2, 3], [1, 2, 3, 4, 5]);

    public static TheoryData<string, CompletionOptions> BadOptions => new()
    {
        { "Rank is 0, want 1 to 3", new() { Rank = 0 } },
        { "Rank is 4, want 1 to 3", new() { Rank = 4 } },
        { "Sweeps is 0", new() { Rank = 1, Sweeps = 0 } },
        { "InnerSteps 0", new() { Rank = 1, InnerSteps = 0 } },
        { "Lambda is -1, want 0 or more", new() { Rank = 1, Lambda = -1 } },
        { "Lambda is NaN", new() { Rank = 1, Lambda = double.NaN } },
        { "Type is BF16", new() { Rank = 1, Type = DType.BF16 } },
        { "BiasModel: lambda is -2", new() { Rank = 1, Biases = true, BiasLambda = -2 } },
        { "Resume holds 2 and 4 values", new() { Rank = 1, Resume = new(new double[2], new double[4], 1, 1, false) } },
        { "Test is [3, 4] with 1 values", new() { Rank = 1, Test = new(3, 4, [3], [0], [1]) } },
    };

    [Theory, MemberData(nameof(BadOptions), DisableDiscoveryEnumeration = true)]
    public void A_bad_setting_is_named(string message, CompletionOptions options) =>
        Assert.Contains(message, Assert.Throws<ShapeException>(() => Run.Fit(Small, options)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_bad_entry_is_named()
    {
        CompletionOptions options = new() { Rank = 1 };
        Assert.Contains("entry 4 is at (3, 3), want a place in [3, 4]", Assert.Throws<ShapeException>(() => Run.Fit(Small with { RowOf = [0, 0, 1, 2, 3] }, options)).Message, StringComparison.Ordinal);
        Assert.Contains("2 entries at (0, 1)", Assert.Throws<ShapeException>(() => Run.Fit(Small with { ColOf = [1, 1, 1, 2, 3] }, options)).Message, StringComparison.Ordinal);
        Assert.Contains("entry 2 at (1, 1) is NaN", Assert.Throws<NumericException>(() => Run.Fit(Small with { Values = [1, 2, double.NaN, 4, 5] }, options)).Message, StringComparison.Ordinal);
        Assert.Contains("want at least one entry", Assert.Throws<ShapeException>(() => Run.Fit(new(3, 4, [], [], []), options)).Message, StringComparison.Ordinal);
        Assert.Contains("share is 0.01 of 5", Assert.Throws<ShapeException>(() => Small.Split(0.01, 1)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Several_entries_at_a_place_may_count_as_their_mean()
    {
        var planted = new Planted(12, 10, 2, 0.7);
        Observations data = planted.Data, twice = data with { RowOf = [.. data.RowOf, data.RowOf[3]], ColOf = [.. data.ColOf, data.ColOf[3]], Values = [.. data.Values.Select((v, i) => i == 3 ? v - 1 : v), data.Values[3] + 1] };
        CompletionOptions options = new() { Rank = 2, Type = DType.F64, Sweeps = 3 };
        Completion mean = Run.Fit(twice, options with { AverageDuplicates = true }), once = Run.Fit(data, options);
        Close.Check(mean.U, once.U, Close.Golden64, "U");
        Close.Check(mean.V, once.V, Close.Golden64, "V");
    }

    [Fact]
    public void Empty_rows_and_too_few_entries_are_reported()
    {
        Completion found = Run.Fit(new(4, 5, [0, 0, 1, 3], [0, 1, 1, 3], [1, 2, 3, 4]), new() { Rank = 2, Type = DType.F64, Sweeps = 3 });
        Assert.Equal(1, found.EmptyRows);
        Assert.Equal(2, found.EmptyCols);
        Assert.Equal([0, 0], found.U[4..6]);
        Assert.Contains(found.Warnings, w => w.Contains("fewer observations than degrees of freedom: 4 for 14", StringComparison.Ordinal));
    }

    [Fact]
    public void A_weighted_ridge_counts_once_an_entry()
    {
        var planted = new Planted(30, 20, 2, 0.6, noise: 0.2);
        Observations data = planted.Data;
        Completion found = Run.Fit(data, new() { Rank = 2, Type = DType.F64, Lambda = 0.1, WeightedLambda = true, Orthonormal = false, Start = CompletionStart.Random, Sweeps = 5, Tolerance = 0 });
        foreach (int row in new[] { 0, 17 })
        {
            int[] mine = [.. Enumerable.Range(0, data.Count).Where(t => data.RowOf[t] == row)];
            for (int c = 0; c < 2; c++)
            {
                double slope = mine.Sum(t => (data.Values[t] - found.Predict(row, data.ColOf[t])) * found.V[(2 * data.ColOf[t]) + c]) - (0.1 * mine.Length * found.U[(2 * row) + c]);
                Assert.InRange(Math.Abs(slope), 0, Close.Golden64);
            }
        }
    }

    [Fact]
    public void Biases_alone_explain_sums_and_unknown_places_get_what_is_known()
    {
        const int rows = 30, cols = 20;
        int[] places = [.. Enumerable.Range(0, rows * cols).Where(i => i % 3 != 0)];
        double Value(int i, int j) => 3 + (0.1 * i) - (0.2 * j);
        var data = new Observations(rows, cols, [.. places.Select(i => i / cols)], [.. places.Select(i => i % cols)], [.. places.Select(i => Value(i / cols, i % cols))]);
        BiasModel model = BiasModel.Fit(data, lambda: 0);
        Assert.Equal(Value(4, 7), model.Predict(4, 7), 1e-6);
        Assert.Equal(model.Mean + model.Cols[3], model.Predict(-1, 3));
        Completion found = Run.Fit(data, new() { Rank = 2, Biases = true, BiasLambda = 0, Lambda = 1, Test = new(rows, cols, [-1, 2], [3, 3], [1, 1]), Sweeps = 2 });
        Assert.Equal(found.Predict(-1, 3), found.Biases!.Predict(-1, 3));
        Assert.Equal(found.Rmse(new(rows, cols, [-1, 2], [3, 3], [1, 1])), found.History[^1].TestRmse!.Value, Close.Model);
    }

    [Fact]
    public void Float32_recovers_to_its_own_precision_and_repeats_its_bits_on_any_number_of_threads()
    {
        var planted = new Planted(300, 250, 20, 0.6);
        CompletionOptions options = new() { Rank = 20, Sweeps = 30, Seed = 3 };
        int threads = DeviceList.CpuThreads;
        Completion first = Run.Fit(planted.Data, options), second;
        try
        {
            DeviceList.CpuThreads = threads == 1 ? 3 : 1;
            second = Run.Fit(planted.Data, options);
        }
        finally
        {
            DeviceList.CpuThreads = threads;
        }
        Assert.InRange(planted.Error(first), 0, Close.Layer);
        Assert.Equal(first.U, second.U);
        Assert.Equal(first.V, second.V);
    }
}
