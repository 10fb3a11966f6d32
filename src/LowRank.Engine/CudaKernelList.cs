namespace LowRank;

/// <summary>What the compiler says of a kernel on one architecture.</summary>
/// <param name="Architecture">sm_80, sm_90a.</param>
/// <param name="Registers">A thread.</param>
/// <param name="SpillBytes">Bytes of spilled registers, stores and loads together.</param>
/// <param name="StackBytes">Local memory a thread.</param>
public sealed record CudaKernelBuild(string Architecture, int Registers, int SpillBytes, int StackBytes);

/// <summary>A CUDA kernel compiled for one type of activations.</summary>
/// <param name="Name">The function.</param>
/// <param name="File">Its source under native/cuda.</param>
/// <param name="Type">Type of activations.</param>
/// <param name="Threads">A block.</param>
/// <param name="Emulated">True where the emulator runs it.</param>
/// <param name="Builds">What NVRTC made of it; empty where there is no NVRTC.</param>
/// <param name="Notes">Remarks of the compiler that cost speed, of any architecture.</param>
public sealed record CudaKernelInfo(string Name, string File, DType Type, int Threads, bool Emulated, IReadOnlyList<CudaKernelBuild> Builds, IReadOnlyList<string> Notes);

/// <summary>The CUDA kernels of this build.</summary>
public static class CudaKernelList
{
    private static readonly int[] Architectures = [80, 90];

    /// <summary>Version of the NVRTC library found here, or null.</summary>
    public static string? NvrtcVersion => CudaCompiler.Version;

    /// <summary>Where NVRTC was looked for and how to get it, where there is none.</summary>
    public static string NvrtcDiagnosis => Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc);

    /// <summary>Every kernel in every type. Where NVRTC is found it compiles what its cache does not hold.</summary>
    /// <exception cref="DeviceException">The emulator's library, which knows the kernels, is missing.</exception>
    public static IReadOnlyList<CudaKernelInfo> All()
    {
        using var emulator = new EmulatedDriver();
        var compiler = new CudaCompiler(CudaCache.Default);
        var entries = emulator.Entries().OrderBy(e => e.File, StringComparer.Ordinal).ThenBy(e => e.Name, StringComparer.Ordinal).ThenBy(e => e.Type).ToList();
        if (NvrtcVersion is not null)
        {
            compiler.WarmUp((from e in entries from a in Architectures select new CudaVariant(e.File, e.Type, a)).Distinct().Where(v => v.HasKernels));
        }
        return [.. entries.Select(e => Describe(e.Name, e.File, e.Type, e.Threads, compiler))];
    }

    private static CudaKernelInfo Describe(string name, string file, DType type, int threads, CudaCompiler compiler)
    {
        List<CudaKernelBuild> builds = [];
        List<string> notes = [];
        foreach (int architecture in NvrtcVersion is null ? [] : Architectures)
        {
            var variant = new CudaVariant(file, type, architecture);
            if (variant.HasKernels)
            {
                CudaBinary binary = compiler.Get(variant);
                CudaFacts facts = binary.Kernels[name];
                builds.Add(new CudaKernelBuild(variant.Target, facts.Registers, facts.SpillBytes, facts.StackBytes));
                notes.AddRange(binary.Notes);
            }
        }
        return new CudaKernelInfo(name, file, type, threads, Emulated: true, builds, notes);
    }
}
