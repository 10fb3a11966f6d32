using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Training.Tests;

/// <summary>A perceptron on points with classes, and what a run over them reported.</summary>
internal sealed class SmallRun : IDisposable, IProgress<TrainingProgress>
{
    public const int Samples = 22, Inputs = 5, Classes = 3;
    private readonly float[] points = new float[Samples * Inputs];
    private readonly CancellationTokenSource stop = new();
    private readonly int[] labels = new int[Samples];

    public SmallRun(DType type = DType.F32)
    {
        Device = Devices.Open("cpu");
        Model = new Mlp([Inputs, 12, Classes], Device, new Rng(3), type: type);
        var rng = new Rng(4);
        rng.FillUniform(points, -1, 1);
        for (int i = 0; i < Samples; i++)
        {
            labels[i] = points[i * Inputs] > 0.3f ? 2 : points[(i * Inputs) + 1] > 0 ? 1 : 0;
        }
    }

    public Device Device { get; }

    public Mlp Model { get; }

    /// <summary>Every progress report, in order.</summary>
    public List<TrainingProgress> Reports { get; } = [];

    /// <summary>Called after each report.</summary>
    public Action<TrainingProgress>? After { get; set; }

    /// <summary>Noise on the inputs, drawn from the batch's generator.</summary>
    public float Noise { get; init; }

    /// <summary>Samples with an even number count twice in the loss.</summary>
    public bool Repeats { get; init; }

    /// <summary>The samples that each call of <see cref="Loss"/> was given.</summary>
    public List<int[]> Batches { get; } = [];

    public Tensor Loss(TrainingBatch batch)
    {
        int[] indices = Repeats ? Repeated(batch.Indices.Span) : batch.Indices.ToArray();
        Batches.Add(indices);
        var noise = new float[indices.Length * Inputs];
        batch.Rng.FillUniform(noise, -Noise, Noise);
        float[] x = [.. indices.SelectMany(i => points.Skip(i * Inputs).Take(Inputs)).Zip(noise, (a, b) => a + b)];
        Tensor input = Device.Current!.Of([indices.Length, Inputs], x, Model.DType);
        return Losses.CrossEntropy(Model.Forward(input), [.. indices.Select(i => labels[i])]);
    }

    /// <summary>Samples, those with an even number twice.</summary>
    public static int[] Repeated(ReadOnlySpan<int> samples) => [.. samples.ToArray().SelectMany(i => Enumerable.Repeat(i, i % 2 == 0 ? 2 : 1))];

    /// <summary>Runs a trainer to its end, or until <see cref="Stop"/>, and collects its reports.</summary>
    public TrainingResult Train(Trainer trainer) => trainer.Run(this, stop.Token);

    /// <summary>Cancels the run: it ends before its next step.</summary>
    public void Stop() => stop.Cancel();

    public void Report(TrainingProgress value)
    {
        Reports.Add(value);
        After?.Invoke(value);
    }

    public void Dispose()
    {
        stop.Dispose();
        Model.Dispose();
        Device.Dispose();
    }

    /// <summary>Bits of what is trained.</summary>
    public static byte[] Bits(IEnumerable<Parameter> parameters) => [.. parameters.SelectMany(p => p.Value.ToBytes())];
}

/// <summary>A folder that goes with the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("lowrank-").FullName;

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
