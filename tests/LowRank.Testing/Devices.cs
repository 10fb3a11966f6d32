namespace LowRank.Testing;

/// <summary>Devices that tests run on.</summary>
public static class Devices
{
    private const string Variable = "LOWRANK_DEVICES";

    /// <summary>Names of those present here: with a GPU, that too. LOWRANK_DEVICES (','-separated: cpu, emulated, cuda) keeps only some of them.</summary>
    public static IReadOnlyList<string> Present { get; } = Wanted([.. DeviceList.Present().Select(d => d.Name).Where(name => name is "cpu" or "emulated" or "cuda:0")]);

    /// <summary>Opens the device that stands for this one in runs of a type: a GPU has no F64 kernels, and the float64 references need host memory.</summary>
    public static Device Open(string name, DType type) => Open(type == DType.F64 && name.StartsWith("cuda", StringComparison.Ordinal) ? "cpu" : name);

    /// <summary>Opens one with memory checks: fresh memory is NaN and every tensor is guarded.</summary>
    public static Device Open(string name)
    {
        Device device = DeviceList.Open(name);
        device.CheckMemory = true;
        return device;
    }

    private static string[] Wanted(string[] present)
    {
        string[] wanted = (Environment.GetEnvironmentVariable(Variable) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        string[] found = [.. present.Where(name => wanted.Contains(name.Split(':')[0]))];
        return wanted.Length == 0 ? present
            : found.Length == wanted.Length ? found
            : throw new DeviceException($"{Variable} is {string.Join(',', wanted)}, want some of {string.Join(", ", present)}");
    }
}
