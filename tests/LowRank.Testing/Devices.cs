namespace LowRank.Testing;

/// <summary>Devices that tests run on.</summary>
public static class Devices
{
    private const string Variable = "LOWRANK_DEVICES";

    /// <summary>Names of those present here; LOWRANK_DEVICES (','-separated) keeps only some of them.</summary>
    public static IReadOnlyList<string> Present { get; } = Find();

    /// <summary>Opens one with memory checks: fresh memory is NaN and every tensor is guarded.</summary>
    public static Device Open(string name)
    {
        Device device = DeviceList.Open(name);
        device.CheckMemory = true;
        return device;
    }

    /// <summary>True for a real GPU, whose memory the host cannot see.</summary>
    public static bool IsGpu(string name) => name.StartsWith("cuda", StringComparison.Ordinal);

    private static string[] Find()
    {
        string[] present = [.. DeviceList.Present().Select(device => device.Name.Split(':')[0]).Distinct()];
        string[] wanted = (Environment.GetEnvironmentVariable(Variable) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return wanted.Except(present).FirstOrDefault() is { } missing
            ? throw new DeviceException($"{Variable} names {missing}, want some of {string.Join(", ", present)}")
            : wanted.Length > 0 ? wanted : present;
    }
}
