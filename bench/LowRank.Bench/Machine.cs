using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LowRank.Bench;

/// <summary>What the rows run on: its name, and its ceilings as measured in this run.</summary>
public sealed class Machine
{
    private readonly Dictionary<int, (double Flops, double Bytes)> ceilings = [];
    private readonly nint library = NativeLibrary.Load(Path.Combine(AppContext.BaseDirectory, "liblowrank_cpu.so"));

    /// <summary>Model of the processor, with its family and model number where the name alone says little.</summary>
    public string Cpu { get; } = ReadCpu();

    /// <summary>Instruction set of the engine's kernels.</summary>
    public string Isa { get; } = DeviceList.Present()[0].Isa;

    /// <summary>Float32 multiply-adds in registers, FLOP/s, and copying, bytes/s read plus written.</summary>
    public (double Flops, double Bytes) Ceiling(int threads)
    {
        if (!ceilings.TryGetValue(threads, out (double, double) found))
        {
            ceilings.Add(threads, found = (Measure("lr_cpu_peak_fma", threads) * 1e9, Measure("lr_cpu_copy_bandwidth", threads) * 1e9));
        }
        return found;
    }

    /// <summary>Those measured so far.</summary>
    public IReadOnlyList<CeilingResult> Measured => [.. ceilings.OrderBy(c => c.Key).Select(c => new CeilingResult(c.Key, c.Value.Flops / 1e9, c.Value.Bytes / 1e9))];

    private unsafe double Measure(string export, int threads) => ((delegate* unmanaged<int, double>)NativeLibrary.GetExport(library, export))(threads);

    private static string ReadCpu()
    {
        string Field(string name) => File.Exists("/proc/cpuinfo")
            ? File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.Split(':')[0].Trim() == name)?.Split(':')[1].Trim() ?? "?"
            : "?";
        return $"{Field("model name")} (family {Field("cpu family")}, model {Field("model")})";
    }
}

/// <summary>Another process that keeps one core busy while this lives. It ends with its standard input, so it cannot outlive us.</summary>
public sealed class BusyCore : IDisposable
{
    /// <summary>The hidden command that spins.</summary>
    public const string Command = "spin";

    private readonly Process process;

    /// <summary>Starts it.</summary>
    public BusyCore()
    {
        string self = Environment.ProcessPath!;
        List<string> arguments = [.. Path.GetFileNameWithoutExtension(self) == "dotnet" ? [typeof(BusyCore).Assembly.Location] : Array.Empty<string>(), Command];
        process = Process.Start(new ProcessStartInfo(self, arguments) { RedirectStandardInput = true })!;
        Thread.Sleep(500);      // its start is heavier than what it does then
    }

    /// <summary>What the other process does.</summary>
    public static void Spin()
    {
        Task<string> end = Task.Run(Console.In.ReadToEnd);     // the console's own async methods block
        double x = 0;
        while (!end.IsCompleted)
        {
            for (int i = 0; i < 1_000_000; i++)
            {
                x += i * 0.5;
            }
        }
        GC.KeepAlive(x);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        process.StandardInput.Close();
        process.WaitForExit();
        process.Dispose();
    }
}
