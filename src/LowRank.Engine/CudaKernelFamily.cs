using System.Text;
using System.Text.RegularExpressions;

namespace LowRank;

/// <summary>A file of CUDA kernels, by what stands at its head.</summary>
/// <param name="File">Under native/cuda.</param>
/// <param name="Summary">What it computes: the first sentence.</param>
/// <param name="Floor">The least time or traffic there is for it, and the time that is predicted: every sentence from the one that begins with Floor to the
/// last one with a prediction. A file without one has the floor of the first header it includes that has one.</param>
public sealed partial record CudaKernelFamily(string File, string Summary, string Floor)
{
    /// <summary>Every kernel file of this build.</summary>
    /// <exception cref="DeviceException">A file states no floor.</exception>
    public static IReadOnlyList<CudaKernelFamily> All { get; } = [.. CudaSources.Shipped.Files.Select(file => Of(CudaSources.Shipped, file))];

    internal static CudaKernelFamily Of(CudaSources sources, string file)
    {
        string text = Encoding.UTF8.GetString(sources.Read(file));
        IEnumerable<string> places = Includes().Matches(text).Select(m => m.Groups[1].Value).Where(sources.Headers.ContainsKey).Prepend(file);
        string floor = places.Select(place => Floors(Sentences(Encoding.UTF8.GetString(sources.Read(place))))).FirstOrDefault(f => f.Length > 0)
            ?? throw new DeviceException($"CudaKernelFamily: {file} states no floor, want a sentence at its head that begins with Floor");
        return new CudaKernelFamily(file, Sentences(text).FirstOrDefault() ?? "", floor);
    }

    private static string Floors(string[] sentences)
    {
        int first = Array.FindIndex(sentences, s => s.StartsWith("Floor", StringComparison.Ordinal)), last = Array.FindLastIndex(sentences, s => s.Contains("redicted", StringComparison.Ordinal));
        return first < 0 ? "" : string.Join(' ', sentences[first..(Math.Max(first, last) + 1)]);
    }

    // The comment at the head, in sentences.
    private static string[] Sentences(string text) =>
        Ends().Split(string.Join(' ', text.Split('\n').TakeWhile(line => line.StartsWith("//", StringComparison.Ordinal)).Select(line => line[2..].Trim()))).Where(s => s.Length > 0).ToArray();

    [GeneratedRegex("""^#include "(\w+\.cuh)""", RegexOptions.Multiline)]
    private static partial Regex Includes();

    [GeneratedRegex(@"(?<=[.])\s+(?=[A-Z0-9])")]
    private static partial Regex Ends();
}
