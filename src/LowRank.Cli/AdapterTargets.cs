using System.Buffers;
using LowRank.Adapters;

namespace LowRank.Cli;

/// <summary>What <c>--targets</c> says.</summary>
internal static class AdapterTargets
{
    private static readonly SearchValues<char> PatternMarks = SearchValues.Create("*+?()[]{}|^$\\");

    /// <summary><c>all-linear</c>, names after commas, or a regular expression; every name must be one of the model's.</summary>
    /// <exception cref="AdapterConfigException">A name is unknown: lists the names there are.</exception>
    public static Names Parse(string text, Model model)
    {
        if (text == Names.AllLinear.Expression)
        {
            return Names.AllLinear;
        }
        if (text.AsSpan().ContainsAny(PatternMarks))
        {
            return Names.Pattern(text);     // what matches nothing is refused when it is attached
        }
        string[] names = text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        Site[] sites = [.. model.Sites.Where(s => s.Kind != SiteKind.Norm)];
        string[] paths = [.. sites.SelectMany(s => s.Aliases.Prepend(s.Path))];
        string? unknown = names.Length == 0 ? text : names.FirstOrDefault(name => !paths.Any(path => path == name || path.EndsWith("." + name, StringComparison.Ordinal)));
        return unknown is null ? Names.Of(names) : throw new AdapterConfigException(
            $"targets: '{unknown}' names no layer, want {Names.AllLinear.Expression}, a regular expression for whole paths, or names such as {string.Join(", ", sites.Select(s => Last(s.Path)).Distinct())}");
    }

    private static string Last(string path) => path[(path.LastIndexOf('.') + 1)..];
}
