using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Tests that need a folder of their own.</summary>
public abstract class FolderTest : IDisposable
{
    protected string Folder { get; } = Directory.CreateTempSubdirectory("lowrank-formats-").FullName;

    /// <inheritdoc/>
    public void Dispose()
    {
        Directory.Delete(Folder, recursive: true);
        GC.SuppressFinalize(this);
    }

    protected string At(string name) => Path.Combine(Folder, name);

    /// <summary>Names in the folder, hidden ones too.</summary>
    protected string[] Files() => [.. Directory.EnumerateFileSystemEntries(Folder, "*", new EnumerationOptions { AttributesToSkip = 0 }).Select(Path.GetFileName).Order(StringComparer.Ordinal)!];

    /// <summary>The one number that all tensors of a file or folder hold.</summary>
    protected static float Value(string path)
    {
        using TensorSource source = TensorSource.Open(path);
        Assert.Equal(3, source.Entries.Count);
        return Assert.Single(source.Entries.SelectMany(e => source.ReadSingle(e.Name)).Distinct());
    }
}
