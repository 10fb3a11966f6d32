namespace LowRank;

/// <summary>What is known of a device: its name for <c>--device</c>, kind, instruction set or architecture, memory in bytes.</summary>
public sealed record DeviceInfo(string Name, string Kind, string Isa, int Threads, long Memory);

/// <summary>The devices of this machine.</summary>
public static class DeviceList
{
    /// <summary>Every device that can be opened here.</summary>
    /// <exception cref="DeviceException">The native library is missing.</exception>
    public static IReadOnlyList<DeviceInfo> Present()
    {
        using Device cpu = Device.Cpu();     // the error of a missing library comes from here
        return [new DeviceInfo("cpu", "cpu", CpuDevice.Isa, CpuDevice.Threads, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes)];
    }

    /// <summary>Threads that native kernels use, the caller included. Results do not depend on it.</summary>
    public static int CpuThreads
    {
        get => CpuDevice.Threads;
        set => CpuDevice.Threads = value > 0 ? value : throw new ShapeException($"CpuThreads: value is {value}, want 1 or more");
    }
}
