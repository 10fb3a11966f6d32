using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Bench.Methods;

/// <summary>SALT's sheet, scaled down: a network of three layers has learned one task; in the next one its eight largest singular values a layer are 0.5 to 1.5
/// times what they were and the rest has changed by a matrix of rank 4. 200 samples tell of it.</summary>
public static class SaltExperiment
{
    private const int Top = 8;
    private static readonly int[] widths = [64, 128, 128, 10];

    /// <summary>Runs it: what each method leaves of the error on other samples, mean of three tasks, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        Names layers = Names.Pattern("layers.*");
        (string Name, AdapterConfig Config)[] methods =
        [
            ("LoRA r 2", new LoraConfig { Targets = layers, Rank = 2, Alpha = 2 }),
            ("LoRA r 4", new LoraConfig { Targets = layers, Rank = 4, Alpha = 4 }),
            ("singular values only", new SaltConfig { Targets = layers, Ratio = 1, Regularization = 0 }),
            ("SALT, a quarter on top, l 4", new SaltConfig { Targets = layers, Ratio = 0.25, LowRank = 4, Regularization = 0 }),
            ("SALT, a quarter on top, l 8", new SaltConfig { Targets = layers, Ratio = 0.25, LowRank = 8, Regularization = 0 }),
        ];
        var fitting = new Fitting(2000, t => 0.005 * (1 - t));
        using Device device = Device.Cpu();
        using Mlp first = Pretrained(device, stop);
        double[][] left = [.. methods.Select(_ => new double[3])];
        long[] count = new long[methods.Length];
        for (int task = 0; task < 3; task++)
        {
            var rng = new Rng((ulong)task + 10);
            using Mlp teacher = Copy(first, (name, p) => p.Value.Shape.Rank == 2 ? Moved(p.Value, rng.Fork(name)) : p.Value.ToDoubles());
            Samples train = Samples.Of(teacher, 200, widths[0], new Rng((ulong)task + 20)), test = Samples.Of(teacher, 2000, widths[0], new Rng((ulong)task + 30));
            for (int m = 0; m < methods.Length; m++)
            {
                (left[m][task], count[m]) = fitting.Network(first, methods[m].Config, train, test, stop);
            }
        }
        var table = new StringBuilder("| method | parameters | error left, three tasks | mean |\n|---|---|---|---|\n");
        for (int m = 0; m < methods.Length; m++)
        {
            table.Append(CultureInfo.InvariantCulture, $"| {methods[m].Name} | {count[m]:N0} | {string.Join(", ", left[m].Select(v => v.ToString("P1", CultureInfo.InvariantCulture)))} | {left[m].Average():P1} |\n");
        }
        return table.ToString();
    }

    /// <summary>A network that has learned the outputs of another, random one.</summary>
    private static Mlp Pretrained(Device device, CancellationToken stop)
    {
        using var teacher = new Mlp(widths, device, new Rng(1));
        Samples data = Samples.Of(teacher, 4000, widths[0], new Rng(2));
        using var network = new Mlp(widths, device, new Rng(3));
        using var optimizer = new AdamW(network.TrainAll()) { WeightDecay = 0 };
        for (int k = 0; k < 600; k++)
        {
            stop.ThrowIfCancellationRequested();
            optimizer.LearningRate = 2e-3 * (1 - (k / 600.0));
            using Tape tape = device.BeginTape();
            tape.Backward(data.Loss(network)(tape));
            optimizer.Step();
        }
        return Copy(network, (_, p) => p.Value.ToDoubles());
    }

    /// <summary>A frozen network of other weights.</summary>
    private static Mlp Copy(Mlp network, Func<string, Parameter, double[]> weights)
    {
        var copy = new Mlp(widths, network.Device, new Rng(3));
        foreach ((string name, Parameter parameter) in network.Parameters)
        {
            copy.Parameters[name].Value.Set(weights(name, parameter));
        }
        return copy;
    }

    /// <summary>U·C·Vᵀ with the largest values scaled and a change of rank 4 in the rest that is half as large as the rest.</summary>
    private static double[] Moved(Tensor weight, Rng rng)
    {
        using Scope scope = weight.Device.BeginScope();
        int rows = weight.Shape.Rows, cols = weight.Shape.Cols, all = Math.Min(rows, cols), rest = all - Math.Min(Top, all - 4);
        SvdFactors factors = Svd.Of(scope.Of([rows, cols], weight.ToDoubles(), DType.F64), scope);
        double[] s = factors.S.ToDoubles(), x = AdapterRow.Draw(rng.Fork("x"), rest * 4), y = AdapterRow.Draw(rng.Fork("y"), 4 * rest), factor = AdapterRow.Draw(rng.Fork("scale"), all);
        double[] core = new double[all * all], tail = new double[rest * rest];
        for (int i = 0; i < rest * rest; i++)
        {
            tail[i] = Enumerable.Range(0, 4).Sum(k => x[(i / rest * 4) + k] * y[(k * rest) + (i % rest)]);
        }
        double scale = 0.5 * Norm(s.Skip(all - rest)) / Norm(tail);
        for (int i = 0; i < all; i++)
        {
            core[(i * all) + i] = s[i] * (i < all - rest ? 0.5 + (1 / (1 + Math.Exp(-2 * factor[i]))) : 1);
        }
        for (int i = 0; i < rest * rest; i++)
        {
            core[((all - rest + (i / rest)) * all) + all - rest + (i % rest)] += scale * tail[i];
        }
        Tensor middle = new MatMul().Apply(scope.Of([all, all], core, DType.F64), factors.Vt);
        return new MatMul().Apply(factors.U, middle).ToDoubles();
    }

    private static double Norm(IEnumerable<double> values) => Math.Sqrt(values.Sum(v => v * v));
}
