using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace LowRank.Interop;

/// <summary>Finds NVIDIA's libraries, of CUDA 13 or 12, wherever they came from. Nothing is loaded before it is asked for.</summary>
internal static class CudaLibraries
{
    /// <summary>The driver: comes with the display driver and nothing else.</summary>
    public const string Driver = "cuda";

    /// <summary>The run-time compiler.</summary>
    public const string Nvrtc = "nvrtc";

    /// <summary>Folders to look in first, ':'-separated.</summary>
    public const string Variable = "LOWRANK_CUDA";

    private static readonly Dictionary<string, (string[] Files, string Remedy)> Known = new()
    {
        [Driver] = (["libcuda.so.1", "libcuda.so"], "install NVIDIA's display driver, 525 or newer"),
        [Nvrtc] = (["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"], "install NVRTC (Debian, Ubuntu: libnvrtc12; pip: nvidia-cuda-nvrtc), or set " + Variable + " to its folder"),
    };

    private static readonly ConcurrentDictionary<string, Lazy<(nint Handle, string Path, string[] Tried)>> Found = new();

    static CudaLibraries() => NativeLibrary.SetDllImportResolver(typeof(CudaLibraries).Assembly, (name, _, _) => Known.ContainsKey(name) ? Handle(name) : 0);

    /// <summary>True where the library can be loaded.</summary>
    public static bool Has(string name) => Search(name).Handle != 0;

    /// <summary>Where the library was found, or null.</summary>
    public static string? PathOf(string name) => Search(name) is { Handle: not 0 } found ? found.Path : null;

    /// <summary>One line: which library is missing, where it was looked for, how to get it.</summary>
    public static string Diagnosis(string name) =>
        $"{Known[name].Files[0]} was not found; looked for {string.Join(" and ", Known[name].Files)} in {string.Join(", ", Search(name).Tried)} and the system's path: {Known[name].Remedy}";

    private static nint Handle(string name) => Search(name).Handle is var handle and not 0 ? handle : throw new DllNotFoundException(Diagnosis(name));

    private static (nint Handle, string Path, string[] Tried) Search(string name) => Found.GetOrAdd(name, key => new(() => Load(key))).Value;

    private static (nint Handle, string Path, string[] Tried) Load(string name)
    {
        string[] folders = [.. Folders().Distinct()];
        foreach (string file in Known[name].Files)
        {
            foreach (string path in folders.Select(folder => Path.Combine(folder, file)).Where(File.Exists))
            {
                // NVRTC opens its builtins by name alone: with them loaded beforehand any folder will do.
                foreach (string builtins in name == Nvrtc ? Directory.GetFiles(Path.GetDirectoryName(path)!, "libnvrtc-builtins.so*") : [])
                {
                    _ = NativeLibrary.TryLoad(builtins, out _);
                }
                if (NativeLibrary.TryLoad(path, out nint handle))
                {
                    return (handle, path, folders);
                }
            }
            if (NativeLibrary.TryLoad(file, out nint system))
            {
                return (system, file, folders);
            }
        }
        return (0, "", folders);
    }

    private static IEnumerable<string> Folders()
    {
        foreach (string folder in (Environment.GetEnvironmentVariable(Variable) ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries))
        {
            yield return folder;
        }
        yield return AppContext.BaseDirectory;
        yield return Path.Combine(AppContext.BaseDirectory, "runtimes", RuntimeInformation.RuntimeIdentifier, "native");
        foreach (string? root in (string?[])[Environment.GetEnvironmentVariable("CUDA_HOME"), Environment.GetEnvironmentVariable("CUDA_PATH"), "/usr/local/cuda"])
        {
            if (!string.IsNullOrEmpty(root))
            {
                yield return Path.Combine(root, "lib64");
            }
        }
        // Where pip puts them: nvidia/cuda_nvrtc/lib for CUDA 12, nvidia/cu13/lib for 13.
        string local = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".local");
        foreach (string? root in (string?[])[Environment.GetEnvironmentVariable("VIRTUAL_ENV"), Environment.GetEnvironmentVariable("CONDA_PREFIX"), local, "/usr/local"])
        {
            foreach (string python in string.IsNullOrEmpty(root) ? [] : Safely(Path.Combine(root, "lib"), "python3*"))
            {
                foreach (string package in Safely(Path.Combine(python, "site-packages", "nvidia"), "*").Concat(Safely(Path.Combine(python, "dist-packages", "nvidia"), "*")))
                {
                    yield return Path.Combine(package, "lib");
                }
            }
        }
    }

    private static string[] Safely(string folder, string pattern)
    {
        try
        {
            return Directory.Exists(folder) ? Directory.GetDirectories(folder, pattern) : [];
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }
}
