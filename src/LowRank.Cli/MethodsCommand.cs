using System.CommandLine;

namespace LowRank.Cli;

/// <summary><c>lowrank methods</c>: what is built, and what it is held to.</summary>
internal static class MethodsCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        Option<bool> markdown = new("--markdown") { Description = "Print the table of the README." };
        var command = new Command("methods", "List the methods with their tests, devices and file formats.") { json, markdown };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(markdown))
            {
                Output.Text(MethodTable.Markdown());
                Output.Line();
                Output.Text(MethodTable.Models());
            }
            else
            {
                Output.Rows([.. MethodTable.Rows.Select(MethodTable.Json)], parsed.GetValue(json));
            }
            return ExitCode.Done;
        });
        return command;
    }
}
