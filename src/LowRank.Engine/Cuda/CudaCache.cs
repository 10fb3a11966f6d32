using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace LowRank;

/// <summary>Compiled kernels on disk. An entry is written whole or not at all; one that does not hold what it says is deleted and made anew; the oldest go
/// where the folder grows over its limit. A folder that cannot be written is no error: kernels are then compiled in each process.</summary>
/// <param name="folder">Made where it is missing.</param>
/// <param name="limit">Bytes kept.</param>
internal sealed class CudaCache(string folder, long limit = 512L << 20)
{
    private const string Ending = ".cubin";
    private const int HashBytes = 32, HeadBytes = HashBytes + 4;
    private static readonly TimeSpan Abandoned = TimeSpan.FromHours(1);     // a process that ended while it wrote

    /// <summary>LOWRANK_CACHE, or lowrank in the user's cache folder.</summary>
    public static CudaCache Default { get; } = new(
        Environment.GetEnvironmentVariable("LOWRANK_CACHE") is { Length: > 0 } chosen ? chosen
        : Path.Combine(Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } cache ? cache : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"), "lowrank"));

    /// <summary>Why the last write failed, or null.</summary>
    public string? Trouble { get; private set; }

    /// <summary>The entry, or null where there is none that is whole.</summary>
    public (byte[] Cubin, string Log)? TryRead(string key)
    {
        string path = PathOf(key);
        try
        {
            byte[] file = File.ReadAllBytes(path);
            int log = file.Length >= HeadBytes ? BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(HashBytes)) : -1;
            if (log < 0 || log > file.Length - HeadBytes || !SHA256.HashData(file.AsSpan(HashBytes)).AsSpan().SequenceEqual(file.AsSpan(0, HashBytes)))
            {
                File.Delete(path);
                return null;
            }
            File.SetLastWriteTimeUtc(path, File.GetLastWriteTimeUtc(path) is var t && t < Now() ? Now() : t);
            return (file[(HeadBytes + log)..], Encoding.UTF8.GetString(file, HeadBytes, log));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Stores an entry: hash, length of the log, log, machine code.</summary>
    public void Write(string key, byte[] cubin, string log)
    {
        byte[] said = Encoding.UTF8.GetBytes(log), file = new byte[HeadBytes + said.Length + cubin.Length];
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(HashBytes), said.Length);
        said.CopyTo(file, HeadBytes);
        cubin.CopyTo(file, HeadBytes + said.Length);
        SHA256.HashData(file.AsSpan(HashBytes)).CopyTo(file, 0);
        string path = PathOf(key), temporary = $"{path}.{Guid.NewGuid():N}";
        try
        {
            Directory.CreateDirectory(folder);
            using (var stream = new FileStream(temporary, FileMode.CreateNew))
            {
                stream.Write(file);
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, path, overwrite: true);
            Trim();
            Trouble = null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Trouble = $"CudaCache: {folder} cannot be written ({error.Message}); set LOWRANK_CACHE to a folder that can";
            TryDelete(temporary);
        }
    }

    private void Trim()
    {
        ILookup<bool, FileInfo> all = new DirectoryInfo(folder).GetFiles($"*{Ending}*").OrderByDescending(f => f.LastWriteTimeUtc).ToLookup(f => f.Name.EndsWith(Ending, StringComparison.Ordinal));
        foreach (FileInfo abandoned in all[false].Where(f => f.LastWriteTimeUtc < Now() - Abandoned))
        {
            TryDelete(abandoned.FullName);
        }
        long sum = 0;
        foreach (FileInfo file in all[true])
        {
            sum += file.Length;
            if (sum > limit)
            {
                TryDelete(file.FullName);
            }
        }
    }

    private string PathOf(string key) => Path.Combine(folder, key + Ending);

    private static DateTime Now() => TimeProvider.System.GetUtcNow().UtcDateTime;

    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // Another process deletes or uses it: it stays until the next time.
        }
    }
}
