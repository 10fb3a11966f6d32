using System.Diagnostics;

namespace LowRank.Cuda.Bench;

/// <summary>What NVRTC and its cache cost a training step: every file it needs, one after the other on one core.</summary>
internal static class Compilation
{
    private const double MostCold = 5000, MostCached = 50;      // milliseconds

    /// <summary>Figures; none where there is no NVRTC. <paramref name="folder"/> is made and removed.</summary>
    public static IEnumerable<Figure> Measure(string folder, int architecture)
    {
        if (CudaCompiler.Version is not { } version)
        {
            yield break;
        }
        CudaVariant[] variants = [.. Variants(architecture)];
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
        double cold = Milliseconds(variants, new CudaCompiler(new CudaCache(folder)));
        double[] cached = [.. Enumerable.Range(0, 5).Select(_ => Milliseconds(variants, new CudaCompiler(new CudaCache(folder)))).Order()];
        Directory.Delete(folder, recursive: true);
        string of = $"{variants.Length} files for {variants[0].Target}";
        yield return new Figure($"NVRTC {version}, all that a bf16 training step may use ({of}), cold, one core", cold, "ms", MostCold);
        yield return new Figure($"the same from the cache on disk, median of {cached.Length}", cached[cached.Length / 2], "ms", MostCached);
    }

    /// <summary>All files for the activations' type, and for parameters in F32 what moves and updates them.</summary>
    private static IEnumerable<CudaVariant> Variants(int architecture) =>
        from file in CudaSources.Shipped.Files
        from type in file is "adam.cu" or "rows.cu" or "pointwise.cu" ? (DType[])[DType.BF16, DType.F32] : [DType.BF16]
        let variant = new CudaVariant(file, type, architecture)
        where variant.HasKernels
        select variant;

    private static double Milliseconds(CudaVariant[] variants, CudaCompiler compiler)
    {
        long began = Stopwatch.GetTimestamp();
        foreach (CudaVariant variant in variants)
        {
            compiler.Get(variant);
        }
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }
}
