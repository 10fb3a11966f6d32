using Xunit;

namespace LowRank.Testing;

/// <summary>
/// Golden cases: reference data of other tools. Looked for in every root of LOWRANK_GOLDEN (':'-separated), then in tests/golden.
/// tests/golden/required.txt names the cases (<c>folder/case</c>, a line each) that must run: skipping one fails, and so does missing one where LOWRANK_GOLDEN is set.
/// <code>
/// public static TheoryData&lt;string&gt; Cases => Golden.Cases("lora-core");
/// [Theory, MemberData(nameof(Cases))]
/// public void Golden_lora_core(string name) => Golden.Run("lora-core", name, c => ..., Missing(name));
/// </code>
/// </summary>
public static class Golden
{
    private const string Variable = "LOWRANK_GOLDEN";
    private const string Ending = ".safetensors";

    /// <summary>The repository's root: the folder with Engine.sln above the test.</summary>
    public static string Repository { get; } = FindRepository();

    /// <summary>Where cases are looked for, first hit wins.</summary>
    public static IReadOnlyList<string> Roots { get; } = [.. External, Path.Combine(Repository, "tests", "golden")];

    /// <summary>The cases that must run, as <c>folder/case</c>.</summary>
    public static IReadOnlySet<string> Required { get; } = ReadRequired();

    /// <summary>True where LOWRANK_GOLDEN names the full reference data.</summary>
    public static bool HasExternal => External.Length > 0;

    private static string[] External => (Environment.GetEnvironmentVariable(Variable) ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    /// <summary>Names of the cases of a folder, each once, for MemberData: files with <paramref name="ending"/>, folders, and required cases even where they are absent.</summary>
    /// <param name="folder"><c>lora-core</c>, <c>models</c>, <c>formats/npy</c>.</param>
    /// <param name="where">Keeps only names for which it holds; null keeps all.</param>
    /// <param name="ending">Of the files that are cases.</param>
    public static TheoryData<string> Cases(string folder, Func<string, bool>? where = null, string ending = Ending)
    {
        IEnumerable<string> found = Roots.Select(r => Path.Combine(r, folder)).Where(Directory.Exists)
            .SelectMany(path => Directory.GetFiles(path, "*" + ending).Select(Path.GetFileNameWithoutExtension)
            .Concat(Directory.GetDirectories(path).Select(Path.GetFileName)))!;
        IEnumerable<string> required = Required.Where(r => r.StartsWith(folder + "/", StringComparison.Ordinal)).Select(r => r[(folder.Length + 1)..]).Where(r => !r.Contains('/'));
        return [.. found.Concat(required).Distinct().Where(name => where?.Invoke(name) ?? true).Order(StringComparer.Ordinal)];
    }

    /// <summary>The path of a file or folder under a root, or null.</summary>
    public static string? Find(string relative) =>
        Roots.Select(root => Path.Combine(root, relative)).FirstOrDefault(path => File.Exists(path) || Directory.Exists(path));

    /// <summary>The same; where no root has it the test is skipped, with that reason.</summary>
    public static string Need(string relative)
    {
        string? path = Find(relative);
        Assert.SkipWhen(path is null, $"no root has {relative}: set {Variable}");
        return path!;
    }

    /// <summary>Runs a case. Where it is absent, or <paramref name="missing"/> says why it cannot run yet, it is skipped with that reason, or fails if it is required.</summary>
    /// <param name="folder">The method folder.</param>
    /// <param name="name">The case.</param>
    /// <param name="body">The test; a skip inside counts as one.</param>
    /// <param name="missing">What is not implemented (shown as the reason), or null.</param>
    /// <param name="ending">Of a case that is a file.</param>
    public static void Run(string folder, string name, Action<GoldenCase> body, string? missing = null, string ending = Ending)
    {
        string id = $"{folder}/{name}";
        string? path = Find(id + ending) ?? Find(id);
        if (path is null)
        {
            Assert.False(Required.Contains(id) && HasExternal, $"{id} is required and no root of {Variable} has it");
            Assert.Skip($"no root has the case: set {Variable}");
        }
        if (missing is not null)
        {
            Refuse(id, missing);
            Assert.Skip(missing);
        }
        using var golden = new GoldenCase(folder, name, path);
        try
        {
            body(golden);
        }
        catch (Xunit.Sdk.SkipException skip)
        {
            Refuse(id, skip.Message);
            throw;
        }
    }

    private static void Refuse(string id, string reason) => Assert.False(Required.Contains(id), $"{id} is required but would be skipped: {reason}");

    private static string FindRepository()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Engine.sln")))
            {
                return folder.FullName;
            }
        }
        throw new DirectoryNotFoundException($"no Engine.sln above {AppContext.BaseDirectory}");
    }

    private static HashSet<string> ReadRequired()
    {
        string path = Path.Combine(Repository, "tests", "golden", "required.txt");
        return File.Exists(path)
            ? [.. File.ReadLines(path).Select(line => line.Split('#')[0].Trim()).Where(line => line.Length > 0)]
            : [];
    }
}
