using System.Text.RegularExpressions;

namespace LowRank.Adapters;

/// <summary>What the rules say about a path.</summary>
public enum Match
{
    /// <summary>No rule names it.</summary>
    No,
    /// <summary>It is adapted.</summary>
    Adapt,
    /// <summary>It is named by exclude_modules or modules_to_save.</summary>
    Excluded,
}

/// <summary>PEFT's rules for which layers an adapter takes (check_target_module_exists, get_pattern_key). Expressions come from files that nobody
/// vouches for, so each runs under a time limit.</summary>
public static class TargetRules
{
    private const int LongestName = 200, MostNames = 8;     // of a list that some file holds, for the hint in a message
    private static readonly TimeSpan Limit = TimeSpan.FromMilliseconds(250);

    /// <summary>What a config says about a module path; <c>all-linear</c> is decided by <see cref="Select"/>.</summary>
    /// <exception cref="AdapterConfigException">An expression is invalid or takes too long.</exception>
    public static Match Check(AdapterConfig config, string path)
    {
        if (config.Exclude is { } exclude && (exclude.IsPattern ? Whole(exclude.Expression, path) : Named(exclude, path)))
        {
            return Match.Excluded;
        }
        if (config.ModulesToSave?.Any(module => Covers(module, path)) == true)
        {
            return Match.Excluded;
        }
        if (config.Targets is not { } targets)
        {
            return Match.No;
        }
        if (targets.IsPattern)
        {
            return Whole(targets.Expression, path) ? Match.Adapt : Match.No;
        }
        if (targets.Contains(path))
        {
            return Match.Adapt;
        }
        return Named(targets, path) && InLayers(config, path) ? Match.Adapt : Match.No;
    }

    /// <summary>The layers of a model that a config adapts, in the model's order.</summary>
    /// <exception cref="AdapterConfigException">None matches: names the targets and some paths there are.</exception>
    public static IReadOnlyList<Site> Select(AdapterConfig config, Model model)
    {
        bool allLinear = config.Targets is { IsPattern: true } targets && targets.Expression == Names.AllLinear.Expression;
        AdapterConfig rules = allLinear ? config with { Targets = ".*" } : config;
        Site[] all = [.. model.Sites.Where(site => site.Kind != SiteKind.Norm || config.Adapts(SiteKind.Norm))];
        Site[] named = [.. all.Where(site => ByParameter(config, site) || (site.Kind != SiteKind.Stack && (!allLinear || (site.Kind == SiteKind.Linear && !site.IsOutput)) && Fits(rules, site)))];
        Site[] chosen = [.. all.Where(site => named.Contains(site) || (config.TiesWeights && named.Any(other => other.Weight == site.Weight)))];
        if (chosen.Length == 0)
        {
            string some = string.Join(", ", all.Where(s => config.Adapts(s.Kind)).Take(6).Select(s => s.Path));
            if (config.ParameterTargets.Count > 0)
            {
                throw new AdapterConfigException($"{config.GetType().Name}: target_parameters [{string.Join(", ", config.ParameterTargets)}] match no parameter; this model has {some} ...");
            }
            throw new AdapterConfigException(config.Targets is null
                ? $"{config.GetType().Name}: target_modules is null, want names of layers; this model has {some} ..."
                : $"{config.GetType().Name}: target_modules {config.Targets}{(config.Exclude is null ? "" : $" without {config.Exclude}")} matches no layer{(config.Targets.IsPattern ? "" : $", nearest are {string.Join(", ", Nearest(config.Targets, all))}")}; this model has {some} ...");
        }
        return chosen.FirstOrDefault(site => !config.Adapts(site.Kind)) is { } wrong
            ? throw new AdapterConfigException($"{config.GetType().Name}: target_modules names {wrong.Path}, a layer of kind {wrong.Kind}, want layers of kind {string.Join(", ", Enum.GetValues<SiteKind>().Where(config.Adapts))}")
            : chosen;
    }

    /// <summary>The number of the first pattern that matches the end of a path, else <paramref name="otherwise"/>.</summary>
    public static double FirstMatch(IReadOnlyDictionary<string, double> patterns, Site site, double otherwise)
    {
        string? key = Paths(site).Select(path => PatternKey(patterns.Keys, path)).FirstOrDefault(k => k is not null);
        return key is null ? otherwise : patterns[key];
    }

    /// <summary>The first pattern that matches a path: the whole of it, or its end after a dot.</summary>
    public static string? PatternKey(IEnumerable<string> patterns, string path) => patterns.FirstOrDefault(pattern => Run($@"\A(.*\.)?({pattern})$", path).Success);

    /// <summary>True if a module is the named one or inside of it.</summary>
    internal static bool Covers(string module, string path) => Run($@"(^|.*\.){module}($|\..*)", path) is { Success: true, Index: 0 };

    /// <summary>Every name of a site.</summary>
    internal static IEnumerable<string> Paths(Site site) => site.Aliases.Prepend(site.Path);

    /// <summary>The three ends of paths, as long in modules as the names, that differ least from one of them.</summary>
    private static IEnumerable<string> Nearest(Names names, Site[] sites) => names.Where(name => name.Length <= LongestName).Take(MostNames)
        .SelectMany(name => sites.SelectMany(Paths).Select(path => End(path, name.Count(c => c == '.') + 1)).Distinct().Select(end => (End: end, Edits: Edits(name, end))))
        .OrderBy(pair => pair.Edits).Select(pair => pair.End).Distinct().Take(3);

    private static string End(string path, int modules) => string.Join('.', path.Split('.').TakeLast(modules));

    /// <summary>Levenshtein's distance: letters to insert, remove or replace.</summary>
    private static int Edits(string a, string b)
    {
        int[] above = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int[] row = new int[b.Length + 1];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                row[j] = Math.Min(Math.Min(row[j - 1], above[j]) + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1));
            }
            above = row;
        }
        return above[^1];
    }

    private static bool Fits(AdapterConfig rules, Site site)
    {
        Match[] matches = [.. Paths(site).Select(path => Check(rules, path))];
        return matches.Contains(Match.Adapt) && !matches.Contains(Match.Excluded);
    }

    private static bool ByParameter(AdapterConfig config, Site site) => config.ParameterTargets.Count > 0
        && site.Kind is SiteKind.Stack or SiteKind.Linear && Paths(site).Any(path => Named(config.ParameterTargets, site.Kind == SiteKind.Stack ? path : path + ".weight"));

    /// <summary>True if a path is one of the names, or ends with one after a dot.</summary>
    internal static bool Named(IEnumerable<string> names, string path) => names.Any(name => path == name || path.EndsWith("." + name, StringComparison.Ordinal));

    private static bool InLayers(AdapterConfig config, string path)
    {
        if (config.LayersToTransform is not { Count: > 0 } layers)
        {
            return true;
        }
        string[] patterns = config.LayersPattern is { Count: > 0 } lists ? [.. lists] : ["[^.]*"];
        System.Text.RegularExpressions.Match? found = patterns.Select(pattern => Run($@"\A.*?\.{pattern}\.(\d+)\.", path)).FirstOrDefault(m => m.Success);
        return found is not null && int.TryParse(found.Groups[1].ValueSpan, out int number) && layers.Contains(number);
    }

    /// <summary>True if an expression matches the whole of a path.</summary>
    internal static bool Whole(string expression, string path) => Run($@"\A(?:{expression})\z", path).Success;

    private static System.Text.RegularExpressions.Match Run(string expression, string path)
    {
        try
        {
            return Regex.Match(path, expression, RegexOptions.CultureInvariant, Limit);
        }
        catch (RegexMatchTimeoutException error)
        {
            throw new AdapterConfigException($"TargetRules: the expression {expression} takes more than {Limit.TotalMilliseconds} ms on {path}, want one without nested repetition", error);
        }
        catch (ArgumentException error)
        {
            throw new AdapterConfigException($"TargetRules: {expression} is no regular expression: {error.Message}", error);
        }
    }
}
