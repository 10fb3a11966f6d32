using System.Reflection;
using System.Runtime.InteropServices;
using Xunit;

namespace LowRank.Repo.Tests;

/// <summary>The C# argument structs lie in memory as the C++ compiler lays out lowrank.h: sizes, offsets, order and names of all fields.</summary>
public class AbiTests
{
    private static readonly List<(string Type, string? Field, long Value)> Native = ReadTable();

    public static TheoryData<string> Structs => [.. Native.Select(r => r.Type).Distinct()];

    [Theory, MemberData(nameof(Structs))]
    public void A_struct_has_the_native_layout(string name)
    {
        Type mirror = typeof(Op).Assembly.GetType($"LowRank.{name}")!;
        Assert.True(mirror is not null, $"{name} of lowrank.h has no C# mirror");
        Assert.Equal(Native.Single(r => r.Type == name && r.Field is null).Value, Marshal.SizeOf(mirror));
        IEnumerable<(string, long)> want = Native.Where(r => r.Type == name && r.Field is not null).Select(r => (Plain(r.Field!), r.Value));
        IEnumerable<(string, long)> got = mirror.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic)
            .Select(f => (Plain(f.Name), (long)Marshal.OffsetOf(mirror, f.Name)));
        Assert.Equal(want, got);
    }

    // w_dtype and WType, dtype and DType name the same field.
    private static string Plain(string name) =>
        name.Replace("_", "", StringComparison.Ordinal).ToUpperInvariant().Replace("DTYPE", "TYPE", StringComparison.Ordinal);

    private static unsafe List<(string, string?, long)> ReadTable()
    {
        nint library = NativeLibrary.Load(Path.Combine(AppContext.BaseDirectory, "liblowrank_cpu.so"));
        List<(string, string?, long)> rows = [];
        for (nint* row = (nint*)((delegate* unmanaged<nint>)NativeLibrary.GetExport(library, "lr_cpu_abi_table"))(); row[0] != 0; row += 3)
        {
            rows.Add((Marshal.PtrToStringUTF8(row[0])!, Marshal.PtrToStringUTF8(row[1]), row[2]));
        }
        return rows;
    }
}
