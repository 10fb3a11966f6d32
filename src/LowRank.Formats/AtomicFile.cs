using System.Runtime.InteropServices;

namespace LowRank.Formats;

/// <summary>Writes files whole or not at all: temporary name in the same folder, flush to disk, rename. A crash leaves the previous file, at worst with a temporary one beside it.</summary>
public static partial class AtomicFile
{
    /// <summary>Ending of the temporary names, which begin with a dot.</summary>
    public const string TemporaryEnding = ".tmp";

    /// <summary>Calls <paramref name="write"/> on a temporary file and puts it in the place of <paramref name="path"/>. A missing folder is not made.</summary>
    /// <exception cref="IOException">The disk is full, the file too large for it, the folder missing or not writable, or the file read-only; the message names path and reason, and what was there is unchanged.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        string? temporary = null;
        try
        {
            string target = Resolve(path), folder = Path.GetDirectoryName(target)!;
            Refuse(target);
            temporary = Path.Combine(folder, $".{Path.GetFileName(target)}.{Guid.NewGuid():N}{TemporaryEnding}");
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 1 << 16))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, target, overwrite: true);
            FlushFolder(folder);
        }
        catch (Exception error)
        {
            Remove(temporary);
            // The last is how FileStream reports a file larger than the file system or the user's limit allows.
            if (error is IOException or UnauthorizedAccessException or ArgumentOutOfRangeException { ParamName: "value", ActualValue: null })
            {
                throw new IOException($"AtomicFile: cannot write {path}: {error.Message.Replace(" (Parameter 'value')", "", StringComparison.Ordinal).TrimEnd('.')}. Nothing was changed; free space or choose a writable folder", error);
            }
            throw;
        }
    }

    /// <summary>Writes bytes.</summary>
    /// <exception cref="IOException">As for <see cref="Write"/>.</exception>
    public static void WriteBytes(string path, ReadOnlyMemory<byte> bytes) => Write(path, stream => stream.Write(bytes.Span));

    /// <summary>Writes text as UTF-8 without a byte order mark.</summary>
    /// <exception cref="IOException">As for <see cref="Write"/>.</exception>
    public static void WriteText(string path, string text) => WriteBytes(path, System.Text.Encoding.UTF8.GetBytes(text));

    /// <summary>The file behind a symbolic link, so that a rename replaces the file and not the link.</summary>
    private static string Resolve(string path)
    {
        string full = Path.GetFullPath(path);
        return new FileInfo(full).LinkTarget is null ? full : File.ResolveLinkTarget(full, returnFinalTarget: true)!.FullName;
    }

    // A rename would replace these without asking.
    private static void Refuse(string target)
    {
        if (Directory.Exists(target))
        {
            throw new IOException("it is a folder");
        }
        if (File.Exists(target) && (File.GetAttributes(target) & FileAttributes.ReadOnly) != 0)
        {
            throw new UnauthorizedAccessException("it is read-only");
        }
    }

    private static void Remove(string? temporary)
    {
        try
        {
            if (temporary is not null)
            {
                File.Delete(temporary);
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // The first error is the one to report.
        }
    }

    /// <summary>Makes the rename last through a loss of power. Where the system cannot, the file is whole all the same.</summary>
    private static void FlushFolder(string folder)
    {
        if (!OperatingSystem.IsLinux() && !OperatingSystem.IsMacOS())
        {
            return;
        }
        int descriptor = OpenFolder(folder, 0);
        if (descriptor >= 0)
        {
            _ = Flush(descriptor);
            _ = Close(descriptor);
        }
    }

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenFolder(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync")]
    private static partial int Flush(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
