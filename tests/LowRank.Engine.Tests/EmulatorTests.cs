using System.Diagnostics;
using System.Runtime.InteropServices;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What makes the emulator worth trusting: kernels give the same bits under every schedule, and planted bugs do not pass. Here over the products of
/// mainloop_sm90.cuh, each role and tile.</summary>
public class EmulatorTests
{
    private static readonly HopperTile Large = new(128, 256), Middle = new(128, 128), Small = new(64, 128);

    // Lora: what most faults are planted in. Input: an operand across. Short: more than two tiles fit in the stages, so tickets run ahead.
    private static readonly HopperCase Lora = new(Middle, 5) { Makes = true, Ends = true }, Input = new(Large, 80) { AcrossW = true, Adds = true }, Short = new(Small) { K = 64 };

    /// <summary>Every role with every tile, and each rank.</summary>
    public static TheoryData<int, string> Cases() => [.. All.Select((c, i) => (i, $"{c}"))];

    private static readonly HopperCase[] All =
    [
        new(Large, 16) { Makes = true },
        Lora,
        new(Small, 9) { Makes = true, Ends = true, Columns = 251 },
        new(Large, 30) { Makes = true },
        new(Large, 40) { Makes = true, Ends = true },
        new(Large, 65) { Makes = true },
        new(Middle, 128) { Makes = true },
        new(Large) { Ends = true },
        new(Middle, 16) { Ends = true },
        new(Small, 144) { Columns = 77 },
        Input,
        Short,
        new(Middle) { AcrossW = true },
        new(Small, 32) { AcrossW = true, Adds = true },
        new(Large) { AcrossX = true, AcrossW = true, Adds = true },
        new(Middle) { AcrossX = true, AcrossW = true, Wide = true, Adds = true },
        new(Small) { AcrossX = true, AcrossW = true, Wide = true },
    ];

    /// <summary>Faults of a pipelined kernel: each leaves out or bends one thing. The first nine are those of every such kernel (kernels.md, 9.3).</summary>
    public static TheoryData<string, string, string, string, string> Faults => new()
    {
        { nameof(Lora), "no wait for a full stage", "mainloop_sm90.cuh", "            lr_mbar_wait(&s.full[ring.place], ring.phase);\n            lr_wgmma_fence();", "            lr_wgmma_fence();" },
        { nameof(Lora), "no wait for an empty stage", "mainloop_sm90.cuh", "            lr_mbar_wait(&s.empty[ring.place], ring.phase ^ 1);\n            lr_mbar_expect(&s.full[ring.place], (T::BM", "            lr_mbar_expect(&s.full[ring.place], (T::BM" },
        { nameof(Lora), "no wait for the tail", "mainloop_sm90.cuh", "    lr_mbar_wait(&s.full[ring.place], ring.phase);\n    lr_wgmma_fence();\n    const uint32_t w", "    lr_wgmma_fence();\n    const uint32_t w" },
        { nameof(Lora), "a stage released before its products retire", "mainloop_sm90.cuh", "            lr_wgmma_wait<1>();", "" },
        { nameof(Lora), "no wait for the flag of t", "mainloop_sm90.cuh", "while (!lr_ld_acquire(flag)) lr_spin();", ";" },
        { nameof(Lora), "wrong swizzle in the descriptor", "sm90.cuh", "1ull << 62", "2ull << 62" },
        { nameof(Lora), "wrong stride in the descriptor", "mainloop_sm90.cuh", "lr_descriptor(stage + 32 * kk, 1024)", "lr_descriptor(stage + 32 * kk, 512)" },
        { nameof(Lora), "too few bytes expected", "mainloop_sm90.cuh", "(at.col == 0 ? T::RP : 0)", "0" },
        { nameof(Lora), "producer and consumer in different order", "mainloop_sm90.cuh", "if (tile >= p.row_tiles * p.col_tiles) return;\n        const Place at = Place::of(p, tile);\n\n", "if (tile >= p.row_tiles * p.col_tiles) return;\n        const Place at = Place::of(p, p.row_tiles * p.col_tiles - 1 - tile);\n\n" },
        { nameof(Input), "wrong leading distance across", "mainloop_sm90.cuh", "1024, BlockBytes) :", "1024, BlockBytes / 2) :" },
        { nameof(Input), "wrong stride across", "mainloop_sm90.cuh", "1024, BlockBytes) :", "512, BlockBytes) :" },
        { nameof(Input), "too short a step across", "mainloop_sm90.cuh", "stage + 2048 * kk", "stage + 32 * kk" },
        { nameof(Input), "not told that an operand lies across", "mainloop_sm90.cuh", "lr_wgmma_ss<scalar, T::BN, T::XByK, T::WByK>", "lr_wgmma_ss<scalar, T::BN, T::XByK, false>" },
        { nameof(Lora), "flags not cleared", "mainloop_sm90.cuh", "i < count; i += 32) p", "i < 2; i += 32) p" },
        { nameof(Lora), "ticket not cleared", "mainloop_sm90.cuh", "for (int i = LR_TID % 32; i < count", "for (int i = 1 + LR_TID % 32; i < count" },
        { nameof(Input), "cleared before the last block is done", "mainloop_sm90.cuh", "== static_cast<int>(LR_GX) - 1", "== 0" },
        { nameof(Short), "a ticket overwritten before it is read", "mainloop_sm90.cuh", "        lr_mbar_wait(&s.heard[tickets.place], tickets.phase ^ 1);\n", "" },
        { nameof(Lora), "words exchanged with the wrong lane", "sm90.cuh", "lr_shfl_xor(upper ? low : high, step)", "lr_shfl_xor(upper ? low : high, 3 - step)" },
    };

    internal static IEnumerable<EmulatorSchedule> Schedules =>
        from lazy in (bool[])[false, true] from order in (int[])[0, 1, 2] select new EmulatorSchedule(lazy, order, (uint)order + 7);

    [Theory, MemberData(nameof(Cases))]
    public void Emulated_Hopper_products_have_the_same_bits_under_every_schedule_and_grid(int index, string name)
    {
        byte[]? first = null;
        foreach (int grid in (int[])[1, 3, 4])
        {
            using var driver = new EmulatedDriver { Processors = grid };
            foreach (EmulatorSchedule schedule in Schedules.Where(s => grid == 3 || s.Order == grid % 2 + 1))
            {
                driver.Schedule = schedule;
                (byte[] bits, double error) = All[index].Run(driver, DType.BF16);
                Assert.True(error <= Close.Bound(DType.BF16), $"{name}, grid {grid}, {schedule}: relative error {error:E2}");
                first ??= bits;
                Assert.True(first.AsSpan().SequenceEqual(bits), $"{name}, grid {grid}, {schedule}: bits differ from those of the first");
            }
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void Emulated_Hopper_products_in_half_precision(int index, string name)
    {
        using var driver = new EmulatedDriver();
        double error = All[index].Run(driver, DType.F16).Error;
        Assert.True(error <= Close.Bound(DType.F16), $"{name}: relative error {error:E2}");
    }

    [Theory, MemberData(nameof(Faults))]
    public void Mutation_is_caught(string planted, string fault, string file, string from, string to)
    {
        HopperCase run = planted == nameof(Lora) ? Lora : planted == nameof(Input) ? Input : Short;
        nint library = Build(fault, file, from, to, run.File, "rows.cu");
        string[] passed = [.. Settings.Where(s => Passes(run, library, s)).Select(s => $"{s}")];
        Assert.True(passed.Length < Settings.Count(), $"{fault}: passed under every schedule");
    }

    [Fact]
    public void Mutation_harness_passes_the_kernels_as_they_are()
    {
        nint library = Build("as it is", "mainloop_sm90.cuh", "constexpr int Depth", "constexpr int Depth", Lora.File, Input.File, Short.File, "rows.cu");
        Assert.All(Settings, s => Assert.True(Passes(Lora, library, s) && Passes(Input, library, s) && Passes(Short, library, s), $"{s}"));
    }

    private static IEnumerable<(EmulatorSchedule Schedule, int Grid)> Settings => Schedules.Select(s => (s, s.Order switch { 0 => 4, 1 => 3, _ => 1 }));

    private static bool Passes(HopperCase run, nint library, (EmulatorSchedule Schedule, int Grid) setting)
    {
        using var driver = new EmulatedDriver(library) { Processors = setting.Grid, Schedule = setting.Schedule };
        try
        {
            return run.Run(driver, DType.BF16).Error <= Close.Bound(DType.BF16);
        }
        catch (KernelException)
        {
            return false;       // the emulator itself saw it: a deadlock, an address, one arrival too many
        }
    }

    /// <summary>Kernel files with one piece of text replaced, as a library of their own.</summary>
    internal static nint Build(string name, string file, string from, string to, params string[] sources)
    {
        string root = Path.Combine(Golden.Repository, "native"), folder = Path.Combine(Golden.Repository, "build", "mutations", name.Replace(' ', '_'));
        Directory.CreateDirectory(folder);
        foreach (string source in Directory.GetFiles(Path.Combine(root, "cuda")))
        {
            string text = File.ReadAllText(source);
            if (Path.GetFileName(source) == file)
            {
                Assert.True(text.Split(from).Length == 2, $"{name}: {file} holds the text to replace {text.Split(from).Length - 1} times, want once");
                text = text.Replace(from, to, StringComparison.Ordinal);
            }
            File.WriteAllText(Path.Combine(folder, Path.GetFileName(source)), text);
        }
        string library = Path.Combine(folder, "mutant.so");
        string[] inputs = [.. sources.Select(s => Path.Combine(folder, s)), Path.Combine(root, "emu", "emu.cpp"), "-o", library];
        Run("c++", ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-fno-exceptions", "-pthread", "-DLR_EMU=1", "-DLR_DTYPE=2", "-DLR_ARCH=900", $"-I{folder}", $"-I{root}/abi", $"-I{root}/emu", "-x", "c++", .. inputs]);
        return NativeLibrary.Load(library);
    }

    private static void Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true })!;
        string said = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, said);
    }
}
