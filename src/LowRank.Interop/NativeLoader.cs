using System.Reflection;
using System.Runtime.InteropServices;

namespace LowRank.Interop;

/// <summary>Finds and loads the native libraries that ship beside the managed ones.</summary>
internal static class NativeLoader
{
    /// <summary>Loads <c>lib{name}.so</c> from, in order: the folder in LOWRANK_NATIVE, the application's folder, runtimes/{rid}/native below it,
    /// the folder of this assembly, and the system's search path.</summary>
    /// <returns>The library's handle; it stays loaded for the life of the process.</returns>
    /// <exception cref="DllNotFoundException">Nowhere: the message lists where it was looked for.</exception>
    public static nint Load(string name)
    {
        string file = OperatingSystem.IsWindows() ? name + ".dll" : OperatingSystem.IsMacOS() ? $"lib{name}.dylib" : $"lib{name}.so";
        List<string> tried = [];
        foreach (string folder in Folders())
        {
            string path = Path.Combine(folder, file);
            tried.Add(path);
            if (File.Exists(path) && NativeLibrary.TryLoad(path, out nint handle))
            {
                return handle;
            }
        }
        tried.Add(file);
        return NativeLibrary.TryLoad(file, out nint system)
            ? system
            : throw new DllNotFoundException($"{file} was not found or could not be loaded; looked for {string.Join(", ", tried)}. Build it with `dotnet build`, or set LOWRANK_NATIVE to its folder.");
    }

    private static IEnumerable<string> Folders()
    {
        if (Environment.GetEnvironmentVariable("LOWRANK_NATIVE") is { Length: > 0 } chosen)
        {
            yield return chosen;
        }
        yield return AppContext.BaseDirectory;
        yield return Path.Combine(AppContext.BaseDirectory, "runtimes", RuntimeInformation.RuntimeIdentifier, "native");
#pragma warning disable IL3000 // In a single-file application the location is empty and the first two folders serve.
        if (Path.GetDirectoryName(Assembly.GetExecutingAssembly().Location) is { Length: > 0 } beside)
#pragma warning restore IL3000
        {
            yield return beside;
        }
    }
}
