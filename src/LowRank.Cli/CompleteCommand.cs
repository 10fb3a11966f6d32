using System.CommandLine;
using System.Globalization;
using LowRank.Subspaces;

namespace LowRank.Cli;

/// <summary><c>lowrank complete</c>: the missing entries of a matrix of ratings, or the missing pixels of a picture.</summary>
internal static class CompleteCommand
{
    private static readonly (string Name, CompletionSolver Solver)[] Solvers =
    [
        ("direct", CompletionSolver.Direct), ("gradients", CompletionSolver.Gradients), ("sketched", CompletionSolver.Sketched), ("auto", CompletionSolver.Auto),
    ];

    public static Command Create()
    {
        Option<string?> train = new("--train") { Description = $"Ratings: {TextTable.Endings} with the columns of --columns, or .npz with arrays of these names. Several ratings of a pair count as their mean." };
        Option<string?> test = new("--test") { Description = "Ratings to measure with, of the same form. Default: a share of those to train on, see --hold-out." };
        Option<double> holdOut = new("--hold-out") { Description = "Share of the ratings that is measured with, where there is no --test.", DefaultValueFactory = _ => 0.1 };
        Option<string> columns = new("--columns") { Description = "Columns of row, column and value.", DefaultValueFactory = _ => "user,item,rating" };
        Option<string?> image = new("--image") { Description = "A PNG picture to restore, in the place of ratings. Missing are its transparent pixels, or its black ones where none is transparent." };
        Option<double?> missing = new("--missing") { Description = "Hide this share of the picture's pixels at random, to see how well they come back." };
        Option<int?> rank = new("--rank") { Description = "Columns of the factors. Default: 0 to 64, picked on a tenth of what is trained on. Where factors help nothing there, the result has rank 0: mean and biases." };
        Option<double?> lambda = new("--lambda") { Description = "Ridge of the factors. Default: picked like the rank." };
        Option<bool> weighted = new("--weighted-lambda") { Description = "The ridge counts once for each rating of a row or column.", DefaultValueFactory = _ => true };
        Option<bool> biases = new("--biases") { Description = "Fit a mean and a bias for each row and column first.", DefaultValueFactory = _ => true };
        Option<int> sweeps = new("--sweeps") { Description = "Sweeps over both factors.", DefaultValueFactory = _ => 10 };
        Option<string> solver = new("--solver") { Description = $"How a row is solved: {string.Join(", ", Solvers.Select(s => s.Name))}.", DefaultValueFactory = _ => Solvers[0].Name };
        Option<string> type = new("--type") { Description = "Type to compute in: f32 or f64 (slow).", DefaultValueFactory = _ => "f32" };
        Option<string?> output = new("--output") { Description = "Folder for the factors (U.npy, V.npy, row_bias.npy, col_bias.npy), the names of rows and columns and completion.json; for a picture restored.png and before-after.png." };
        Option<bool> resume = new("--resume") { Description = "Go on with the run in --output up to --sweeps." };
        Option<ulong> seed = CommonOptions.Seed();
        Option<string> device = CommonOptions.DeviceName();
        Option<bool> quiet = CommonOptions.Quiet(), json = CommonOptions.Json();
        solver.AcceptOnlyFromAmong([.. Solvers.Select(s => s.Name)]);
        type.AcceptOnlyFromAmong("f32", "f64");
        var command = new Command("complete", "Fill in a matrix of low rank from some of its entries: ratings, or a picture with missing pixels.")
        { train, test, holdOut, columns, image, missing, rank, lambda, weighted, biases, sweeps, solver, type, seed, device, output, resume, quiet, json };
        command.SetAction((parsed, cancellation) =>
        {
            string[] names = parsed.GetValue(columns)!.Split(',', StringSplitOptions.TrimEntries);
            (string? ratings, string? picture, string? to) = (parsed.GetValue(train), parsed.GetValue(image), parsed.GetValue(output));
            if (ratings is null == picture is null || (picture is not null && (to is null || parsed.GetValue(test) is not null || parsed.GetValue(resume))) || (picture is null && parsed.GetValue(missing) is not null))
            {
                throw new UsageException("complete: want --train with ratings, or --image with a picture and --output (and then no --test or --resume; --missing goes with --image)");
            }
            if (names.Length != 3 || names.Any(n => n.Length == 0) || (parsed.GetValue(resume) && to is null) || parsed.GetValue(rank) < 0)
            {
                throw new UsageException($"complete: columns are {parsed.GetValue(columns)} and rank is {parsed.GetValue(rank)}, want three names, a rank of at least 0, and an --output where --resume is given");
            }
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            var options = new CompletionOptions
            {
                Sweeps = parsed.GetValue(sweeps),
                Solver = Solvers.First(s => s.Name == parsed.GetValue(solver)).Solver,
                WeightedLambda = parsed.GetValue(weighted),
                Biases = parsed.GetValue(biases),
                Orthonormal = false,
                Start = CompletionStart.Random,
                AverageDuplicates = true,
                Type = parsed.GetValue(type) == "f64" ? DType.F64 : DType.F32,
                Seed = parsed.GetValue(seed),
                Device = on,
            };
            var wanted = new CompletionWish(options, parsed.GetValue(rank), parsed.GetValue(lambda), parsed.GetValue(quiet) ? null : new Lines(), to);
            Output.Facts(
                picture is not null
                    ? PictureCompletion.Run(picture, parsed.GetValue(missing), wanted, cancellation)
                    : RatingCompletion.Run(ratings!, parsed.GetValue(test), parsed.GetValue(holdOut), names, parsed.GetValue(resume), wanted, cancellation),
                parsed.GetValue(json));
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    /// <summary>A line a sweep on standard error.</summary>
    private sealed class Lines : IProgress<CompletionSweep>
    {
        public void Report(CompletionSweep value) => Console.Error.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"sweep {value.Sweep,3}  rmse {value.Rmse:F6}{(value.TestRmse is { } test ? $"  test {test:F6}" : "")}"));
    }
}

/// <summary>What a user asks of a completion.</summary>
/// <param name="Options">Settings.</param>
/// <param name="Rank">Null: picked.</param>
/// <param name="Lambda">Null: picked.</param>
/// <param name="Progress">Told of each sweep of the last fit.</param>
/// <param name="Output">Folder; null: nothing is written.</param>
internal sealed record CompletionWish(CompletionOptions Options, int? Rank, double? Lambda, IProgress<CompletionSweep>? Progress, string? Output)
{
    /// <summary>Rank and ridges, as asked for or as a tenth of the data speaks for; small data may ask for rank 0 alone.</summary>
    public CompletionChoice Choose(Observations data, CancellationToken cancellation) => Rank is 0
        ? new CompletionChoice(0, 0, Options.BiasLambda, double.NaN, double.NaN)
        : Rank > Math.Min(data.Rows, data.Cols)
            ? throw new UsageException($"complete: rank is {Rank}, want at most {Math.Min(data.Rows, data.Cols)} for {data.Rows} rows and {data.Cols} columns")
            : CompletionSearch.Pick(data, Options, Rank, Lambda, cancellation: cancellation);
}
