using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Bench.Methods;

/// <summary>SNELL's sheet, scaled down: a weight 64 x 64 has moved in a tenth of its elements, anywhere; LoRA, kernel distances and SNELL of rank 8 are fitted to
/// it. Then a network of two layers learns the outputs of one whose weights have moved so.</summary>
public static class SnellExperiment
{
    private const int Size = 64, Rank = 8, Train = 512, Test = 2048;
    private const double Dropped = 0.9;

    /// <summary>Runs it: what each method at the best of six learning rates leaves of the change and of the network's error, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        double[] rates = [0.01, 0.03, 0.1, 0.3, 1, 3];
        Names layers = Names.Pattern("layer.*");
        (string Name, AdapterConfig Config)[] methods =
        [
            ("LoRA", new LoraConfig { Targets = layers, Rank = Rank, Alpha = Rank }),
            ("kernel distances (KLoRA)", new SnellConfig { Targets = layers, Rank = Rank, Mode = SnellMode.Distances }),
            ("SNELL, sparsity 0.9", new SnellConfig { Targets = layers, Rank = Rank, Sparsity = Dropped }),
            ("SNELL, sparsity 0.9, paper-soft", new SnellConfig { Targets = layers, Rank = Rank, Sparsity = Dropped, Mode = SnellMode.PaperSoft }),
        ];
        double[] change = Sparse(new Rng(1), Size * Size);
        using Device device = Device.Cpu();
        using var network = new Mlp([Size, Size, Size], device, new Rng(2));
        using var teacher = new Mlp([Size, Size, Size], device, new Rng(2));
        foreach (string layer in (string[])["layers.0.weight", "layers.1.weight"])
        {
            double[] moved = [.. teacher.Parameters[layer].Value.ToDoubles().Zip(Sparse(new Rng(3).Fork(layer), Size * Size), (w, d) => w + (d / 4))];
            teacher.Parameters[layer].Value.Set(moved);
        }
        Samples train = Samples.Of(teacher, Train, Size, new Rng(4)), test = Samples.Of(teacher, Test, Size, new Rng(5));
        var table = new StringBuilder("| method, rank 8 | parameters a layer | change left | left with its largest tenth only | error left on a network |\n|---|---|---|---|---|\n");
        foreach ((string name, AdapterConfig config) in methods)
        {
            ((double[] found, long parameters), double rate) = rates.Select(r => (new Fitting(3000, t => r * (1 - t)).Weight(config, new double[Size * Size], change, stop), r)).MinBy(f => Close.Error(f.Item1.Found, change));
            (double left, double networkRate) = rates.Select(r => (new Fitting(1500, t => r * (1 - t)).Network(network, config, train, test, stop).Left, r)).MinBy(f => f.Left);
            table.Append(CultureInfo.InvariantCulture, $"| {name} | {parameters:N0} | {Close.Error(found, change):P1} (rate {rate}) | {Close.Error(Largest(found), change):P1} | {left:P1} (rate {networkRate}) |\n");
        }
        return table.ToString();
    }

    /// <summary>A tenth of the elements random, the others 0.</summary>
    private static double[] Sparse(Rng rng, int count)
    {
        double[] values = AdapterRow.Draw(rng.Fork("values"), count), places = AdapterRow.Draw(rng.Fork("places"), count);
        double least = places.Order().ElementAt((int)(Dropped * count));
        return [.. values.Zip(places, (v, p) => p >= least ? v : 0)];
    }

    private static double[] Largest(double[] values)
    {
        double least = values.Select(Math.Abs).Order().ElementAt((int)(Dropped * values.Length));
        return [.. values.Select(v => Math.Abs(v) >= least ? v : 0)];
    }
}
