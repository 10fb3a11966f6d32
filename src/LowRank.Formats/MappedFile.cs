using System.IO.MemoryMappedFiles;

namespace LowRank.Formats;

/// <summary>A file's bytes as spans, read by the system when touched. A file that somebody cuts short while it is mapped ends the process: replace files, never rewrite them.</summary>
internal sealed unsafe class MappedFile : IDisposable
{
    private readonly MemoryMappedFile map;
    private readonly MemoryMappedViewAccessor view;
    private byte* start;

    private MappedFile(FileStream stream, long length)
    {
        Length = length;
        map = MemoryMappedFile.CreateFromFile(stream, null, length, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
        view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        start += view.PointerOffset;
    }

    public long Length { get; }

    /// <summary>Maps a file for reading; null where it is empty, which cannot be mapped.</summary>
    public static MappedFile? Open(string path)
    {
        var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 1);
        try
        {
            long length = stream.Length;
            if (length > 0)
            {
                return new MappedFile(stream, length);
            }
        }
        catch
        {
            stream.Dispose();
            throw;
        }
        stream.Dispose();
        return null;
    }

    public ReadOnlySpan<byte> Span(long offset, int count)
    {
        ObjectDisposedException.ThrowIf(start == null, typeof(SafeTensorsFile));
        return offset >= 0 && count >= 0 && offset <= Length - count
            ? new(start + offset, count)
            : throw new ArgumentOutOfRangeException(nameof(offset), offset, $"{count} bytes leave the file of {Length}");
    }

    public void Dispose()
    {
        if (start != null)
        {
            start = null;
            view.SafeMemoryMappedViewHandle.ReleasePointer();
            view.Dispose();
            map.Dispose();
        }
    }
}
