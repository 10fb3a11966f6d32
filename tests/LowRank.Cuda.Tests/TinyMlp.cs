using System.Runtime.InteropServices;

namespace LowRank.Cuda.Tests;

/// <summary>A training step of two layers, the first with an adapter: inputs and labels change from step to step, and so does the learning rate.</summary>
internal sealed class TinyMlp : IDisposable
{
    private const int Tokens = 9, Inputs = 12, Hidden = 20, Classes = 5, Rank = 3;
    private readonly Scope store;
    private readonly Tensor x, labels, w, loss;
    private readonly Parameter[] parameters;
    private readonly Rng rng = new(11);
    private readonly float[] values = new float[Tokens * Inputs];

    public TinyMlp(Device device, string optimizer)
    {
        Device = device;
        store = device.NewStore();
        Tensor Draw(string name, params int[] shape)
        {
            var drawn = new float[Shape.Of(shape).Count];
            rng.Fork(name).FillUniform(drawn, -0.5f, 0.5f);
            return store.Of(Shape.Of(shape), drawn);
        }
        (x, labels, loss) = (store.NewZeros([Tokens, Inputs], DType.F32), store.Of([Tokens], new int[Tokens]), store.NewZeros([1], DType.F32));
        w = Draw("w", Hidden, Inputs);
        parameters = [new("a", Draw("a", Rank, Inputs)), new("b", Draw("b", Hidden, Rank)), new("head", Draw("head", Classes, Hidden)), new("bias", Draw("bias", Classes))];
        Optimizer = optimizer == "adamw" ? new AdamW(parameters) { MaxGradientNorm = 0.5 } : new Sgd(parameters) { Momentum = 0.9, Dampening = 0.25 };
    }

    public Device Device { get; }

    public Optimizer Optimizer { get; }

    /// <summary>What the step of that number reads.</summary>
    public void Prepare(int step)
    {
        rng.Fork($"x {step}").FillUniform(values, -1, 1);
        x.Set(values);
        labels.SetRaw(MemoryMarshal.AsBytes<int>([.. Enumerable.Range(0, Tokens).Select(i => (i + step) % Classes)]));
        Optimizer.LearningRate = 0.02 / (1 + step);
    }

    /// <summary>Forward, backward, update.</summary>
    public void Step()
    {
        using Tape tape = Device.BeginTape();
        Tensor hidden = new Gelu().Apply(new LoraLinear(2).Apply(x, w, parameters[0], parameters[1]));
        Tensor value = new CrossEntropy().Apply(new Linear().Apply(hidden, parameters[2], parameters[3]), labels);
        tape.Backward(value);
        Optimizer.Step();
        loss.CopyFrom(value);
    }

    /// <summary>Every number that training leaves.</summary>
    public double[] State() => [.. parameters.SelectMany(p => p.Value.ToDoubles()), .. Optimizer.State().SelectMany(s => s.Value.ToDoubles()), loss.Item(), Optimizer.GradientNorm, Optimizer.Steps];

    public void Dispose()
    {
        Optimizer.Dispose();
        store.Dispose();
    }
}
