using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;

namespace LowRank.Formats;

/// <summary>A file's bytes as spans: mapped, so that the system reads them when touched, or in memory already. A file that somebody cuts short while it is mapped ends the process: replace files, never rewrite them.</summary>
internal sealed unsafe class FileBytes : IDisposable
{
    private readonly MemoryMappedFile? map;
    private readonly MemoryMappedViewAccessor? view;
    private readonly ReadOnlyMemory<byte> memory;
    private byte* start;
    private bool closed;

    private FileBytes(string name, FileStream stream, long length)
    {
        Name = name;
        Length = length;
        map = MemoryMappedFile.CreateFromFile(stream, null, length, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
        view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        start += view.PointerOffset;
    }

    /// <summary>Bytes in memory; <paramref name="name"/> stands in messages.</summary>
    public FileBytes(ReadOnlyMemory<byte> memory, string name)
    {
        Name = name;
        Length = memory.Length;
        this.memory = memory;
    }

    public string Name { get; }

    public long Length { get; }

    /// <summary>Maps a file for reading; <paramref name="reader"/> is the type that asks, for messages.</summary>
    public static FileBytes Open(string path, string reader)
    {
        FileStream stream = OpenStream(path, reader);
        try
        {
            long length = stream.CanSeek ? stream.Length : 0;
            if (length > 0)
            {
                return new FileBytes(path, stream, length);
            }
        }
        catch
        {
            stream.Dispose();
            throw;
        }
        stream.Dispose();
        return new FileBytes(default, path);      // nothing cannot be mapped
    }

    public ReadOnlySpan<byte> Span(long offset, int count)
    {
        ObjectDisposedException.ThrowIf(closed, typeof(TensorSource));
        if (offset < 0 || count < 0 || offset > Length - count)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), offset, $"{count} bytes leave the file of {Length}");
        }
        return start != null ? new(start + offset, count) : memory.Span.Slice((int)offset, count);
    }

    /// <summary>The first bytes, as many as there are.</summary>
    public ReadOnlySpan<byte> Head(int most) => Span(0, (int)Math.Min(Length, most));

    /// <summary>The same bytes as a stream, valid until this is disposed.</summary>
    public Stream AsStream() => start != null ? new UnmanagedMemoryStream(start, Length)
        : MemoryMarshal.TryGetArray(memory, out ArraySegment<byte> array) && array.Array is not null ? new MemoryStream(array.Array, array.Offset, array.Count, writable: false)
        : new MemoryStream(memory.ToArray(), writable: false);

    public void Dispose()
    {
        if (!closed && start != null)
        {
            start = null;
            view!.SafeMemoryMappedViewHandle.ReleasePointer();
            view.Dispose();
            map!.Dispose();
        }
        closed = true;
    }

    private static FileStream OpenStream(string path, string reader)
    {
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 1);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new FileNotFoundException($"{reader}: there is no file {path}: check the name, download it or save it first", path, error);
        }
        catch (UnauthorizedAccessException error)
        {
            throw new IOException($"{reader}: {path} {(Directory.Exists(path) ? "is a folder, want a file in it" : "may not be read by this user: change its mode or owner")}", error);
        }
    }
}
