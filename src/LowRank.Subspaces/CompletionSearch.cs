namespace LowRank.Subspaces;

/// <summary>Rank and ridges that a validation part of the data speaks for.</summary>
/// <param name="Rank">0: mean and biases alone predict best.</param>
/// <param name="Lambda">Ridge of the factors.</param>
/// <param name="BiasLambda">Ridge of the biases.</param>
/// <param name="Rmse">Error on the validation part.</param>
/// <param name="BiasRmse">Error of mean and biases alone there.</param>
public sealed record CompletionChoice(int Rank, double Lambda, double BiasLambda, double Rmse, double BiasRmse);

/// <summary>Picks what <see cref="MatrixCompletion"/> cannot know on a part of the data that it holds out, with rank 0 always among the candidates: on sparse
/// and noisy ratings factors that do not help are left away.</summary>
public static class CompletionSearch
{
    private const double FirstShare = 0.6, Fall = 0.6, Worse = 1.0001, Gain = 0.9995;      // ridges as shares of what the biases leave
    private const int MostRidges = 16, Patience = 2, FirstRank = 16;
    private static readonly double[] BiasLambdas = [0.5, 2, 5, 10, 20, 50];
    private static readonly int[] Ranks = [32, 64, 8, 4, 2];

    /// <summary>Tries ridges from one that leaves nothing of the factors downwards until the error on the validation part rises, then other ranks with the best one.</summary>
    /// <param name="data">The observations; a share of them is held out.</param>
    /// <param name="options">All else that decides a run; without biases rank 0 predicts zeros.</param>
    /// <param name="rank">The only rank beside 0; null: ranks up to 64 are tried.</param>
    /// <param name="lambda">The only ridge; null: they are tried.</param>
    /// <param name="share">Share of the observations that is held out.</param>
    /// <param name="cancellation">Stops between two half sweeps.</param>
    /// <exception cref="ShapeException">A setting is out of range.</exception>
    public static CompletionChoice Pick(Observations data, CompletionOptions options, int? rank = null, double? lambda = null, double share = 0.1, CancellationToken cancellation = default)
    {
        (Observations kept, Observations held) = data.Split(share, options.Seed);
        (double low, double high) = (data.Values.Min(), data.Values.Max());
        var entries = Entries.Of(kept, options.AverageDuplicates);
        BiasModel[] models = options.Biases ? [.. BiasLambdas.Select(l => BiasModel.Fit(entries, l))] : [new BiasModel(0, new double[data.Rows], new double[data.Cols])];
        double[] errors = [.. models.Select(m => Alone(m).Rmse(held, low, high))];
        int bestBias = Array.IndexOf(errors, errors.Min());
        var none = new CompletionChoice(0, 0, options.Biases ? BiasLambdas[bestBias] : options.BiasLambda, errors[bestBias], errors[bestBias]);
        double rest = Math.Sqrt(models[bestBias].Rest(entries).Average(v => v * v));
        double unit = rest * (options.WeightedLambda ? 1 : entries.Values.Length / Math.Sqrt((double)data.Rows * data.Cols));
        int most = Math.Min(data.Rows, data.Cols);
        CompletionChoice Try(int r, double l) => none with
        {
            Rank = r,
            Lambda = l,
            Rmse = MatrixCompletion.Fit(kept, options with { Rank = r, Lambda = l, BiasLambda = none.BiasLambda, Test = null, Checkpoint = null, Resume = null }, null, cancellation).Rmse(held, low, high),
        };
        CompletionChoice best = none;
        int first = Math.Min(rank ?? FirstRank, most), worse = 0;
        if (lambda is { } given)
        {
            best = Try(first, given);
        }
        for (int step = 0; step < MostRidges && worse < Patience && lambda is null; step++)
        {
            CompletionChoice found = Try(first, unit * FirstShare * Math.Pow(Fall, step));
            worse = found.Rmse > best.Rmse * Worse || double.IsNaN(found.Rmse) ? worse + 1 : 0;
            best = found.Rmse < best.Rmse ? found : best;
        }
        foreach (int other in rank is null && best.Rank > 0 ? Ranks.Where(r => r <= most) : [])
        {
            CompletionChoice found = Try(other, best.Lambda);
            best = found.Rmse < best.Rmse * Gain ? found : best;
            if (best.Rank > other)      // larger ranks come first
            {
                break;
            }
        }
        return best.Rmse < none.Rmse * Gain ? best : none;
    }

    /// <summary>Fits all the data as was chosen.</summary>
    /// <inheritdoc cref="MatrixCompletion.Fit"/>
    public static Completion Fit(Observations data, CompletionOptions options, CompletionChoice choice, IProgress<CompletionSweep>? progress = null, CancellationToken cancellation = default)
    {
        if (choice.Rank > 0)
        {
            return MatrixCompletion.Fit(data, options with { Rank = choice.Rank, Lambda = choice.Lambda, BiasLambda = choice.BiasLambda }, progress, cancellation);
        }
        var entries = Entries.Of(data, options.AverageDuplicates);
        BiasModel biases = options.Biases ? BiasModel.Fit(entries, choice.BiasLambda) : new BiasModel(0, new double[data.Rows], new double[data.Cols]);
        return Alone(biases) with { EmptyRows = Entries.CountEmpty(entries.Starts), EmptyCols = Entries.CountEmpty(entries.TurnedStarts) };
    }

    private static Completion Alone(BiasModel biases) => new([], [], 0, biases, true, [], 0, 0, 0, [], null);
}
