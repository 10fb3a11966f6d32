using System.Reflection;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Xunit;

namespace LowRank.Repo.Tests;

/// <summary>Every block of README.md marked csharp is a whole program: it compiles against this build, without warnings, and runs to its end.</summary>
public class ReadmeTests
{
    // What ImplicitUsings gives a project of its own.
    private const string ImplicitUsings =
        "global using System; global using System.Collections.Generic; global using System.IO; global using System.Linq; global using System.Threading; global using System.Threading.Tasks;";

    [Fact]
    public void The_readme_shows_the_library() => Assert.NotEmpty(Snippets(ReadReadme()));

    [Fact]
    public void Every_snippet_compiles_and_runs()
    {
        foreach ((int line, string code) in Snippets(ReadReadme()))
        {
            Run(line, code);
        }
    }

    [Fact]
    public void A_snippet_that_does_not_compile_is_found() =>
        Assert.Contains("CS0246", Assert.ThrowsAny<Exception>(() => Run(1, "NoSuchType x = new();")).Message, StringComparison.Ordinal);

    private static string ReadReadme() => File.ReadAllText(Repository.PathOf("README.md"));

    private static List<(int Line, string Code)> Snippets(string markdown)
    {
        List<(int, string)> snippets = [];
        string[] lines = markdown.Split('\n');
        for (int i = 0; i < lines.Length; i++)
        {
            if (lines[i].Trim() == "```csharp")
            {
                int end = Array.FindIndex(lines, i + 1, l => l.Trim() == "```");
                snippets.Add((i + 1, string.Join('\n', lines[(i + 1)..end])));
                i = end;
            }
        }
        return snippets;
    }

    // Files a snippet writes land in out/ of the checkout, which git ignores.
    private static void Run(int line, string code)
    {
        CSharpParseOptions language = new(LanguageVersion.Latest);
        MetadataReference[] references = [.. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!)
            .Split(Path.PathSeparator).Select(path => MetadataReference.CreateFromFile(path))];
        CSharpCompilation compilation = CSharpCompilation.Create(
            $"readme_line_{line}",
            [CSharpSyntaxTree.ParseText(ImplicitUsings, language), CSharpSyntaxTree.ParseText(code, language, $"README.md:{line}")],
            references,
            new CSharpCompilationOptions(OutputKind.ConsoleApplication, nullableContextOptions: NullableContextOptions.Enable));
        using MemoryStream image = new();
        string[] complaints = [.. compilation.Emit(image).Diagnostics.Where(d => d.Severity >= DiagnosticSeverity.Warning).Select(d => d.ToString())];
        Assert.True(complaints.Length == 0, $"README.md line {line}: {string.Join('\n', complaints)}");
        MethodInfo main = Assembly.Load(image.ToArray()).EntryPoint!;
        string folder = Directory.GetCurrentDirectory();
        Directory.SetCurrentDirectory(Repository.Root);
        try
        {
            main.Invoke(null, main.GetParameters().Length == 0 ? null : [Array.Empty<string>()]);
        }
        finally
        {
            Directory.SetCurrentDirectory(folder);
        }
    }
}
