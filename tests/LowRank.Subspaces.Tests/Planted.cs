namespace LowRank.Subspaces.Tests;

/// <summary>A random matrix of known rank and some of its entries.</summary>
internal sealed class Planted
{
    /// <param name="rows">Rows.</param>
    /// <param name="cols">Columns.</param>
    /// <param name="rank">Rank.</param>
    /// <param name="share">Probability that an entry is observed.</param>
    /// <param name="kappa">Condition: the singular values fall by equal steps from 1 to 1/kappa. 1: normal factors as they are, whose condition is near 1.</param>
    /// <param name="noise">Standard deviation of normal noise on the observations.</param>
    /// <param name="seed">Seed.</param>
    public Planted(int rows, int cols, int rank, double share, double kappa = 1, double noise = 0, ulong seed = 1)
    {
        double[] u = new double[rows * rank], v = new double[cols * rank], draws = new double[rows * cols], errors = new double[rows * cols];
        var rng = new Rng(seed);
        rng.Fork("u").FillNormal(u, 0, 1);
        rng.Fork("v").FillNormal(v, 0, 1);
        rng.Fork("observed").FillUniform(draws, 0, 1);
        rng.Fork("noise").FillNormal(errors, 0, noise);
        if (kappa > 1)
        {
            (u, v) = (Orthonormal(u, rank), Orthonormal(v, rank));
            for (int i = 0; i < u.Length; i++)
            {
                u[i] *= 1 - ((1 - (1 / kappa)) * (i % rank) / (rank - 1));
            }
        }
        M = Product(u, v, rank);
        int[] known = [.. Enumerable.Range(0, draws.Length).Where(i => draws[i] < share)];
        Data = new(rows, cols, [.. known.Select(i => i / cols)], [.. known.Select(i => i % cols)], [.. known.Select(i => M[i] + errors[i])]);
    }

    public double[] M { get; }

    public Observations Data { get; }

    /// <summary>u·vᵀ for factors with <paramref name="rank"/> columns.</summary>
    public static double[] Product(double[] u, double[] v, int rank)
    {
        int rows = u.Length / rank, cols = v.Length / rank;
        var x = new double[rows * cols];
        for (int i = 0; i < rows; i++)
        {
            for (int j = 0; j < cols; j++)
            {
                double sum = 0;
                for (int c = 0; c < rank; c++)
                {
                    sum += u[(i * rank) + c] * v[(j * rank) + c];
                }
                x[(i * cols) + j] = sum;
            }
        }
        return x;
    }

    private static double[] Orthonormal(double[] x, int rank)
    {
        double[] q = new double[x.Length], r = new double[rank * rank];
        Qr.Of(x.AsMatrix(x.Length / rank, rank), q.AsMatrix(x.Length / rank, rank), r.AsMatrix(rank, rank));
        return q;
    }

    /// <summary>‖u·vᵀ − M‖/‖M‖.</summary>
    public double Error(Completion found) => Testing.Close.Error(Product(found.U, found.V, found.Rank), M);
}

/// <summary>The public doors, stopped with the test.</summary>
internal static class Run
{
    public static Completion Fit(Observations data, CompletionOptions options) => MatrixCompletion.Fit(data, options, null, Xunit.TestContext.Current.CancellationToken);

    public static Completion Fit(Observations data, CompletionOptions options, CompletionChoice choice) => CompletionSearch.Fit(data, options, choice, null, Xunit.TestContext.Current.CancellationToken);

    public static CompletionChoice Pick(Observations data, CompletionOptions options, int? rank = null, double? lambda = null) =>
        CompletionSearch.Pick(data, options, rank, lambda, cancellation: Xunit.TestContext.Current.CancellationToken);
}
