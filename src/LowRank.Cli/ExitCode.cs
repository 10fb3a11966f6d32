namespace LowRank.Cli;

/// <summary>What the process returns, by kind of error.</summary>
internal static class ExitCode
{
    public const int Done = 0, Failed = 1, Usage = 2, Cancelled = 130;

    /// <summary>Code for an error that a user can act on; null for a defect, whose stack should be seen.</summary>
    public static int? Of(Exception error) => error switch
    {
        FormatException or ArgumentException or FileNotFoundException or DirectoryNotFoundException => Usage,
        NumericException => Failed,
        IOException or UnauthorizedAccessException or InvalidOperationException or NotSupportedException => Failed,
        _ => null,
    };
}

/// <summary>The words of a command line contradict each other or what they meet: the message says what to change.</summary>
internal sealed class UsageException(string message) : ArgumentException(message);
