namespace LowRank.Testing;

/// <summary>Devices that tests run on.</summary>
public static class Devices
{
    /// <summary>Names of those present here.</summary>
    public static IReadOnlyList<string> Present { get; } = ["cpu", "emulated"];

    /// <summary>Opens one with memory checks: fresh memory is NaN and every tensor is guarded.</summary>
    public static Device Open(string name)
    {
        Device device = name switch
        {
            "cpu" => Device.Cpu(),
            "emulated" => Device.Emulated(),
            _ => throw new ArgumentOutOfRangeException(nameof(name), name, "not a device of the tests"),
        };
        device.CheckMemory = true;
        return device;
    }
}
