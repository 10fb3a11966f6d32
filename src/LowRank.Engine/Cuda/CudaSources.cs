using System.Reflection;

namespace LowRank;

/// <summary>The kernel sources that travel inside this assembly: nothing is looked up on disk at run time.</summary>
internal static class CudaSources
{
    private const string Prefix = "cuda/";

    /// <summary>Names of the kernel files, for example <c>lora.cu</c>.</summary>
    public static IReadOnlyList<string> Files { get; } = [.. Names(".cu")];

    /// <summary>Headers by name and text.</summary>
    public static IReadOnlyDictionary<string, byte[]> Headers { get; } = Names(".cuh").Concat(Names(".h")).ToDictionary(name => name, Read, StringComparer.Ordinal);

    /// <summary>The text of a file, UTF-8.</summary>
    public static byte[] Read(string name)
    {
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(Prefix + name)
            ?? throw new DeviceException($"CudaSources: {name} is not among the kernel files {string.Join(", ", Files)}");
        using var text = new MemoryStream();
        stream.CopyTo(text);
        return text.ToArray();
    }


    private static IEnumerable<string> Names(string ending) => Assembly.GetExecutingAssembly().GetManifestResourceNames()
        .Where(n => n.StartsWith(Prefix, StringComparison.Ordinal) && n.EndsWith(ending, StringComparison.Ordinal)).Select(n => n[Prefix.Length..]).Order(StringComparer.Ordinal);
}
