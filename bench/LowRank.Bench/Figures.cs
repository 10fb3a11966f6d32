using System.Diagnostics;
using LowRank.Bench.Cases;

namespace LowRank.Bench;

/// <summary>Figures that are no comparison: start of the command line, size of the library, resident bytes of a layer.</summary>
public static class Figures
{
    /// <summary>Name for <c>--group</c>.</summary>
    public const string Group = "figures";

    private static readonly string[] Library = ["LowRank.Interop.dll", "LowRank.Engine.dll", "LowRank.Formats.dll", "LowRank.Adapters.dll", "LowRank.Training.dll", "LowRank.Models.dll", "liblowrank_cpu.so"];

    /// <summary>All of them; the command line's start only where it has been built.</summary>
    public static IReadOnlyList<Figure> Measure(Device device)
    {
        List<Figure> figures = [new("library with its native part", Library.Sum(f => new FileInfo(Path.Combine(AppContext.BaseDirectory, f)).Length) / 1e6, "MB")];
        figures.AddRange(Resident(device));
        figures.AddRange(Rows.All.OfType<WordLossRow>().Select(r => new Figure($"peak bytes of {r.Group}: {r.Shape}, {$"{r.Type}".ToLowerInvariant()}", WordLossRow.PeakBytes(device, r) / 1e6, "MB")));
        figures.Add(new("launch of a CUDA kernel (fill), what the engine adds to the driver's call, median of 15", LaunchCost.Measure(), "us"));
        string cli = Path.GetFullPath(Path.Combine(Testing.Golden.Repository, "src", "LowRank.Cli", "bin", "Release", "net10.0", "lowrank"));
        if (File.Exists(cli))
        {
            figures.Add(new("start of the command line (lowrank --version), median of 9", Enumerable.Range(0, 9).Select(_ => Start(cli)).Order().ElementAt(4), "ms"));
        }
        return figures;
    }

    private static double Start(string cli)
    {
        long began = Stopwatch.GetTimestamp();
        using Process process = Process.Start(new ProcessStartInfo(cli, ["--version"]) { RedirectStandardOutput = true })!;
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }

    /// <summary>What a frozen 2048x2048 layer of float32 (16.8 MB as a file holds it) keeps: packed for the forward pass, and once gradients have gone through it.</summary>
    private static IEnumerable<Figure> Resident(Device device)
    {
        const int n = 2048, tokens = 16;
        using Scope layer = device.NewStore();
        using Tape tape = device.BeginTape();
        Tensor w = Packing.Pack(tape.NewZeros([n, n], DType.F32), layer), x = tape.NewZeros([tokens, n], DType.F32);
        yield return new("bytes kept of a frozen 2048x2048 float32 layer, forward", layer.Bytes / 1e6, "MB");
        x.NeedsGradient = true;
        Tensor y = new Linear().Apply(x, w);
        tape.Backward(y, tape.NewZeros(y.Shape, DType.F32));
        yield return new("the same after a backward pass", layer.Bytes / 1e6, "MB");
    }
}
