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
        long memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        List<DeviceInfo> found = [new DeviceInfo("cpu", "cpu", CpuDevice.Isa, CpuDevice.Threads, memory)];
        if (EmulatedDriver.IsPresent)
        {
            found.Add(new DeviceInfo(EmulatedDriver.DeviceName, "emulated", $"sm_{EmulatedDriver.Capability}", Environment.ProcessorCount, memory));
        }
        for (int i = 0; i < NvidiaDriver.Count; i++)
        {
            (string product, string architecture, long bytes) = NvidiaDriver.Describe(i);
            found.Add(new DeviceInfo($"cuda:{i}", product, architecture, 0, bytes));
        }
        return found;
    }

    /// <summary>Opens a device by its name: <c>cpu</c>, <c>emulated</c>, <c>cuda</c> for the first GPU, <c>cuda:1</c>.</summary>
    /// <exception cref="DeviceException">There is none of that name here: names those there are, or what a GPU lacks.</exception>
    public static Device Open(string name)
    {
        if (name == "cpu")
        {
            return Device.Cpu();
        }
        if (name == EmulatedDriver.DeviceName)
        {
            return Device.Emulated();
        }
        if (name == "cuda" || name.StartsWith("cuda:", StringComparison.Ordinal))
        {
            return name == "cuda" ? Device.Cuda()
                : int.TryParse(name.AsSpan(5), out int ordinal) ? Device.Cuda(ordinal)
                : throw new DeviceException($"device is {name}, want cuda or cuda:N with the number of a GPU");
        }
        throw new DeviceException($"device is {name}, want one of: {string.Join(", ", Present().Select(d => d.Name))}");
    }

    /// <summary>Threads that native kernels use, the caller included. Results do not depend on it.</summary>
    public static int CpuThreads
    {
        get => CpuDevice.Threads;
        set => CpuDevice.Threads = value > 0 ? value : throw new ShapeException($"CpuThreads: value is {value}, want 1 or more");
    }
}
