using System.Globalization;
using System.Text;
using System.Text.Unicode;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary>Text files of users: UTF-8, or UTF-16 with its mark. Bytes that are no text are refused where they stand.</summary>
internal static class TextFile
{
    /// <summary>Reads a file once.</summary>
    /// <param name="file">The file.</param>
    /// <param name="want">What is wanted there, for the message where there is no file.</param>
    /// <param name="read">Does the reading.</param>
    /// <exception cref="ModelFormatException">Bytes are no UTF-8: names file, line and column.</exception>
    /// <exception cref="IOException">The file is missing or unreadable.</exception>
    public static T Read<T>(string file, string want, Func<StreamReader, T> read)
    {
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"{file}: there is no such file, want {want}", file);
        }
        try
        {
            using var reader = new StreamReader(file, new UTF8Encoding(encoderShouldEmitUTF8Identifier: true, throwOnInvalidBytes: true));
            return read(reader);
        }
        catch (DecoderFallbackException error)
        {
            string bytes = string.Join(' ', (error.BytesUnknown ?? []).Select(b => b.ToString("X2", CultureInfo.InvariantCulture)));
            throw new ModelFormatException($"{file}: {Place(file)}: bytes that are no UTF-8 ({bytes}): convert the file first", error) { File = file };
        }
    }

    /// <summary>The lines of a file.</summary>
    /// <exception cref="ModelFormatException">There is no line, or bytes are no UTF-8.</exception>
    /// <exception cref="IOException">The file is missing or unreadable.</exception>
    public static string[] Lines(string file)
    {
        string[] lines = Read(file, "one with a text a line", reader => Lines(reader).ToArray());
        return lines.Length > 0 ? lines : throw new ModelFormatException($"{file}: there is no line, want a text a line") { File = file };
    }

    /// <summary>What is left of a reader, line by line.</summary>
    public static IEnumerable<string> Lines(StreamReader reader)
    {
        while (reader.ReadLine() is { } line)
        {
            yield return line;
        }
    }

    /// <summary>Line and column, in bytes and from 1, of the first byte that is no UTF-8.</summary>
    private static string Place(string file)
    {
        using FileStream stream = File.OpenRead(file);
        byte[] bytes = new byte[1 << 16];
        char[] text = new char[bytes.Length];
        long line = 1, column = 1;
        for (int kept = 0, got; (got = stream.Read(bytes, kept, bytes.Length - kept)) > 0;)
        {
            int count = kept + got;
            Utf8.ToUtf16(bytes.AsSpan(0, count), text, out int valid, out _, replaceInvalidSequences: false, isFinalBlock: false);
            line += bytes.AsSpan(0, valid).Count((byte)'\n');
            int last = bytes.AsSpan(0, valid).LastIndexOf((byte)'\n');
            column = last < 0 ? column + valid : valid - last;
            bytes.AsSpan(valid, count - valid).CopyTo(bytes);
            kept = count - valid;
            if (kept >= 4)      // a character has no more bytes: this one does not end with the block, it is wrong
            {
                break;
            }
        }
        return string.Create(CultureInfo.InvariantCulture, $"line {line}, column {column}");
    }
}
