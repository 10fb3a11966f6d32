namespace LowRank.Cuda.Bench;

/// <summary>The runner of the GPU bundle: one command a stage, and <c>table</c>, which puts the stages' parts together. The script beside the archive calls it.</summary>
public static class Program
{
    private const int Failed = 1, Usage = 2;

    /// <summary>Runs a command. Exit codes: 0 done, 1 something failed, 2 the words are wrong.</summary>
    public static int Main(string[] args)
    {
        try
        {
            string command = args.Length > 0 ? args[0] : "";
            bool named = command is "table" or "time" && args.Length > 1;
            string name = named ? args[1] : "";
            var stage = new Stage(Options.Parse(args.AsSpan(Math.Min(args.Length, named ? 2 : 1))));
            return command switch
            {
                "random" => stage.Random(),
                "determinism" => stage.Determinism(),
                "once" => stage.Once(),
                "compile" => stage.Compile(),
                "step" => stage.Step(),
                "time" when Rows.Stages.Contains(name) => stage.Time(name),
                "table" when named => stage.Table(name),
                _ => throw new FormatException($"command is '{command} {name}', want random, determinism, once, compile, step, table FOLDER, or time with one of {string.Join(", ", Rows.Stages)}"),
            };
        }
        catch (FormatException error)
        {
            Console.Error.WriteLine(error.Message);
            return Usage;
        }
        catch (Exception error) when (error is DeviceException or KernelException or IOException)
        {
            Console.Error.WriteLine(error.Message);
            return Failed;
        }
    }
}
