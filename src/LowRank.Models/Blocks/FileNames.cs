using LowRank.Formats;

namespace LowRank.Models.Blocks;

/// <summary>Other names under which published files hold a weight.</summary>
internal static class FileNames
{
    private static readonly (string Ours, string Theirs)[] Older = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];

    /// <summary>The name that the file has for <paramref name="name"/>: itself, without the prefix of the base model (a file of the bare model), or in the
    /// spelling of the first published files; itself where there is none of them.</summary>
    public static string Find(TensorSource file, string name)
    {
        string bare = name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..];
        foreach (string candidate in (ReadOnlySpan<string>)[name, bare])
        {
            if (file.Contains(candidate))
            {
                return candidate;
            }
            foreach ((string ours, string theirs) in Older)
            {
                string older = candidate.Replace(ours, theirs, StringComparison.Ordinal);
                if (older != candidate && file.Contains(older))
                {
                    return older;
                }
            }
        }
        return name;
    }
}
