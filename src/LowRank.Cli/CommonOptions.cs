using System.CommandLine;

namespace LowRank.Cli;

/// <summary>Options that several commands share, spelled and described once.</summary>
internal static class CommonOptions
{
    public static Option<bool> Json() => new("--json") { Description = "Print JSON instead of a table." };

    public static Option<string> DeviceName() => new("--device") { Description = "Device to compute on: cpu.", DefaultValueFactory = _ => "cpu" };

    public static Option<bool> DryRun() => new("--dry-run") { Description = "Print what would be done, with parameters and sizes, and stop." };

    public static Option<ulong> Seed() => new("--seed") { Description = "Seed of every random choice.", DefaultValueFactory = _ => 0 };

    /// <summary>Opens a device by its name.</summary>
    /// <exception cref="DeviceException">There is none of that name here.</exception>
    public static Device Open(string name) => name == "cpu"
        ? Device.Cpu()
        : throw new DeviceException($"device is {name}, want one of: {string.Join(", ", DeviceList.Present().Select(d => d.Name))}");
}
