using System.ComponentModel;
using System.Diagnostics;

namespace LowRank.Cuda.Bench;

/// <summary>What the rows run on, and its ceilings for the floors: rates read on one GPU of each kind, random data (handbook, 0).</summary>
internal sealed class Machine
{
    private const double H100Flops = 798e12, H100Bytes = 3.0e12, H200Flops = 788e12, H200Bytes = 4.3e12;

    /// <summary>Reads the names; <paramref name="device"/> is the engine's.</summary>
    public Machine(Device device)
    {
        DeviceInfo? info = DeviceList.Present().FirstOrDefault(d => d.Name == device.Name);
        Gpu = info is null ? device.Name : $"{info.Kind}, {info.Isa}, {info.Memory >> 20} MiB";
        State = Clocks();
    }

    /// <summary>Product, architecture, memory.</summary>
    public string Gpu { get; }

    /// <summary>Driver, clocks and temperature as found.</summary>
    public string State { get; }

    /// <summary>Whether targets and ceilings are those of the H200.</summary>
    public bool IsH200 => Gpu.Contains("H200", StringComparison.Ordinal);

    /// <summary>Microseconds that one pass needs at the least.</summary>
    public double Floor(Cost pass) => 1e6 * Math.Max(pass.Flops / (IsH200 ? H200Flops : H100Flops), pass.Bytes / (IsH200 ? H200Bytes : H100Bytes));

    /// <summary>What nvidia-smi says now; nothing is set.</summary>
    public static string Clocks()
    {
        try
        {
            using Process smi = Process.Start(new ProcessStartInfo("nvidia-smi", ["--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw", "--format=csv,noheader"]) { RedirectStandardOutput = true })!;
            string said = smi.StandardOutput.ReadToEnd().Trim();
            smi.WaitForExit();
            return smi.ExitCode == 0 ? $"driver, SM clock, memory clock, highest SM clock, temperature, power: {said}" : "nvidia-smi failed";
        }
        catch (Win32Exception)
        {
            return "no nvidia-smi";
        }
    }
}
