using System.CommandLine;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary><c>lowrank devices</c>: what this machine offers.</summary>
internal static class DevicesCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        var command = new Command("devices", "List the devices of this machine.") { json };
        command.SetAction(parsed =>
        {
            Output.Rows([.. DeviceList.Present().Select(d => new JsonObject { ["name"] = d.Name, ["kind"] = d.Kind, ["isa"] = d.Isa, ["memory"] = d.Memory })], parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }
}
