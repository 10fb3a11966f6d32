using System.Collections.Concurrent;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using LowRank.Interop;

namespace LowRank;

/// <summary>What one compilation is made of: a file or one kernel of it, the type of activations, and the architecture (80, 86, 89, 90 for sm_90a ...).</summary>
/// <param name="File">Under native/cuda.</param>
/// <param name="Type">LR_DTYPE.</param>
/// <param name="Architecture">Compute capability times 10.</param>
/// <param name="Portable">PTX that the driver translates for this architecture and every newer one, in place of machine code for this one alone.</param>
/// <param name="Kernel">The one that is wanted, as it comes out among all of the file; null: all.</param>
internal readonly record struct CudaVariant(string File, DType Type, int Architecture, bool Portable = false, string? Kernel = null)
{
    /// <summary>sm_80, sm_90a, compute_80.</summary>
    public string Target => Portable ? $"compute_{Architecture}" : Architecture == 90 ? "sm_90a" : $"sm_{Architecture}";

    /// <summary>False where the file has nothing for this type or architecture: Hopper's kernels are for 16-bit types on sm_90a, optimisers, alternating least squares, scaled bases and merges for F32.</summary>
    public bool HasKernels => File switch
    {
        "adam.cu" or "als.cu" or "bases.cu" or "concrete.cu" or "gates.cu" or "merge.cu" => Type == DType.F32,
        _ when File.EndsWith("_sm90.cu", StringComparison.Ordinal) => Architecture == 90 && !Portable && Type != DType.F32,
        _ => true,
    };

    public override string ToString() => $"{(Kernel is null ? "" : Kernel + " of ")}{File} {Type} {Target}";
}

/// <summary>What ptxas says of one kernel.</summary>
/// <param name="Registers">A thread.</param>
/// <param name="SpillBytes">Stores and loads of spilled registers together.</param>
/// <param name="StackBytes">Local memory a thread.</param>
internal sealed record CudaFacts(int Registers, int SpillBytes, int StackBytes);

/// <summary>A compiled file.</summary>
/// <param name="Cubin">Machine code; PTX text that ends in a zero where the variant is portable.</param>
/// <param name="Log">The compiler's log as it came.</param>
/// <param name="Kernels">Facts by kernel name.</param>
/// <param name="Notes">Remarks that cost speed: setmaxnreg ignored, wgmma serialised.</param>
internal sealed record CudaBinary(byte[] Cubin, string Log, IReadOnlyDictionary<string, CudaFacts> Kernels, IReadOnlyList<string> Notes);

/// <summary>Compiles kernel files with NVRTC, in memory and in a cache on disk; without NVRTC it takes what was compiled beforehand. Safe from several threads.</summary>
/// <param name="cache">On disk; null: none.</param>
/// <param name="nvrtc">Version of NVRTC, null to do without.</param>
/// <param name="prebuilt">Path of the archive for machines without NVRTC.</param>
/// <param name="sources">Kernel files and headers.</param>
internal sealed partial class CudaCompiler(CudaCache? cache, string? nvrtc, string prebuilt, CudaSources sources)
{
    private readonly ConcurrentDictionary<CudaVariant, Lazy<CudaBinary>> compiled = new();
    private readonly Lazy<CudaPrebuilt> archive = new(() => CudaPrebuilt.Open(prebuilt, sources));

    /// <summary>With what this machine offers.</summary>
    public CudaCompiler(CudaCache? cache) : this(cache, Version, CudaPrebuilt.Beside, CudaSources.Shipped)
    {
    }

    /// <summary>12.4, 13.0; null where there is no NVRTC.</summary>
    public static string? Version { get; } = FindVersion();

    /// <summary>Variants compiled by NVRTC, and taken from the cache, since the start.</summary>
    public (int Compiled, int Cached) Counts => (compiledCount, cachedCount);

    private int compiledCount, cachedCount;

    /// <summary>The binary, from memory, from the cache, or compiled now.</summary>
    /// <exception cref="DeviceException">There is neither NVRTC nor an archive of these sources: says where they were looked for.</exception>
    /// <exception cref="KernelException">The source does not compile: the log, with lines of the .cu file.</exception>
    public CudaBinary Get(CudaVariant variant)
    {
        Lazy<CudaBinary> binary = compiled.GetOrAdd(variant, v => new(() => Make(v)));
        try
        {
            return binary.Value;
        }
        catch
        {
            compiled.TryRemove(new(variant, binary));     // another try may succeed: a library set up meanwhile, memory freed
            throw;
        }
    }

    /// <summary>The least that has what a launch calls: its kernel alone, so that a first step waits for nothing it does not use; the whole file where it was
    /// compiled beforehand.</summary>
    public CudaVariant Holding(in CudaLaunch launch, int architecture) => new(launch.File, launch.Type, architecture, Kernel: nvrtc is null ? null : launch.Name);

    /// <summary>Compiles what is not there yet, several at a time.</summary>
    public void WarmUp(IEnumerable<CudaVariant> variants, CancellationToken cancellation = default)
    {
        try
        {
            Parallel.ForEach(variants, new ParallelOptions { MaxDegreeOfParallelism = Math.Min(8, Environment.ProcessorCount), CancellationToken = cancellation }, v => Get(v));
        }
        catch (AggregateException errors)
        {
            throw errors.InnerExceptions[0];
        }
    }

    /// <summary>Hash of all that the machine code depends on.</summary>
    public string Key(CudaVariant variant)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        void Add(string text) => hash.AppendData(Encoding.UTF8.GetBytes(text + "\n"));
        Add($"{variant.File} NVRTC {nvrtc} ABI {KernelTable.AbiVersion}");
        Array.ForEach(Options(variant), Add);
        sources.AddTo(hash, [variant.File]);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private CudaBinary Make(CudaVariant variant)
    {
        if (nvrtc is null)
        {
            return archive.Value.Read(variant);
        }
        variant = Known(variant);
        string key = Key(variant);
        if (cache?.TryRead(key) is { } found)
        {
            Interlocked.Increment(ref cachedCount);
            return Parse(found.Cubin, found.Log);
        }
        (byte[] cubin, string log) = Compile(variant, Options(variant));
        Interlocked.Increment(ref compiledCount);
        cache?.Write(key, cubin, log);
        return Parse(cubin, log);
    }

    // A GPU newer than the compiler takes PTX of the newest architecture that the compiler knows.
    private static unsafe CudaVariant Known(CudaVariant variant)
    {
        Check(Nvrtc.GetNumSupportedArchs(out int count), "nvrtcGetNumSupportedArchs");
        int[] known = new int[count];
        fixed (int* p = known)
        {
            Check(Nvrtc.GetSupportedArchs(p), "nvrtcGetSupportedArchs");
        }
        return variant.Portable || known.Contains(variant.Architecture) ? variant : variant with { Architecture = known.Where(a => a < variant.Architecture).Max(), Portable = true };
    }

    private static string[] Options(CudaVariant variant) =>
    [
        $"--gpu-architecture={variant.Target}", "--std=c++17", "-default-device", "--ptxas-options=-v", "--ptxas-options=--warn-on-local-memory-usage",
        $"-DLR_DTYPE={(int)variant.Type}", $"-DLR_ARCH={variant.Architecture * 10}", .. variant.Kernel is { } kernel ? (string[])["-DLR_ONLY", $"-DLR_ONLY_{kernel}=~,"] : [],
    ];

    private unsafe (byte[] Cubin, string Log) Compile(CudaVariant variant, string[] options)
    {
        List<nint> memory = [];
        byte* Text(ReadOnlySpan<byte> utf8)
        {
            var copy = (byte*)NativeMemory.Alloc((nuint)utf8.Length + 1);
            utf8.CopyTo(new Span<byte>(copy, utf8.Length));
            copy[utf8.Length] = 0;
            memory.Add((nint)copy);
            return copy;
        }
        nint program = 0;
        try
        {
            byte*[] names = new byte*[sources.Headers.Count], texts = new byte*[names.Length], flags = new byte*[options.Length];
            int i = 0;
            foreach ((string name, byte[] text) in sources.Headers)
            {
                names[i] = Text(Encoding.UTF8.GetBytes(name));
                texts[i++] = Text(text);
            }
            for (i = 0; i < flags.Length; i++)
            {
                flags[i] = Text(Encoding.UTF8.GetBytes(options[i]));
            }
            fixed (byte** pn = names, pt = texts, pf = flags)
            {
                Check(Nvrtc.CreateProgram(out program, Text(sources.Read(variant.File)), Text(Encoding.UTF8.GetBytes(variant.File)), names.Length, pt, pn), "nvrtcCreateProgram");
                int status = Nvrtc.CompileProgram(program, flags.Length, pf);
                Check(Nvrtc.GetProgramLogSize(program, out nuint logBytes), "nvrtcGetProgramLogSize");
                byte[] log = new byte[logBytes];
                fixed (byte* p = log)
                {
                    Check(Nvrtc.GetProgramLog(program, p), "nvrtcGetProgramLog");
                }
                string said = Encoding.UTF8.GetString(log).TrimEnd('\0', '\n');
                if (status != 0)
                {
                    throw new KernelException($"CudaCompiler: {variant} does not compile ({Name(status)}): {said}");
                }
                Check(variant.Portable ? Nvrtc.GetPtxSize(program, out nuint bytes) : Nvrtc.GetCubinSize(program, out bytes), "the size of what nvrtcCompileProgram made");
                byte[] cubin = new byte[bytes];
                fixed (byte* p = cubin)
                {
                    Check(variant.Portable ? Nvrtc.GetPtx(program, p) : Nvrtc.GetCubin(program, p), "reading what nvrtcCompileProgram made");
                }
                return (cubin, said);
            }
        }
        finally
        {
            if (program != 0)
            {
                _ = Nvrtc.DestroyProgram(ref program);
            }
            memory.ForEach(p => NativeMemory.Free((void*)p));
        }
    }

    internal static CudaBinary Parse(byte[] cubin, string log)
    {
        var kernels = new SortedDictionary<string, CudaFacts>(StringComparer.Ordinal);
        foreach (Match m in Entries().Matches(log))
        {
            kernels[m.Groups["name"].Value] = new CudaFacts(Number(m, "registers"), Number(m, "stores") + Number(m, "loads"), Number(m, "stack"));
        }
        string[] notes = [.. log.Split('\n').Where(line => Costly().IsMatch(line)).Select(line => line.Trim())];
        return new CudaBinary(cubin, log, kernels, notes);
    }

    private static int Number(Match match, string group) => int.Parse(match.Groups[group].ValueSpan, CultureInfo.InvariantCulture);

    private static unsafe string Name(int status) => Marshal.PtrToStringUTF8((nint)Nvrtc.ErrorString(status)) ?? $"status {status}";

    private static void Check(int status, string call)
    {
        if (status != 0)
        {
            throw new KernelException($"CudaCompiler: {call} failed: {Name(status)}");
        }
    }

    private static string? FindVersion() =>
        CudaLibraries.Has(CudaLibraries.Nvrtc) && Nvrtc.Version(out int major, out int minor) == 0 ? string.Create(CultureInfo.InvariantCulture, $"{major}.{minor}") : null;

    [GeneratedRegex(@"Function properties for (?<name>\w+)\s+(?:ptxas\s+\.\s+)?(?<stack>\d+) bytes stack frame, (?<stores>\d+) bytes spill stores, (?<loads>\d+) bytes spill loads\s+ptxas info\s*: Used (?<registers>\d+) registers")]
    private static partial Regex Entries();

    // C7508: setmaxnreg ignored; C7509 .. C7515: wgmma serialised; C7519 is information.
    [GeneratedRegex(@"\bC75(0[89]|1[0-8])\b|setmaxnreg.*ignored|wgmma.*serializ", RegexOptions.IgnoreCase)]
    private static partial Regex Costly();
}
