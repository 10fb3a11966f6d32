using System.Diagnostics;

namespace LowRank.Repo.Tests;

/// <summary>The checkout these tests run in: its root and its files, as paths relative to the root with '/' between parts.</summary>
internal static class Repository
{
    private static readonly string[] SourceEndings = [".cs", ".cpp", ".h", ".cu", ".cuh"];
    private static readonly string[] BinaryEndings = [".safetensors", ".npy", ".png", ".gz", ".bin", ".ttf", ".pt", ".gguf", ".onnx"];
    private static readonly string[] IgnoredFolders = [".git", "bin", "obj", "build", "out", "TestResults", "BenchmarkDotNet.Artifacts"];

    /// <summary>The folder that holds Engine.sln.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>Every file that is tracked or would be by `git add`; without git, every file outside the ignored folders.</summary>
    public static IReadOnlyList<string> Files { get; } = ListFiles();

    /// <summary>C#, C++ and CUDA sources.</summary>
    public static IEnumerable<string> Sources => Files.Where(f => SourceEndings.Any(e => f.EndsWith(e, StringComparison.Ordinal)));

    /// <summary>Every file that is meant to be read by people.</summary>
    public static IEnumerable<string> Texts => Files.Where(f => !BinaryEndings.Any(e => f.EndsWith(e, StringComparison.Ordinal)));

    /// <summary>The absolute path of a file of the repository.</summary>
    public static string PathOf(string file) => Path.Combine(Root, file);

    private static string FindRoot()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Engine.sln")))
            {
                return folder.FullName;
            }
        }
        throw new InvalidOperationException($"no Engine.sln above {AppContext.BaseDirectory}: run these tests from a checkout");
    }

    private static string[] ListFiles()
    {
        IEnumerable<string> files = FromGit()
            ?? Directory.EnumerateFiles(Root, "*", SearchOption.AllDirectories)
                .Select(f => Path.GetRelativePath(Root, f).Replace('\\', '/'))
                .Where(f => !f.Split('/').Any(IgnoredFolders.Contains));
        return [.. files.Where(f => File.Exists(PathOf(f))).Order(StringComparer.Ordinal)];
    }

    // Null where git is not there or refuses (an archive without .git, a checkout owned by somebody else).
    private static string[]? FromGit()
    {
        try
        {
            ProcessStartInfo start = new("git", ["-C", Root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            using Process git = Process.Start(start)!;
            string output = git.StandardOutput.ReadToEnd();
            git.WaitForExit();
            return git.ExitCode == 0 ? output.Split('\0', StringSplitOptions.RemoveEmptyEntries) : null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null;
        }
    }
}
