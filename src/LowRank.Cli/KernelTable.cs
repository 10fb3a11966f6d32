using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace LowRank.Cli;

/// <summary>The status table of the CUDA kernels: a row a file, from the heads of the files, the emulator's rows, NVRTC's log and the bench's table.</summary>
internal static partial class KernelTable
{
    /// <summary>What of a table depends on the NVRTC of the machine: registers and spills.</summary>
    public const int CompilerColumns = 2;

    // The bench's group on the CPU by the beginning of a file's name.
    private static readonly (string Prefix, string Group)[] Groups =
    [
        ("lora", "lora forward"), ("skinny", "lora forward+backward"), ("linear", "linear"), ("product", "linear"), ("gemm", "linear"), ("attention", "attention"), ("loss", "cross-entropy"), ("adam", "adamw"),
        ("dct", "inverse cosine transform"),
    ];

    /// <summary>The table as the README shows it, each line ended. The last columns are the compiler's.</summary>
    public static string Markdown()
    {
        ILookup<string, CudaKernelInfo> kernels = CudaKernelList.All().ToLookup(k => k.File);
        var text = new StringBuilder($"| file of kernels | floor, and time predicted | kernels x types | emulated rows | CPU peer/ours | GPU | registers sm_80, sm_90a (NVRTC {CudaKernelList.NvrtcVersion ?? "absent"}) | spills |\n|---|---|---:|---:|---|---|---|---:|\n");
        foreach (CudaKernelFamily family in CudaKernelFamily.All)
        {
            CudaKernelInfo[] of = [.. kernels[family.File]];
            int rows = of.Select(k => k.Row).Where(r => r.Length > 0).Distinct().Count();
            text.Append(CultureInfo.InvariantCulture, $"| `{family.File}` | {Cell(family.Floor)} | {of.Length} | {rows} | {Ratio(family.File)} | GPU-pending | {Registers(of, "sm_80")}, {Registers(of, "sm_90a")} | {of.Sum(k => k.Builds.Sum(b => b.SpillBytes))} |\n");
        }
        return text.ToString();
    }

    private static string Cell(string text) => text.Replace("|", "\\|", StringComparison.Ordinal);

    private static string Registers(CudaKernelInfo[] kernels, string architecture)
    {
        int[] registers = [.. kernels.SelectMany(k => k.Builds).Where(b => b.Architecture == architecture).Select(b => b.Registers)];
        return registers.Length == 0 ? "–" : Range(registers.Min(), registers.Max());
    }

    private static string Ratio(string file)
    {
        string? group = Groups.FirstOrDefault(g => file.StartsWith(g.Prefix, StringComparison.Ordinal)).Group;
        string[] lines = Resource("bench.md").Split('\n');
        int head = Array.FindIndex(lines, line => group is not null && line.StartsWith($"| {group} |", StringComparison.Ordinal));
        string[] ratios = head < 0 ? [] : [.. lines.Skip(head + 2).TakeWhile(line => line.StartsWith('|')).Select(line => Bold().Match(line)).Where(m => m.Success).Select(m => m.Groups[1].Value).OrderBy(r => double.Parse(r, CultureInfo.InvariantCulture))];
        return ratios.Length == 0 ? "–" : Range(ratios[0], ratios[^1]);
    }

    private static string Range<T>(T least, T most) => Equals(least, most) ? $"{least}" : $"{least}–{most}";

    private static string Resource(string name)
    {
        using var reader = new StreamReader(typeof(KernelTable).Assembly.GetManifestResourceStream(name)!);
        return reader.ReadToEnd();
    }

    [GeneratedRegex(@"\*\*([0-9.]+)\*\*")]
    private static partial Regex Bold();
}
