namespace LowRank.Cli;

/// <summary>One writer a folder: held by one process at a time, and let go when it ends, however it ends.</summary>
internal sealed class FolderLock : IDisposable
{
    private const string FileName = ".lowrank.lock";
    private readonly FileStream file;

    private FolderLock(FileStream file) => this.file = file;

    /// <summary>Holds a folder; makes it where there is none.</summary>
    /// <exception cref="IOException">Another process holds it, or it cannot be made or written.</exception>
    public static FolderLock Take(string folder)
    {
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception error) when (error is UnauthorizedAccessException or IOException)
        {
            throw new IOException($"output: cannot make {folder}: {error.Message.TrimEnd('.')}. Choose a writable --output", error);
        }
        try
        {
            return new FolderLock(new FileStream(Path.Combine(folder, FileName), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 1, FileOptions.DeleteOnClose));
        }
        catch (UnauthorizedAccessException error)
        {
            throw new IOException($"output: cannot write into {folder}: {error.Message.TrimEnd('.')}. Choose a writable --output", error);
        }
        catch (IOException error)
        {
            throw new IOException($"output: another process writes into {folder}; wait until it ends, or choose another --output", error);
        }
    }

    /// <summary>Throws where another process holds a folder.</summary>
    /// <exception cref="IOException">It does.</exception>
    public static void Require(string folder)
    {
        if (File.Exists(Path.Combine(folder, FileName)))
        {
            Take(folder).Dispose();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();
}
