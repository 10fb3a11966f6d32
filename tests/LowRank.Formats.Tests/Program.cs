using Xunit.Runner.InProc.SystemConsole;

namespace LowRank.Formats.Tests;

/// <summary>Runs the tests, or one of the writers that <see cref="DurabilityTests"/> starts to see it die.</summary>
internal static class Program
{
    public static Task<int> Main(string[] args) => args is [Writer.Argument, ..] ? Task.FromResult(Writer.Run(args)) : ConsoleRunner.Run(args);
}
