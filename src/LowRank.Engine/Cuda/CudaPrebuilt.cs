using System.IO.Compression;
using System.Text;

namespace LowRank;

/// <summary>Kernels compiled beforehand, for machines with a driver and no NVRTC: a zip archive with machine code for sm_80, sm_86, sm_89 and sm_90a and PTX for
/// compute_80, which the driver translates for anything newer. Its comment says which sources it was made of; other sources are refused.</summary>
internal sealed class CudaPrebuilt
{
    /// <summary>Name of the archive.</summary>
    public const string FileName = "lowrank_cuda_kernels.zip";

    private const string LogEnding = ".log";
    private const string Mark = "LowRank kernels, sources ";
    private const string Remedy = "install NVRTC, or the package LowRank.Cuda.Kernels of the same version as LowRank";
    private static readonly int[] Architectures = [80, 86, 89, 90];
    private readonly string path;
    private readonly HashSet<string> entries;

    private CudaPrebuilt(string path, HashSet<string> entries) => (this.path, this.entries) = (path, entries);

    /// <summary>Where an application has it.</summary>
    public static string Beside { get; } = Path.Combine(AppContext.BaseDirectory, FileName);

    /// <summary>What an archive of kernel files holds.</summary>
    public static IEnumerable<CudaVariant> Variants(IEnumerable<string> files) =>
        from file in files
        from type in (DType[])[DType.F32, DType.BF16, DType.F16]
        from variant in Architectures.Select(a => new CudaVariant(file, type, a)).Append(new CudaVariant(file, type, Architectures[0], Portable: true))
        where variant.HasKernels
        select variant;

    /// <summary>Reads an archive.</summary>
    /// <exception cref="DeviceException">It is not there, is damaged, or was made from other sources.</exception>
    public static CudaPrebuilt Open(string path, CudaSources sources)
    {
        if (!File.Exists(path))
        {
            throw new DeviceException($"CudaCompiler: {Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc)}; kernels compiled beforehand are not there either ({path}): {Remedy}");
        }
        return Opened(path, zip =>
        {
            string made = zip.Comment.StartsWith(Mark, StringComparison.Ordinal) ? zip.Comment[Mark.Length..].Split(' ')[0] : "unknown";
            return made == sources.Hash
                ? new CudaPrebuilt(path, [.. zip.Entries.Select(e => e.FullName)])
                : throw new DeviceException($"CudaPrebuilt: {path} was made from sources {made}, want {sources.Hash}: {Remedy}");
        });
    }

    /// <summary>Writes the variants of some kernel files, compiled by <paramref name="compiler"/>.</summary>
    /// <returns>Variants written.</returns>
    public static int Write(string path, CudaSources sources, IReadOnlyCollection<string> files, CudaCompiler compiler, CancellationToken cancellation)
    {
        CudaVariant[] variants = [.. Variants(files)];
        compiler.WarmUp(variants, cancellation);
        string temporary = $"{path}.{Guid.NewGuid():N}";
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        try
        {
            using (ZipArchive zip = ZipFile.Open(temporary, ZipArchiveMode.Create))
            {
                zip.Comment = $"{Mark}{sources.Hash} NVRTC {CudaCompiler.Version}";
                foreach (CudaVariant variant in variants)
                {
                    CudaBinary binary = compiler.Get(variant);
                    Add(zip, $"{variant}", binary.Cubin);
                    Add(zip, $"{variant}{LogEnding}", Encoding.UTF8.GetBytes(binary.Log));
                }
            }
            File.Move(temporary, path, overwrite: true);
            return variants.Length;
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    /// <summary>What runs on the variant's architecture: its own machine code, that of an older member of its generation, or PTX.</summary>
    /// <exception cref="DeviceException">The archive has nothing that old.</exception>
    public CudaBinary Read(CudaVariant variant)
    {
        IEnumerable<CudaVariant> candidates = Architectures.Where(a => a <= variant.Architecture && a / 10 == variant.Architecture / 10 && !variant.Portable)
            .OrderDescending().Select(a => variant with { Architecture = a })
            .Append(variant with { Architecture = Architectures[0], Portable = true });
        foreach (CudaVariant candidate in candidates.Where(c => variant.Architecture >= c.Architecture))
        {
            if (entries.Contains($"{candidate}"))
            {
                return Opened(path, zip => CudaCompiler.Parse(Content(zip, $"{candidate}"), Encoding.UTF8.GetString(Content(zip, $"{candidate}{LogEnding}"))));
            }
        }
        throw new DeviceException($"CudaPrebuilt: {path} has no {variant}, want an architecture of sm_{Architectures[0]} or newer and one of its files {string.Join(", ", entries.Select(k => k.Split(' ')[0]).Distinct())}");
    }

    private static void Add(ZipArchive zip, string name, byte[] content)
    {
        ZipArchiveEntry entry = zip.CreateEntry(name, CompressionLevel.SmallestSize);
        entry.LastWriteTime = new DateTimeOffset(1980, 1, 1, 0, 0, 0, TimeSpan.Zero);      // the same sources give the same bytes
        using Stream stream = entry.Open();
        stream.Write(content);
    }

    private static byte[] Content(ZipArchive zip, string name)
    {
        using Stream stream = (zip.GetEntry(name) ?? throw new InvalidDataException($"it has no {name}")).Open();
        using var content = new MemoryStream();
        stream.CopyTo(content);
        return content.ToArray();
    }

    private static T Opened<T>(string path, Func<ZipArchive, T> read)
    {
        try
        {
            using ZipArchive zip = ZipFile.OpenRead(path);
            return read(zip);
        }
        catch (Exception error) when (error is IOException or InvalidDataException or UnauthorizedAccessException)
        {
            throw new DeviceException($"CudaPrebuilt: {path} cannot be read ({error.Message}): {Remedy}", error);
        }
    }
}
