using System.Xml.Linq;
using Xunit;

namespace LowRank.Repo.Tests;

/// <summary>Project references point down only: Interop, Engine, Formats, Adapters, {Training, Models}, Cli; Engine, Subspaces, Cli.</summary>
public class FloorTests
{
    private static readonly Dictionary<string, string[]> Below = new()
    {
        ["LowRank.Interop"] = [],
        ["LowRank.Engine"] = ["LowRank.Interop"],
        ["LowRank.Formats"] = ["LowRank.Engine"],
        ["LowRank.Subspaces"] = ["LowRank.Engine"],
        ["LowRank.Adapters"] = ["LowRank.Formats", "LowRank.Engine"],
        ["LowRank.Training"] = ["LowRank.Adapters", "LowRank.Formats", "LowRank.Engine"],
        ["LowRank.Models"] = ["LowRank.Adapters", "LowRank.Formats", "LowRank.Engine"],
        ["LowRank.Cuda.Kernels"] = ["LowRank.Cli"],      // a package of what the command line compiles; references no code
        ["LowRank.Cli"] = ["LowRank.Training", "LowRank.Models", "LowRank.Subspaces", "LowRank.Adapters", "LowRank.Formats", "LowRank.Engine"],
    };

    // Packages that bring large or native parts stay where a library user never meets them.
    private static readonly Dictionary<string, string[]> PackageHomes = new()
    {
        ["TorchSharp"] = ["LowRank.Oracle.Tests", "LowRank.Bench"],
        ["libtorch-cpu-linux-x64"] = ["LowRank.Oracle.Tests", "LowRank.Bench"],
        ["BenchmarkDotNet"] = ["LowRank.Bench"],
        ["ScottPlot"] = ["LowRank.Cli", "LowRank.Bench"],
        ["Spectre.Console"] = ["LowRank.Cli", "LowRank.Bench"],
        ["System.CommandLine"] = ["LowRank.Cli", "LowRank.Bench"],
    };

    public static TheoryData<string> Projects => [.. Repository.Files.Where(f => f.EndsWith(".csproj", StringComparison.Ordinal))];

    public static TheoryData<string> Libraries =>
        [.. Repository.Files.Where(f => f.StartsWith("src/", StringComparison.Ordinal) && f.EndsWith(".csproj", StringComparison.Ordinal))];

    [Theory, MemberData(nameof(Libraries))]
    public void A_project_references_only_floors_below_it(string project)
    {
        string name = NameOf(project);
        Assert.True(Below.ContainsKey(name), $"{name} has no floor: give it one in {nameof(FloorTests)} or move it");
        Assert.Empty(Items(project, "ProjectReference").Select(NameOf).Except(Below[name]));
    }

    [Theory, MemberData(nameof(Projects))]
    public void Heavy_packages_stay_in_their_projects(string project)
    {
        string name = NameOf(project);
        Assert.DoesNotContain(Items(project, "PackageReference"), p => PackageHomes.TryGetValue(p, out string[]? homes) && !homes.Contains(name));
    }

    [Theory, MemberData(nameof(Projects))]
    public void Every_project_is_in_the_solution(string project) =>
        Assert.Contains(project.Replace('/', '\\'), File.ReadAllText(Repository.PathOf("Engine.sln")), StringComparison.Ordinal);

    [Fact]
    public void Only_the_engine_sees_interop()
    {
        string[] seen = [.. Repository.Sources
            .Where(f => f.StartsWith("src/", StringComparison.Ordinal))
            .Where(f => !f.StartsWith("src/LowRank.Interop/", StringComparison.Ordinal) && !f.StartsWith("src/LowRank.Engine/", StringComparison.Ordinal))
            .Where(f => File.ReadAllText(Repository.PathOf(f)).Contains("LowRank.Interop", StringComparison.Ordinal))];
        Assert.Empty(seen);
    }

    private static string NameOf(string project) => Path.GetFileNameWithoutExtension(project.Replace('\\', '/'));

    private static IEnumerable<string> Items(string project, string kind) =>
        XDocument.Load(Repository.PathOf(project)).Descendants(kind).Select(item => (string)item.Attribute("Include")!);
}
