using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Formats;
using SkiaSharp;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary><c>lowrank complete</c>: ratings and pictures.</summary>
[Collection(ConsoleTests.Name)]
public sealed class CompleteTests : IDisposable
{
    private const int Users = 120, Items = 80, Count = 4000;
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-complete").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void Ratings_with_structure_are_predicted_better_than_by_biases()
    {
        (string train, string test) = Tables(structure: 1);
        string output = Path.Combine(folder, "out");
        CliResult result = Cli.Done("complete", "--train", train, "--test", test, "--columns", "user,item,rating", "--sweeps", "10", "--output", output, "--json");
        double rmse = Number(result.Json, "test_rmse"), biases = Number(result.Json, "biases_test_rmse");
        Assert.InRange(rmse / biases, 0, 0.9);
        Assert.Contains("sweep  10  rmse ", result.Error, StringComparison.Ordinal);
        int rank = result.Json["rank"]!.GetValue<int>(), users = result.Json["rows"]!.GetValue<int>();
        using NpyFile u = NpyFile.Open(Path.Combine(output, "U.npy")), v = NpyFile.Open(Path.Combine(output, "V.npy")), row = NpyFile.Open(Path.Combine(output, "row_bias.npy")), col = NpyFile.Open(Path.Combine(output, "col_bias.npy"));
        Assert.Equal([users, rank], u.Entries[0].Dimensions);
        string[] names = File.ReadAllLines(Path.Combine(output, "rows.txt")), items = File.ReadAllLines(Path.Combine(output, "cols.txt"));
        Assert.Equal((users, names.Length), (names.Length, names.Distinct().Count()));
        // What the files predict is what was measured.
        double[] us = u.ReadDouble(NpyFile.ArrayName), vs = v.ReadDouble(NpyFile.ArrayName), rows = row.ReadDouble(NpyFile.ArrayName), cols = col.ReadDouble(NpyFile.ArrayName);
        (string User, string Item, double Rating)[] known = Read(train), held = Read(test);
        double mean = known.Average(r => r.Rating), squares = 0;
        foreach ((string user, string item, double rating) in held)
        {
            (int i, int j) = (Array.IndexOf(names, user), Array.IndexOf(items, item));
            double value = mean + (i < 0 ? 0 : rows[i]) + (j < 0 ? 0 : cols[j]);
            for (int c = 0; c < rank && i >= 0 && j >= 0; c++)
            {
                value += us[(i * rank) + c] * vs[(j * rank) + c];
            }
            squares += Math.Pow(Math.Clamp(value, known.Min(r => r.Rating), known.Max(r => r.Rating)) - rating, 2);
        }
        Assert.Equal(rmse, Math.Sqrt(squares / held.Length), 1e-4);
        Assert.Equal(rmse, Number(JsonNode.Parse(File.ReadAllText(Path.Combine(output, "completion.json")))!, "test_rmse"));
    }

    [Fact]
    public void Ratings_without_structure_are_predicted_by_biases_whatever_the_rank()
    {
        (string train, string test) = Tables(structure: 0);
        CliResult result = Cli.Done("complete", "--train", train, "--test", test, "--rank", "16", "--json", "--quiet");
        Assert.Equal(0, result.Json["rank"]!.GetValue<int>());
        Assert.Equal(Number(result.Json, "biases_test_rmse"), Number(result.Json, "test_rmse"));
        Assert.True(Number(result.Json, "test_ratings_of_new_rows") > 0);
        Assert.Contains("rank 16 predicts no better than mean and biases", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_run_goes_on_where_it_stopped_and_arrays_do_as_tables_do()
    {
        (string train, string test) = Tables(structure: 1);
        string[] asked = ["--rank", "4", "--lambda", "0.05", "--quiet", "--json"];
        string whole = Path.Combine(folder, "whole"), parts = Path.Combine(folder, "parts");
        Cli.Done(["complete", "--train", train, "--test", test, "--sweeps", "6", "--output", whole, .. asked]);
        Cli.Done(["complete", "--train", train, "--test", test, "--sweeps", "2", "--output", parts, .. asked]);
        JsonNode rest = Cli.Done(["complete", "--train", train, "--test", test, "--sweeps", "6", "--output", parts, "--resume", .. asked]).Json;
        Assert.Equal(6, rest["sweeps"]!.GetValue<int>());
        Assert.Equal(File.ReadAllBytes(Path.Combine(whole, "U.npy")), File.ReadAllBytes(Path.Combine(parts, "U.npy")));
        Cli.Fails(ExitCode.Usage, ["seed was 0 and is 5"], ["complete", "--train", train, "--test", test, "--output", parts, "--resume", "--seed", "5", .. asked]);
        Cli.Fails(ExitCode.Usage, ["holds no run to go on with"], ["complete", "--train", train, "--output", Path.Combine(folder, "new"), "--resume", .. asked]);

        (string User, string Item, double Rating)[] known = Read(train);
        string arrays = Path.Combine(folder, "train.npz");
        long[] Ids(IEnumerable<string> names) => [.. names.Select(n => long.Parse(n[1..], CultureInfo.InvariantCulture))];
        NpzFile.Save(arrays, [TensorData.Of("user", [known.Length], Ids(known.Select(k => k.User))), TensorData.Of("item", [known.Length], Ids(known.Select(k => k.Item))), TensorData.Of("rating", [known.Length], [.. known.Select(k => (int)(1000 * k.Rating))])]);
        JsonNode read = Cli.Done(["complete", "--train", arrays, .. asked]).Json;
        Assert.Equal(known.Length, read["train_ratings"]!.GetValue<int>() + read["test_ratings"]!.GetValue<int>());
    }

    [Fact]
    public void Wrong_words_and_files_are_named()
    {
        (string train, _) = Tables(structure: 0);
        string bad = Path.Combine(folder, "bad.csv");
        File.WriteAllText(bad, "user,item,rating\na,b,3\na,c,good\n");
        Cli.Fails(ExitCode.Usage, ["line 3", "rating is 'good'", "want a number"], "complete", "--train", bad);
        Cli.Fails(ExitCode.Usage, ["there is no column stars"], "complete", "--train", train, "--columns", "user,item,stars");
        Cli.Fails(ExitCode.Usage, ["want three names"], "complete", "--train", train, "--columns", "user,item");
        Cli.Fails(ExitCode.Usage, ["want --train with ratings, or --image"], "complete");
        Cli.Fails(ExitCode.Usage, ["rank is 500, want at most 78"], "complete", "--train", train, "--rank", "500");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void A_picture_comes_back(int channels)
    {
        string file = Path.Combine(folder, "picture.png"), output = Path.Combine(folder, "restored");
        Save(file, channels, clear: false);
        CliResult result = Cli.Done("complete", "--image", file, "--missing", "0.5", "--output", output, "--sweeps", "20", "--json", "--quiet");
        Assert.InRange(Number(result.Json, "missing_psnr_db"), 35, 100);
        Assert.Equal(channels, result.Json["channels"]!.GetValue<int>());
        using SKBitmap both = SKBitmap.Decode(Path.Combine(output, "before-after.png")), whole = SKBitmap.Decode(Path.Combine(output, "restored.png"));
        Assert.Equal((48, 32, 104, 32), (whole.Width, whole.Height, both.Width, both.Height));
    }

    [Fact]
    public void Transparent_pixels_are_what_is_missing()
    {
        string file = Path.Combine(folder, "clear.png"), output = Path.Combine(folder, "restored");
        Save(file, 3, clear: true);
        JsonNode found = Cli.Done("complete", "--image", file, "--output", output, "--json", "--quiet").Json;
        Assert.Equal(48 * 32 / 4, found["missing_pixels"]!.GetValue<int>());
        using SKBitmap whole = SKBitmap.Decode(Path.Combine(output, "restored.png"));
        Assert.InRange(Math.Abs(whole.GetPixel(8, 8).Red - Shade(8, 8, 0)), 0, 8);
        Save(file, 3, clear: false);
        Cli.Fails(ExitCode.Usage, ["has 0 missing pixels", "--missing 0.5"], "complete", "--image", file, "--output", output);
    }

    private static double Number(JsonNode json, string key) => json[key]!.GetValue<double>();

    private static (string User, string Item, double Rating)[] Read(string file) =>
        [.. File.ReadLines(file).Skip(1).Select(line => line.Split(',')).Select(f => (f[0], f[1], double.Parse(f[2], CultureInfo.InvariantCulture)))];

    /// <summary>Mean, biases, noise and so much of two factors; users 115 and above, items 78 and above are in the test alone.</summary>
    private (string Train, string Test) Tables(double structure)
    {
        double[] u = new double[Users * 2], v = new double[Items * 2], a = new double[Users], b = new double[Items], noise = new double[Count];
        var rng = new Rng(3);
        rng.FillNormal(u, 0, 1);
        rng.FillNormal(v, 0, structure);
        rng.FillNormal(a, 0, 0.4);
        rng.FillNormal(b, 0, 0.4);
        rng.FillNormal(noise, 0, 0.3);
        List<string> train = ["user,item,rating"], test = ["user,item,rating"];
        foreach ((int t, int place) in rng.Permutation(Users * Items)[..Count].Index())
        {
            (int i, int j) = (place / Items, place % Items);
            double rating = 3.5 + a[i] + b[j] + noise[t] + (u[2 * i] * v[2 * j]) + (u[(2 * i) + 1] * v[(2 * j) + 1]);
            (i >= 115 || j >= 78 || t % 5 == 0 ? test : train).Add(string.Create(CultureInfo.InvariantCulture, $"u{i},i{j},{rating:F3}"));
        }
        string known = Path.Combine(folder, "train.csv"), held = Path.Combine(folder, "test.csv");
        File.WriteAllLines(known, train);
        File.WriteAllLines(held, test);
        return (known, held);
    }

    private static double Shade(int x, int y, int c) => 128 + (60 * Math.Sin((0.2 * x) + c) * Math.Cos(0.3 * y)) + (40 * Math.Cos(0.1 * x) * Math.Sin(0.2 * y));

    private static void Save(string file, int channels, bool clear)
    {
        using var picture = new SKBitmap(new SKImageInfo(48, 32, channels == 1 ? SKColorType.Gray8 : SKColorType.Rgba8888, channels == 1 ? SKAlphaType.Opaque : SKAlphaType.Unpremul));
        for (int y = 0; y < 32; y++)
        {
            for (int x = 0; x < 48; x++)
            {
                byte At(int c) => (byte)Math.Round(Shade(x, y, channels == 1 ? 0 : c));
                picture.SetPixel(x, y, channels == 1 ? new SKColor(At(0), At(0), At(0)) : new SKColor(At(0), At(1), At(2), (byte)(clear && (x + y) % 4 == 0 ? 0 : 255)));
            }
        }
        using SKData data = picture.Encode(SKEncodedImageFormat.Png, 100);
        File.WriteAllBytes(file, data.ToArray());
    }
}
