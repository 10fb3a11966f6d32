using System.Diagnostics;

namespace LowRank.Bench;

/// <summary>Figures that are no comparison: start of the command line, size of the library, resident bytes of a layer.</summary>
public static class Figures
{
    private static readonly string[] Library = ["LowRank.Interop.dll", "LowRank.Engine.dll", "LowRank.Formats.dll", "LowRank.Adapters.dll", "LowRank.Training.dll", "LowRank.Models.dll", "liblowrank_cpu.so"];

    /// <summary>All of them; the command line's start only where it has been built.</summary>
    public static IReadOnlyList<Figure> Measure(Device device)
    {
        List<Figure> figures = [new("library with its native part", Library.Sum(f => new FileInfo(Path.Combine(AppContext.BaseDirectory, f)).Length) / 1e6, "MB")];
        figures.AddRange(Resident(device));
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

    /// <summary>What a frozen 2048x2048 layer of float32 (16.8 MB as a file holds it) keeps resident: forward alone, and once gradients have gone through it.</summary>
    private static IEnumerable<Figure> Resident(Device device)
    {
        const int n = 2048, tokens = 16;
        float[] values = new float[n * n];
        new Rng(1).FillUniform(values, -1, 1);
        using Scope store = device.NewStore();
        Tensor x = store.Of([tokens, n], values.AsSpan(0, tokens * n));
        using (Scope scope = device.BeginScope())
        {
            new Linear().Apply(x, scope.Of([n, n], values));      // workspaces and blocks are there from here on
        }
        long before = Environment.WorkingSet;
        Tensor w;
        using (Scope scope = device.BeginScope())
        {
            w = Packing.Pack(scope.Of([n, n], values), store);
            new Linear().Apply(x, w);
        }
        yield return new("resident bytes of a frozen 2048x2048 float32 layer, forward", (Environment.WorkingSet - before) / 1e6, "MB");
        x.NeedsGradient = true;
        using (Tape tape = device.BeginTape())
        {
            Tensor y = new Linear().Apply(x, w);
            tape.Backward(y, tape.NewZeros(y.Shape, DType.F32));
        }
        yield return new("the same after a backward pass", (Environment.WorkingSet - before) / 1e6, "MB");
    }
}
