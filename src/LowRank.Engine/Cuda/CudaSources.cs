using System.Reflection;
using System.Security.Cryptography;
using System.Text;

namespace LowRank;

/// <summary>Kernel files and their headers. The shipped ones travel inside this assembly: nothing is looked up on disk at run time.</summary>
/// <param name="texts">UTF-8 by file name.</param>
internal sealed class CudaSources(IReadOnlyDictionary<string, byte[]> texts)
{
    private const string Prefix = "cuda/";

    /// <summary>Those of this build.</summary>
    public static CudaSources Shipped { get; } = new(Resources());

    /// <summary>Names of the kernel files, for example <c>gemm.cu</c>.</summary>
    public IReadOnlyList<string> Files { get; } = [.. texts.Keys.Where(IsKernel).Order(StringComparer.Ordinal)];

    /// <summary>Headers by name and text.</summary>
    public IReadOnlyDictionary<string, byte[]> Headers { get; } = texts.Where(t => !IsKernel(t.Key)).ToDictionary(t => t.Key, t => t.Value, StringComparer.Ordinal);

    /// <summary>Hash of every file.</summary>
    public string Hash
    {
        get
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            AddTo(hash, Files);
            return Convert.ToHexStringLower(hash.GetHashAndReset());
        }
    }

    /// <summary>The text of a file, UTF-8.</summary>
    public byte[] Read(string name) => texts.TryGetValue(name, out byte[]? text) ? text : throw new DeviceException($"CudaSources: {name} is not among the kernel files {string.Join(", ", Files)}");

    /// <summary>These sources with one text in place of another, for tests.</summary>
    public CudaSources With(string name, string text) => new(new Dictionary<string, byte[]>(texts) { [name] = Encoding.UTF8.GetBytes(text) });

    /// <summary>Adds kernel files and all headers, in a fixed order.</summary>
    public void AddTo(IncrementalHash hash, IEnumerable<string> files)
    {
        foreach (string name in files.Concat(Headers.Keys.Order(StringComparer.Ordinal)))
        {
            byte[] text = Read(name);
            hash.AppendData(Encoding.UTF8.GetBytes($"{name} {text.Length}\n"));
            hash.AppendData(text);
        }
    }

    private static bool IsKernel(string name) => name.EndsWith(".cu", StringComparison.Ordinal);

    private static Dictionary<string, byte[]> Resources()
    {
        var assembly = Assembly.GetExecutingAssembly();
        return assembly.GetManifestResourceNames().Where(n => n.StartsWith(Prefix, StringComparison.Ordinal)).ToDictionary(n => n[Prefix.Length..], name =>
        {
            using Stream stream = assembly.GetManifestResourceStream(name)!;
            using var text = new MemoryStream();
            stream.CopyTo(text);
            return text.ToArray();
        }, StringComparer.Ordinal);
    }
}
