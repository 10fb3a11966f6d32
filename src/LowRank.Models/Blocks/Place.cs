namespace LowRank.Models.Blocks;

/// <summary>Where a block sits: its module path, which adapters use, and its path in the weight file.</summary>
internal readonly record struct Place(string Path, string File)
{
    /// <summary>A part that has one name in both.</summary>
    public Place At(string name) => At(name, name);

    /// <summary>A part that the file calls otherwise.</summary>
    public Place At(string path, string file) => new(Join(Path, path), Join(File, file));

    private static string Join(string head, string tail) => head.Length == 0 ? tail : tail.Length == 0 ? head : $"{head}.{tail}";
}
