using System.Diagnostics;
using System.Text.Json.Nodes;
using LowRank.Subspaces;

namespace LowRank.Cli;

/// <summary>Completes a matrix of ratings. Predictions are kept between the smallest and the largest rating that was trained on; rows and columns that were
/// not trained on are predicted from what is known, the mean at least.</summary>
internal static class RatingCompletion
{
    /// <summary>Fits, measures and writes.</summary>
    public static JsonObject Run(string train, string? test, double holdOut, string[] columns, bool resume, CompletionWish wish, CancellationToken cancellation)
    {
        long began = Stopwatch.GetTimestamp();
        RatingFile known = RatingFile.Read(train, columns), held;
        (known, held) = test is null ? known.Split(holdOut, wish.Options.Seed) : (known, RatingFile.Read(test, columns));
        string[] rows = [.. known.Rows.Distinct()], cols = [.. known.Cols.Distinct()];
        Dictionary<string, int> rowAt = Places(rows), colAt = Places(cols);
        Observations data = known.At(rowAt, colAt), measured = held.At(rowAt, colAt);
        CompletionOptions options = wish.Options with { Test = measured };
        using FolderLock? own = wish.Output is { } to ? FolderLock.Take(to) : null;
        CompletionFolder? folder = wish.Output is { } output ? new CompletionFolder(output, Settings(train, test, holdOut, columns, wish)) : null;
        (CompletionChoice choice, CompletionState? state) = resume ? folder!.Read() : (wish.Choose(data, cancellation), null);
        if (folder is not null)
        {
            folder.Choice = choice;
        }
        Completion found = CompletionSearch.Fit(data, options with { Resume = state, Checkpoint = folder }, choice, wish.Progress, cancellation);
        (double low, double high) = (data.Values.Min(), data.Values.Max());
        Completion biases = CompletionSearch.Fit(data, options with { Biases = true }, choice with { Rank = 0 }, null, cancellation);
        var facts = new JsonObject
        {
            ["train"] = train,
            ["test"] = test ?? $"{holdOut} of {train}",
            ["rows"] = rows.Length,
            ["columns"] = cols.Length,
            ["train_ratings"] = data.Count,
            ["test_ratings"] = measured.Count,
            ["test_ratings_of_new_rows"] = measured.RowOf.Count(i => i < 0),
            ["test_ratings_of_new_columns"] = measured.ColOf.Count(j => j < 0),
            ["rank"] = found.Rank,
            ["asked_rank"] = wish.Rank,
            ["lambda"] = choice.Lambda,
            ["bias_lambda"] = options.Biases ? choice.BiasLambda : null,
            ["sweeps"] = found.State?.Sweep ?? 0,
            ["converged"] = found.Converged,
            ["validation_rmse"] = Output.Value(choice.Rmse),
            ["train_rmse"] = found.Rmse(data, low, high),
            ["biases_test_rmse"] = biases.Rmse(measured, low, high),
            ["test_rmse"] = found.Rmse(measured, low, high),
            ["seconds"] = Math.Round(Stopwatch.GetElapsedTime(began).TotalSeconds, 3),
        };
        folder?.Write(found, rows, cols, facts);
        Output.Warn(found.Warnings.Where(w => !w.StartsWith("not converged", StringComparison.Ordinal)).Concat(
            wish.Rank > 0 && found.Rank == 0 ? [$"rank {wish.Rank} predicts no better than mean and biases on a tenth of the data: the result has rank 0"] : []));
        return facts;
    }

    private static Dictionary<string, int> Places(string[] names) => names.Index().ToDictionary(n => n.Item, n => n.Index, StringComparer.Ordinal);

    private static JsonObject Settings(string train, string? test, double holdOut, string[] columns, CompletionWish wish) => new()
    {
        ["train"] = train,
        ["test"] = test,
        ["hold-out"] = test is null ? holdOut : null,
        ["columns"] = string.Join(',', columns),
        ["rank"] = wish.Rank,
        ["lambda"] = wish.Lambda,
        ["weighted-lambda"] = wish.Options.WeightedLambda,
        ["biases"] = wish.Options.Biases,
        ["solver"] = wish.Options.Solver.ToString(),
        ["type"] = wish.Options.Type.ToString(),
        ["seed"] = wish.Options.Seed,
    };
}
