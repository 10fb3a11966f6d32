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
/// <param name="Row">The test row that forces the emulator to run it: an op with its attributes and the shapes of its operands.</param>
/// <param name="Builds">What NVRTC made of it; empty where there is no NVRTC.</param>
/// <param name="Notes">Remarks of the compiler that cost speed, of any architecture.</param>
public sealed record CudaKernelInfo(string Name, string File, DType Type, int Threads, string Row, IReadOnlyList<CudaKernelBuild> Builds, IReadOnlyList<string> Notes);

/// <summary>The CUDA kernels of this build.</summary>
public static class CudaKernelList
{
    private static readonly int[] Architectures = [80, 90];
    private static readonly Lazy<Dictionary<(string Name, DType Type), string>> Rows = new(ReadRows);

    /// <summary>Version of the NVRTC library found here, or null.</summary>
    public static string? NvrtcVersion => CudaCompiler.Version;

    /// <summary>Where NVRTC was looked for and how to get it, where there is none.</summary>
    public static string NvrtcDiagnosis => Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc);

    /// <summary>Why compiled kernels could not be kept on disk by this process, or null.</summary>
    public static string? CacheTrouble => CudaCache.Default.Trouble;

    /// <summary>Compiles kernel files for every architecture and type into an archive for machines without NVRTC.</summary>
    /// <param name="path">The archive; an application finds it beside itself under the name <see cref="PrebuiltName"/>.</param>
    /// <param name="files">Names of kernel files; empty: all.</param>
    /// <param name="cancellation">Stops between two compilations.</param>
    /// <returns>How many binaries it holds.</returns>
    /// <exception cref="DeviceException">There is no NVRTC here, or no kernel file of that name.</exception>
    public static int Prebuild(string path, IReadOnlyCollection<string> files, CancellationToken cancellation = default)
    {
        if (NvrtcVersion is null)
        {
            throw new DeviceException($"CudaKernelList: {NvrtcDiagnosis}");
        }
        Array.ForEach([.. files], file => CudaSources.Shipped.Read(file));
        return CudaPrebuilt.Write(path, CudaSources.Shipped, files.Count > 0 ? files : CudaSources.Shipped.Files, new CudaCompiler(CudaCache.Default), cancellation);
    }

    /// <summary>Name of the archive that <see cref="Prebuild"/> makes.</summary>
    public static string PrebuiltName => CudaPrebuilt.FileName;

    /// <summary>The kernels of some files in every type. Where NVRTC is found it compiles what its cache does not hold.</summary>
    /// <param name="files">Names of kernel files; empty: all.</param>
    /// <exception cref="DeviceException">The emulator's library, which knows the kernels, is missing; or there is no kernel file of that name.</exception>
    public static IReadOnlyList<CudaKernelInfo> All(params IReadOnlyCollection<string> files)
    {
        Array.ForEach([.. files], file => CudaSources.Shipped.Read(file));
        using var emulator = new EmulatedDriver();
        var compiler = new CudaCompiler(CudaCache.Default);
        var entries = emulator.Entries().Where(e => files.Count == 0 || files.Contains(e.File))
            .OrderBy(e => e.File, StringComparer.Ordinal).ThenBy(e => e.Name, StringComparer.Ordinal).ThenBy(e => e.Type).ToList();
        if (NvrtcVersion is not null)
        {
            compiler.WarmUp((from e in entries from a in Architectures select new CudaVariant(e.File, e.Type, a)).Distinct().Where(v => v.HasKernels));
        }
        return [.. entries.Select(e => Describe(e.Name, e.File, e.Type, e.Threads, compiler))];
    }

    // A line a kernel and row: name, types, row; a test writes it from what the emulator launches.
    private static Dictionary<(string Name, DType Type), string> ReadRows()
    {
        using Stream stream = typeof(CudaKernelList).Assembly.GetManifestResourceStream("kernel_rows.tsv")!;
        using var reader = new StreamReader(stream);
        return (from line in reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries)
                let cells = line.Split('\t')
                from type in cells[1].Split(',')
                select (Key: (cells[0], Enum.Parse<DType>(type)), Row: cells[2])).ToDictionary(r => r.Key, r => r.Row);
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
        return new CudaKernelInfo(name, file, type, threads, Rows.Value.GetValueOrDefault((name, type), ""), builds, notes);
    }
}
