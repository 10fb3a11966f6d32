namespace LowRank.Formats;

/// <summary>A file is not what its format asks for: the message names the file, the key or the offset, what was found and what was wanted.</summary>
public sealed class ModelFormatException(string message, Exception? inner = null) : FormatException(message, inner)
{
    /// <summary>The file, or the name given to bytes in memory; null where unknown.</summary>
    public string? File { get; init; }

    /// <summary>The tensor or JSON key at fault; null where none is.</summary>
    public string? Key { get; init; }

    /// <summary>Where in the file, in bytes from its start; null where no place can be named.</summary>
    public long? Offset { get; init; }

    /// <summary>A name from a file, short enough for a message: hostile files have names of megabytes.</summary>
    public static string Quote(string name) => name.Length <= 120 ? $"'{name}'" : $"'{name.AsSpan(0, 100)}...' ({name.Length} characters)";

    /// <summary>A text that quotes a file, short enough for a message: its begin, which says what is wrong, and its end, which says what is wanted.</summary>
    public static string Shorten(string text) => text.Length <= 600 ? text : $"{text.AsSpan(0, 300)} ... {text.AsSpan(text.Length - 200)}";
}
