namespace LowRank.Formats;

/// <summary>A file is not what its format asks for: the message names the file, the key or the offset, what was found and what was wanted.</summary>
public sealed class ModelFormatException(string message, Exception? inner = null) : FormatException(message, inner);
