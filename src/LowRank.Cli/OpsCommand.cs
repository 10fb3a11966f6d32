using System.CommandLine;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary><c>lowrank ops</c>: every differentiable op of the engine.</summary>
internal static class OpsCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        var command = new Command("ops", "List the differentiable ops.") { json };
        command.SetAction(parsed =>
        {
            Output.Rows([.. OpCatalog.All.Select(op => new JsonObject { ["name"] = op.GetType().Name, ["attributes"] = op.ToString()[op.GetType().Name.Length..].Trim() })], parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }
}
