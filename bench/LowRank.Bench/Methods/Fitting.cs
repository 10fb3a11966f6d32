using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Bench.Methods;

/// <summary>Fits adapters to problems whose answer is known; AdamW without decay, all data in a step.</summary>
/// <param name="Steps">Of AdamW.</param>
/// <param name="Rate">The learning rate at a share of the steps.</param>
internal sealed record Fitting(int Steps, Func<double, double> Rate)
{
    /// <summary>Fits a layer with weight W to W + D and gives the ΔW that it finds.</summary>
    /// <param name="config">Of an adapter on the layer "layer".</param>
    /// <param name="start">W, side x side.</param>
    /// <param name="change">D.</param>
    /// <param name="stop">Ends it.</param>
    public (double[] Found, long Parameters) Weight(AdapterConfig config, double[] start, double[] change, CancellationToken stop)
    {
        int side = (int)Math.Sqrt(change.Length);
        using Device device = Device.Cpu();
        using var model = new OneLayer(device, DType.F32, SiteKind.Linear, [side, side], start);
        using AdaptedModel adapted = model.Attach(config);
        double[] target = [.. start.Zip(change, (w, d) => w + d)];
        Train(adapted, tape => new SquaredError(change.Length).Apply(adapted.Adapters[0].EffectiveWeight(), tape.Of([side, side], target, DType.F32)), stop);
        using Scope scope = device.BeginScope();
        return ([.. adapted.Adapters[0].EffectiveWeight().ToDoubles().Zip(start, (e, w) => e - w)], adapted.ParameterCount);
    }

    /// <summary>Trains adapters on a network's layers to map x to y, and gives what is left of the squared error on other data that the network made before.</summary>
    public (double Left, long Parameters) Network(Mlp network, AdapterConfig config, Samples train, Samples test, CancellationToken stop)
    {
        double before = test.Error(network);
        using AdaptedModel adapted = network.Attach(config);
        Train(adapted, train.Loss(network), stop);
        return (test.Error(network) / before, adapted.ParameterCount);
    }

    private void Train(AdaptedModel adapted, Func<Tape, Tensor> loss, CancellationToken stop)
    {
        using var optimizer = new AdamW(adapted.Parameters) { WeightDecay = 0 };
        for (int k = 0; k < Steps; k++)
        {
            stop.ThrowIfCancellationRequested();
            optimizer.LearningRate = Rate((double)k / Steps);
            using Tape tape = adapted.Model.Device.BeginTape();
            Tensor total = loss(tape);
            if (adapted.Penalty() is { } penalty)
            {
                total = new Add().Apply(total, penalty);
            }
            tape.Backward(total);
            adapted.Step(optimizer);
        }
    }
}

/// <summary>Inputs [count, features] and what a network shall make of them.</summary>
internal sealed record Samples(int Count, double[] X, double[] Y)
{
    /// <summary>Random inputs, and what <paramref name="teacher"/> makes of them.</summary>
    public static Samples Of(Mlp teacher, int count, int features, Rng rng)
    {
        double[] x = AdapterRow.Draw(rng, count * features);
        using Scope scope = teacher.Device.BeginScope();
        return new Samples(count, x, teacher.Forward(scope.Of([count, features], x, DType.F32)).ToDoubles());
    }

    /// <summary>The squared error of a network on them, on a tape.</summary>
    public Func<Tape, Tensor> Loss(Mlp network) => tape =>
        new SquaredError(Y.Length).Apply(network.Forward(tape.Of([Count, X.Length / Count], X, DType.F32)), tape.Of([Count, Y.Length / Count], Y, DType.F32));

    /// <summary>The squared error of a network on them.</summary>
    public double Error(Mlp network)
    {
        using Tape tape = network.Device.BeginTape();
        return Loss(network)(tape).Item();
    }
}
