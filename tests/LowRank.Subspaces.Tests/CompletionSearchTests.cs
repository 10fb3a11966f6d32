using Xunit;

namespace LowRank.Subspaces.Tests;

/// <summary>Rank and ridge are picked so that a completion never does much worse than mean and biases.</summary>
public class CompletionSearchTests
{
    private static readonly CompletionOptions Options = new() { Biases = true, WeightedLambda = true, Orthonormal = false, Start = CompletionStart.Random, Solver = CompletionSolver.Direct, Sweeps = 10, Tolerance = 0 };

    [Theory]
    [InlineData(0.0)]
    [InlineData(1.0)]
    public void Factors_are_used_where_they_help_and_only_there(double structure)
    {
        (Observations train, Observations test) = Ratings(structure);
        CompletionChoice choice = Run.Pick(train, Options, rank: 16);
        Completion found = Run.Fit(train, Options, choice);
        double biases = Run.Fit(train, Options, choice with { Rank = 0 }).Rmse(test), rmse = found.Rmse(test);
        Assert.Equal(structure == 0 ? 0 : 16, found.Rank);
        Assert.InRange(rmse / biases, 0, structure == 0 ? 1 : 0.9);
    }

    [Fact]
    public void Even_a_ridge_of_the_users_own_does_no_harm()
    {
        (Observations train, Observations test) = Ratings(0);
        CompletionChoice choice = Run.Pick(train, Options, rank: 16, lambda: 1e-6);
        Assert.Equal(0, choice.Rank);
        Assert.Equal(choice.BiasRmse, choice.Rmse);
        Assert.InRange(Run.Fit(train, Options, choice).Rmse(test), 0.4, 0.6);
    }

    [Fact]
    public void A_rank_is_picked_too()
    {
        (Observations train, _) = Ratings(1.5);
        Assert.InRange(Run.Pick(train, Options).Rank, 2, 64);
    }

    /// <summary>Mean, biases, noise of 0.5, and so much of three factors; the last users and items are new in the test.</summary>
    private static (Observations Train, Observations Test) Ratings(double structure)
    {
        const int users = 300, items = 200, count = 12000;
        var rng = new Rng(11);
        double[] u = new double[users * 3], v = new double[items * 3], a = new double[users], b = new double[items], noise = new double[count];
        rng.FillNormal(u, 0, 1);
        rng.FillNormal(v, 0, structure);
        rng.FillNormal(a, 0, 0.4);
        rng.FillNormal(b, 0, 0.4);
        rng.FillNormal(noise, 0, 0.5);
        int[] places = rng.Permutation(users * items)[..count];
        var all = new Observations(users, items, [.. places.Select(p => p / items)], [.. places.Select(p => p % items)],
            [.. places.Select((p, t) => 3.5 + a[p / items] + b[p % items] + noise[t] + Enumerable.Range(0, 3).Sum(c => u[(3 * (p / items)) + c] * v[(3 * (p % items)) + c]))]);
        int[] known = [.. Enumerable.Range(0, count).Where(t => t % 5 > 0 && all.RowOf[t] < 290 && all.ColOf[t] < 195)];
        return (all.Part(known), all.Part([.. Enumerable.Range(0, count).Where(t => t % 5 == 0)]));
    }
}
