using System.Runtime.InteropServices;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle;

/// <summary>Starts TorchSharp, on systems too whose libstdc++ is older than its native part asks for (Debian 12). Ask <see cref="Missing"/> before its first use.</summary>
public static class TorchRuntime
{
    private const string Glue = "libLibTorchSharp.so", Version = "GLIBCXX_3.4.32", Symbol = "_ZSt21ios_base_library_initv", StandIn = "sched_yield";
    private static readonly Lazy<string?> Reason = new(Start);

    /// <summary>Null where TorchSharp runs here, else the reason why not.</summary>
    public static string? Missing => Reason.Value;

    /// <summary>Name and version, as a bench row names its peer.</summary>
    public static string Name { get; } = $"TorchSharp {typeof(Torch).Assembly.GetName().Version?.ToString(3)}";

    private static string? Start()
    {
        try
        {
            if (OperatingSystem.IsLinux() && LoaderWouldFail())
            {
                foreach (string path in Directory.EnumerateFiles(AppContext.BaseDirectory, Glue, SearchOption.AllDirectories))
                {
                    Cure(path);
                }
            }
            using Torch.Tensor one = Torch.ones(1);
            return one.item<float>() == 1 ? null : "TorchSharp: ones(1) is not 1";
        }
        catch (Exception error) when (error is TypeInitializationException or DllNotFoundException or EntryPointNotFoundException or NotSupportedException or BadImageFormatException or IOException or UnauthorizedAccessException)
        {
            return $"TorchSharp does not start here: {(error.InnerException ?? error).Message}";
        }
    }

    /// <summary>The one thing the glue wants of the newer library is a call that makes sure the standard streams are there; they are, in the older one too.</summary>
    private static bool LoaderWouldFail() =>
        NativeLibrary.TryLoad("libstdc++.so.6", out nint library) && !NativeLibrary.TryGetExport(library, Symbol, out _);

    private static void Cure(string path)
    {
        byte[] elf = File.ReadAllBytes(path);
        if (ElfVersionNeed.Drop(elf, Version, StandIn))
        {
            string cured = $"{path}.{Environment.ProcessId}";      // another name first: the copy may be a link into the package cache
            File.WriteAllBytes(cured, elf);
            File.Move(cured, path, overwrite: true);
        }
    }
}
