using System.Collections.Concurrent;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using LowRank.Interop;

namespace LowRank;

/// <summary>What one compilation is made of: a file, the type of activations, and the exact architecture (80, 86, 89, 90 for sm_90a ...).</summary>
internal readonly record struct CudaVariant(string File, DType Type, int Architecture)
{
    /// <summary>sm_80, sm_90a.</summary>
    public string Target => Architecture == 90 ? "sm_90a" : $"sm_{Architecture}";

    /// <summary>False where the file has nothing for this type or architecture: Hopper's kernels are for 16-bit types on sm_90a.</summary>
    public bool HasKernels => !File.EndsWith("_sm90.cu", StringComparison.Ordinal) || (Architecture == 90 && Type != DType.F32);

    public override string ToString() => $"{File} {Type} {Target}";
}

/// <summary>What ptxas says of one kernel.</summary>
/// <param name="Registers">A thread.</param>
/// <param name="SpillBytes">Stores and loads of spilled registers together.</param>
/// <param name="StackBytes">Local memory a thread.</param>
internal sealed record CudaFacts(int Registers, int SpillBytes, int StackBytes);

/// <summary>A compiled file.</summary>
/// <param name="Cubin">Machine code.</param>
/// <param name="Log">The compiler's log as it came.</param>
/// <param name="Kernels">Facts by kernel name.</param>
/// <param name="Notes">Remarks that cost speed: setmaxnreg ignored, wgmma serialised.</param>
internal sealed record CudaBinary(byte[] Cubin, string Log, IReadOnlyDictionary<string, CudaFacts> Kernels, IReadOnlyList<string> Notes);

/// <summary>Compiles kernel files with NVRTC, in memory and in a cache on disk. Safe from several threads.</summary>
internal sealed partial class CudaCompiler(CudaCache? cache)
{
    private readonly ConcurrentDictionary<CudaVariant, Lazy<CudaBinary>> compiled = new();

    /// <summary>12.4, 13.0; null where there is no NVRTC.</summary>
    public static string? Version { get; } = FindVersion();

    /// <summary>The binary, from memory, from the cache, or compiled now.</summary>
    /// <exception cref="DeviceException">There is no NVRTC: says where it was looked for.</exception>
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

    /// <summary>Compiles what is not there yet, several at a time.</summary>
    public void WarmUp(IEnumerable<CudaVariant> variants, CancellationToken cancellation = default) =>
        Parallel.ForEach(variants, new ParallelOptions { MaxDegreeOfParallelism = Math.Min(8, Environment.ProcessorCount), CancellationToken = cancellation }, v => Get(v));

    private CudaBinary Make(CudaVariant variant)
    {
        if (Version is null)
        {
            throw new DeviceException($"CudaCompiler: {CudaLibraries.Diagnosis(CudaLibraries.Nvrtc)}");
        }
        string[] options = Options(variant);
        string key = Key(variant, options);
        if (cache?.TryRead(key) is { } found)
        {
            return Parse(found.Cubin, found.Log);
        }
        (byte[] cubin, string log) = Compile(variant, options);
        cache?.Write(key, cubin, log);
        return Parse(cubin, log);
    }

    private static string[] Options(CudaVariant variant) =>
    [
        $"--gpu-architecture={variant.Target}", "--std=c++17", "-default-device", "--ptxas-options=-v", "--ptxas-options=--warn-on-local-memory-usage",
        $"-DLR_DTYPE={(int)variant.Type}", $"-DLR_ARCH={variant.Architecture * 10}",
    ];

    /// <summary>Hash of all that the machine code depends on.</summary>
    private static string Key(CudaVariant variant, string[] options)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        void Add(string text) => hash.AppendData(Encoding.UTF8.GetBytes(text + "\n"));
        Add($"{variant.File} NVRTC {Version} ABI {KernelTable.AbiVersion}");
        Array.ForEach(options, Add);
        hash.AppendData(CudaSources.Read(variant.File));
        foreach ((string name, byte[] text) in CudaSources.Headers.OrderBy(h => h.Key, StringComparer.Ordinal))
        {
            Add(name);
            hash.AppendData(text);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private static unsafe (byte[] Cubin, string Log) Compile(CudaVariant variant, string[] options)
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
            byte*[] names = new byte*[CudaSources.Headers.Count], texts = new byte*[names.Length], flags = new byte*[options.Length];
            int i = 0;
            foreach ((string name, byte[] text) in CudaSources.Headers)
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
                Check(Nvrtc.CreateProgram(out program, Text(CudaSources.Read(variant.File)), Text(Encoding.UTF8.GetBytes(variant.File)), names.Length, pt, pn), "nvrtcCreateProgram");
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
                Check(Nvrtc.GetCubinSize(program, out nuint bytes), "nvrtcGetCUBINSize");
                byte[] cubin = new byte[bytes];
                fixed (byte* p = cubin)
                {
                    Check(Nvrtc.GetCubin(program, p), "nvrtcGetCUBIN");
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
