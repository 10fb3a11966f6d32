using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Xunit;

namespace LowRank.Repo.Tests;

/// <summary>The tables are complete: every op is in the catalogue, every kernel row has its struct in lowrank.h and its export.</summary>
public partial class TableTests
{
    private static readonly Assembly Engine = typeof(Op).Assembly;

    public static TheoryData<string> Kernels => [.. Rows().Select(r => (string)r.GetType().GetProperty("Name")!.GetValue(r)!)];

    [Fact]
    public void Every_op_is_in_the_catalogue()
    {
        IEnumerable<string> declared = Engine.GetTypes().Where(t => t.IsSubclassOf(typeof(Op)) && !t.IsAbstract).Select(t => t.Name);
        Assert.Equal(declared.Order(StringComparer.Ordinal), OpCatalog.All.Select(op => op.GetType().Name).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Kernel_names_are_unique_and_follow_their_fields()
    {
        foreach (FieldInfo field in Fields())
        {
            object row = field.GetValue(null)!;
            string name = (string)row.GetType().GetProperty("Name")!.GetValue(row)!;
            Assert.Equal(field.Name, name.Replace("_", "", StringComparison.Ordinal), ignoreCase: true);
        }
        Assert.Equal(Fields().Count(), Rows().Distinct().Count());
    }

    [Theory, MemberData(nameof(Kernels))]
    public void Every_kernel_is_exported_by_the_cpu_library(string name)
    {
        nint library = NativeLibrary.Load(Path.Combine(AppContext.BaseDirectory, "liblowrank_cpu.so"));
        Assert.True(NativeLibrary.TryGetExport(library, "lr_cpu_" + name, out _), $"liblowrank_cpu has no lr_cpu_{name}");
    }

    [Fact]
    public void Every_struct_of_the_contract_has_its_mirror()
    {
        IEnumerable<string> declared = Structs().Matches(File.ReadAllText(Repository.PathOf("native/abi/lowrank.h"))).Select(m => m.Groups[1].Value);
        IEnumerable<string> mirrored = Rows().Select(r => r.GetType().GetGenericArguments()[0].Name).Concat(["Segment", "Factored", "LoraRange", "LoraPiece"])
            .Append("MergeInput").Distinct();
        Assert.Equal(declared.Order(StringComparer.Ordinal), mirrored.Order(StringComparer.Ordinal));
    }

    [GeneratedRegex(@"^struct (\w+) \{", RegexOptions.Multiline)]
    private static partial Regex Structs();

    private static IEnumerable<FieldInfo> Fields() =>
        Engine.GetType("LowRank.Kernels")!.GetFields(BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic).Where(f => f.FieldType.Name.StartsWith("Kernel", StringComparison.Ordinal));

    private static IEnumerable<object> Rows() => Fields().Select(f => f.GetValue(null)!);
}
