using System.CommandLine;
using System.Runtime.InteropServices;

namespace LowRank.Cli;

/// <summary>The command line: one file a command, one place for exit codes.</summary>
public static class Program
{
    /// <summary>Runs a command. Exit codes: 0 done, 1 the work failed, 2 the words or the input are wrong, 130 stopped by a signal.</summary>
    public static async Task<int> Main(string[] args)
    {
        using var stop = new CancellationTokenSource();
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        return await Run(args, stop.Token);

        // The first signal lets the work end with a checkpoint, the second one ends the process.
        void Stop(PosixSignalContext signal)
        {
            signal.Cancel = !stop.IsCancellationRequested;
            stop.Cancel();
        }
    }

    /// <summary>Every command.</summary>
    internal static RootCommand Root() => new("Low-rank adapters without Python: train, evaluate and inspect.")
    {
        MergeCommand.Create(),
        ExtractCommand.Create(),
        DemoCommand.Create(), TrainCommand.Create(), EvalCommand.Create(), EmbedCommand.Create(), GenerateCommand.Create(), ExportCommand.Create(), UnmergeCommand.Create(), ConvertCommand.Create(), InspectCommand.Create(), PretrainCommand.Create(), DevicesCommand.Create(), MethodsCommand.Create(), OpsCommand.Create(), KernelsCommand.Create(),
        CompleteCommand.Create(),
        CompressCommand.Create(),
    };

    /// <summary>As <see cref="Main"/>, stopped by a token.</summary>
    internal static async Task<int> Run(string[] args, CancellationToken cancellation)
    {
        ParseResult parsed = Root().Parse(args);
        if (parsed.Errors.Count > 0)
        {
            foreach (var error in parsed.Errors)
            {
                await Console.Error.WriteLineAsync($"lowrank: {error.Message}");
            }
            await Console.Error.WriteLineAsync($"Try: lowrank {(parsed.CommandResult.Command is RootCommand ? "" : parsed.CommandResult.Command.Name + " ")}--help");
            return ExitCode.Usage;
        }
        try
        {
            int code = await parsed.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null }, cancellation);
            if (CudaKernelList.CacheTrouble is { } trouble)
            {
                await Console.Error.WriteLineAsync($"lowrank: {trouble}");
            }
            return code;
        }
        catch (OperationCanceledException stopped)
        {
            await Console.Error.WriteLineAsync($"lowrank: {stopped.Message}");
            return ExitCode.Cancelled;
        }
        catch (Exception error) when (ExitCode.Of(error) is { } code)
        {
            await Console.Error.WriteLineAsync($"lowrank: {error.Message}");
            return code;
        }
    }
}
