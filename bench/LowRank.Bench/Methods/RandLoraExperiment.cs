using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Testing;

namespace LowRank.Bench.Methods;

/// <summary>RandLoRA's sheet, scaled down: a weight 64 x 64 has moved by an update of full rank, once one that RandLoRA's bases can express and once noise;
/// RandLoRA of 576 parameters and LoRA of about as many are fitted to it.</summary>
public static class RandLoraExperiment
{
    private const int Size = 64;

    /// <summary>Runs it: the share of the change's energy that each method leaves, beside the least that its rank allows, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        var fitting = new Fitting(4000, t => t < 0.75 ? 0.01 : 0.001);
        var bases = new RandLoraConfig { Targets = ["layer"], Rank = 8, Alpha = 160 };
        (string Name, int? Rank, AdapterConfig Config)[] methods =
        [
            ("RandLoRA r 8", null, bases),
            ("LoRA r 4", 4, new LoraConfig { Targets = ["layer"], Rank = 4, Alpha = 4 }),
            ("LoRA r 5", 5, new LoraConfig { Targets = ["layer"], Rank = 5, Alpha = 5 }),
        ];
        double[] inside = Inside(bases), noise = AdapterRow.Draw(new Rng(7), Size * Size);
        var table = new StringBuilder("| method | parameters | update from the bases | best of its rank | noise | best of its rank |\n|---|---|---|---|---|---|\n");
        foreach ((string name, int? rank, AdapterConfig config) in methods)
        {
            table.Append(CultureInfo.InvariantCulture, $"| {name} ");
            long count = 0;
            string cells = "";
            foreach (double[] change in (double[][])[inside, noise])
            {
                (double[] found, count) = fitting.Weight(config, new double[Size * Size], change, stop);
                cells += string.Create(CultureInfo.InvariantCulture, $"| {Math.Pow(Close.Error(found, change), 2):G3} | {(rank is { } r ? Beyond(change, r).ToString("G3", CultureInfo.InvariantCulture) : "")} ");
            }
            table.Append(CultureInfo.InvariantCulture, $"| {count:N0} {cells}|\n");
        }
        return table.ToString();
    }

    /// <summary>An update of random scales over the bases of <paramref name="config"/>.</summary>
    private static double[] Inside(RandLoraConfig config)
    {
        using Device device = Device.Cpu();
        using var model = new OneLayer(device, DType.F32, SiteKind.Linear, [Size, Size], new double[Size * Size]);
        using AdaptedModel adapted = model.Attach(config);
        foreach (Parameter p in adapted.Parameters)
        {
            double scale = p.Name.EndsWith("gamma", StringComparison.Ordinal) ? 1.0 / Size : 1;
            p.Value.Set([.. AdapterRow.Draw(new Rng(6).Fork(p.Name), (int)p.Value.Shape.Count).Select(v => v * scale)]);
        }
        using Scope scope = device.BeginScope();
        return adapted.Adapters[0].EffectiveWeight().ToDoubles();
    }

    /// <summary>The share of the energy outside the largest singular values.</summary>
    private static double Beyond(double[] change, int rank)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        double[] energy = [.. Svd.Of(scope.Of([Size, Size], change, DType.F64), scope).S.ToDoubles().Select(s => s * s)];
        return energy.Skip(rank).Sum() / energy.Sum();
    }
}
