using System.CommandLine;

namespace LowRank.Cli;

/// <summary>The command line: one file a command, one place for exit codes.</summary>
public static class Program
{
    /// <summary>Runs a command. Exit codes: 0 done, 1 the work failed, 2 the words or the input are wrong, 130 cancelled.</summary>
    public static async Task<int> Main(string[] args)
    {
        var root = new RootCommand("Low-rank adapters without Python: train, evaluate, merge and inspect.")
        {
            DevicesCommand.Create(), OpsCommand.Create(), PretrainCommand.Create(),
        };
        ParseResult parsed = root.Parse(args);
        if (parsed.Errors.Count > 0)
        {
            foreach (var error in parsed.Errors)
            {
                await Console.Error.WriteLineAsync($"lowrank: {error.Message}");
            }
            await Console.Error.WriteLineAsync($"Try: lowrank {parsed.CommandResult.Command.Name} --help");
            return ExitCode.Usage;
        }
        try
        {
            return await parsed.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromSeconds(20) });
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync("lowrank: cancelled");
            return ExitCode.Cancelled;
        }
        catch (Exception error) when (ExitCode.Of(error) is { } code)
        {
            await Console.Error.WriteLineAsync($"lowrank: {error.Message}");
            return code;
        }
    }
}
