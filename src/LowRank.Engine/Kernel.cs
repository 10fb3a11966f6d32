namespace LowRank;

/// <summary>The specification of a kernel: plain loops in float64 over the same argument block.</summary>
internal delegate void KernelReference<TArgs>(in TArgs args) where TArgs : unmanaged, IKernelArgs;

/// <summary>One native function: the same name and argument block on every device, and its float64 reference, which runs for F64 tensors
/// and where no native kernel takes the arguments.</summary>
/// <param name="Name"><c>family_direction</c>, without type or version; the CPU export is <c>lr_cpu_{Name}</c>.</param>
/// <param name="Reference">The specification.</param>
internal sealed record Kernel<TArgs>(string Name, KernelReference<TArgs> Reference) where TArgs : unmanaged, IKernelArgs
{
    private readonly Lazy<nint> cpuEntry = new(() => CpuDevice.TryGetExport("lr_cpu_" + Name, out nint address) ? address : 0);

    /// <summary>What it launches on a CUDA device; null where no CUDA kernel is built.</summary>
    public CudaPlan<TArgs>? Cuda { get; init; }

    /// <summary>True where the plan takes F64 too, because nothing is computed.</summary>
    public bool CudaTakesDoubles { get; init; }

    /// <summary>Address of the CPU export; 0 where the library has none.</summary>
    public nint CpuEntry => cpuEntry.Value;
}
