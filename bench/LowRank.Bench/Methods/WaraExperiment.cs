using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Testing;

namespace LowRank.Bench.Methods;

/// <summary>WaRA's sheet, scaled down: a weight 128 x 128 moves by D; LoRA and both modes of WaRA with 1,024 parameters each are fitted to W + D. D is
/// upsampled low-resolution noise (smooth), noise without its local means (rough), or both with equal energy (mixed).</summary>
public static class WaraExperiment
{
    private const int Size = 128, Block = 16;

    /// <summary>Runs it: what each method leaves of D, ‖D - ΔW‖/‖D‖, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        (string Name, AdapterConfig Config)[] methods =
        [
            ("LoRA r 4", new LoraConfig { Targets = ["layer"], Rank = 4, Alpha = 4 }),
            ("WaRA shared, db2, r 8", new WaraConfig { Targets = ["layer"], Rank = 8, Alpha = 8 }),
            ("WaRA subband, haar, r 2 a band", new WaraConfig { Targets = ["layer"], Mode = "subband", Rank = 2, Alpha = 2 }),
            ("WaRA subband, haar, J 3, r 8 for LL3, 2 beside it, 1 on finer levels", Deep),
        ];
        double[] smooth = Upsampled(AdapterRow.Draw(new Rng(1), Size / Block * (Size / Block))), rough = Detail(AdapterRow.Draw(new Rng(2), Size * Size));
        double[][] targets = [Unit(smooth), Unit(rough), Unit([.. Unit(smooth).Zip(Unit(rough), (a, b) => a + b)])];
        var fitting = new Fitting(1500, t => 0.01 * (1 - t));
        var table = new StringBuilder("| method | parameters | smooth | rough | mixed |\n|---|---|---|---|---|\n");
        foreach ((string name, AdapterConfig config) in methods)
        {
            (double[] Found, long Parameters)[] fits = [.. targets.Select(d => fitting.Weight(config, new double[Size * Size], d, stop))];
            string[] left = [.. fits.Zip(targets, (f, d) => Close.Error(f.Found, d).ToString("P1", CultureInfo.InvariantCulture))];
            table.Append(CultureInfo.InvariantCulture, $"| {name} | {fits[0].Parameters:N0} | {string.Join(" | ", left)} |\n");
        }
        return table.ToString();
    }

    private static WaraConfig Deep => new()
    {
        Targets = ["layer"],
        Mode = "subband",
        Levels = 3,
        Rank = 1,
        Alpha = 1,
        Ranks = new Dictionary<string, double> { ["LL3"] = 8, ["LH3"] = 2, ["HL3"] = 2, ["HH3"] = 2 },
    };

    private static double[] Upsampled(double[] coarse) => [.. Enumerable.Range(0, Size * Size).Select(i => coarse[(i / Size / Block * (Size / Block)) + (i % Size / Block)])];

    /// <summary>Noise less its means over 2 x 2 elements.</summary>
    private static double[] Detail(double[] noise)
    {
        double Mean(int i)
        {
            int at = (i / Size / 2 * 2 * Size) + (i % Size / 2 * 2);
            return (noise[at] + noise[at + 1] + noise[at + Size] + noise[at + Size + 1]) / 4;
        }
        return [.. noise.Select((v, i) => v - Mean(i))];
    }

    private static double[] Unit(double[] values)
    {
        double norm = Math.Sqrt(values.Sum(v => v * v));
        return [.. values.Select(v => v / norm)];
    }
}
