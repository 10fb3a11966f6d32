using System.Diagnostics;
using LowRank.Testing;

namespace LowRank.Cuda.Bench;

/// <summary>What NVRTC and its cache cost a training step: every kernel that it launches, one after the other on one core.</summary>
internal static class Compilation
{
    private const double MostCold = 5000, MostCached = 50;      // milliseconds

    /// <summary>Figures; none where there is no NVRTC. <paramref name="folder"/> is made and removed. Cold is the time of the processor, which other work on the
    /// machine does not lengthen.</summary>
    public static IEnumerable<Figure> Measure(string folder, int architecture, int multiprocessors)
    {
        if (CudaCompiler.Version is not { } version)
        {
            yield break;
        }
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
        IReadOnlyList<CudaVariant> variants = Variants(folder, architecture, multiprocessors);
        TimeSpan before = Environment.CpuUsage.TotalTime;
        Get(variants, folder);
        double cold = (Environment.CpuUsage.TotalTime - before).TotalMilliseconds;
        double[] cached = [.. Enumerable.Range(0, 5).Select(_ => Get(variants, folder)).Order()];
        Directory.Delete(folder, recursive: true);
        string of = $"{variants.Count} kernels for {variants[0].Target}";
        yield return new Figure($"NVRTC {version}, all that a bf16 training step launches ({of}), cold, CPU time of one core", cold, "ms", MostCold);
        yield return new Figure($"the same from the cache on disk, median of {cached.Length}", cached[cached.Length / 2], "ms", MostCached);
    }

    // Two layers launch what twelve do.
    private static IReadOnlyList<CudaVariant> Variants(string folder, int architecture, int multiprocessors)
    {
        var driver = new ListingDriver(architecture, multiprocessors);
        using Device device = new CudaDevice(driver);
        using DataSet set = DataSet.Draw(device, new TrainingStep(Path.Combine(folder, "step"), tiny: false, layers: 2).Row);
        set.Call();
        return driver.Variants;
    }

    private static double Get(IReadOnlyList<CudaVariant> variants, string folder)
    {
        var compiler = new CudaCompiler(new CudaCache(Path.Combine(folder, "cache")));
        long began = Stopwatch.GetTimestamp();
        foreach (CudaVariant variant in variants)
        {
            compiler.Get(variant);
        }
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }
}
