using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LowRank.Formats.Tests;

/// <summary>A process of its own that saves: for ever, with a limit on the size of files, or as a user without rights.</summary>
internal static partial class Writer
{
    public const string Argument = "--writer", Loop = "loop", Shards = "shards", Limited = "limited", Powerless = "powerless";

    /// <summary>Elements of each of the three tensors: large enough that a kill meets a write.</summary>
    public const int Elements = 1 << 19;

    private const int Nobody = 65534, FileSizeLimit = 1, FileSizeSignal = 25, LimitBytes = 100_000;

    /// <summary>Starts a writer; its output can be read.</summary>
    public static Process Start(string mode, string path) => Process.Start(new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, typeof(Writer).Assembly.GetName().Name!), [Argument, mode, path]) { RedirectStandardOutput = true })!;

    /// <summary>What a writer prints until it ends.</summary>
    public static string Output(string mode, string path)
    {
        using Process process = Start(mode, path);
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return text;
    }

    /// <summary>Tensors that all hold the same number.</summary>
    public static IEnumerable<TensorData> Tensors(float value, int elements = Elements)
    {
        float[] values = [.. Enumerable.Repeat(value, elements)];
        return "abc".Select(name => TensorData.Of(name.ToString(), [elements], values));
    }

    public static int Run(string[] args)
    {
        (string mode, string path) = (args[1], args[2]);
        switch (mode)
        {
            case Loop or Shards:
                for (int step = 1; ; step++)
                {
                    Save(mode, path, step, Elements);
                    Console.WriteLine(step);
                }
            case Limited:
                _ = IgnoreSignal(FileSizeSignal, 1);
                _ = SetLimit(FileSizeLimit, [LimitBytes, LimitBytes]);
                break;
            case Powerless:
                Save(Loop, Path.Combine(Path.GetTempPath(), $"lowrank-{Environment.ProcessId}"), 0, 1);       // loads what a user without rights could not
                File.Delete(Path.Combine(Path.GetTempPath(), $"lowrank-{Environment.ProcessId}"));
                _ = SetUser(Nobody);        // fails where one is nobody already
                break;
        }
        try
        {
            Save(Directory.Exists(path) ? Shards : Loop, path, 2, Elements);
            Console.WriteLine("saved");
        }
        catch (IOException error)
        {
            Console.WriteLine(error.Message);
        }
        return 0;
    }

    private static void Save(string mode, string path, int step, int elements)
    {
        if (mode == Shards)
        {
            SafeTensorsIndex.Save(path, Tensors(step, elements), shardBytes: sizeof(float) * elements);
        }
        else
        {
            SafeTensorsFile.Save(path, Tensors(step, elements));
        }
    }

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint IgnoreSignal(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "setrlimit")]
    private static partial int SetLimit(int resource, [In] ulong[] softAndHard);

    [LibraryImport("libc", EntryPoint = "setuid")]
    private static partial int SetUser(uint user);
}
