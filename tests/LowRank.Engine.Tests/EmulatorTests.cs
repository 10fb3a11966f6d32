using System.Diagnostics;
using System.Runtime.InteropServices;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What makes the emulator worth trusting: kernels give the same bits under every schedule, and planted bugs do not pass.</summary>
public class EmulatorTests
{
    private const int Tokens = 200, K = 136, N = 264, R = 5;

    /// <summary>The nine faults of a pipelined kernel: each leaves out or bends one thing that the Hopper forward needs.</summary>
    public static TheoryData<string, string, string, string> Faults => new()
    {
        { "no wait for a full stage", "lora_sm90.cu", "            lr_mbar_wait(&s.full[ring.stage], ring.phase);\n            lr_wgmma_fence();", "            lr_wgmma_fence();" },
        { "no wait for an empty stage", "lora_sm90.cu", "            lr_mbar_wait(&s.empty[ring.stage], ring.phase ^ 1);\n            lr_mbar_expect", "            lr_mbar_expect" },
        { "no wait for the tail", "lora_sm90.cu", "        lr_mbar_wait(&s.full[ring.stage], ring.phase);\n        lr_wgmma_fence();", "        lr_wgmma_fence();" },
        { "a stage released before its products retire", "lora_sm90.cu", "            lr_wgmma_wait<1>();", "" },
        { "no wait for the flag of t", "lora_sm90.cu", "while (!lr_ld_acquire(flag)) lr_spin();", ";" },
        { "wrong swizzle in the descriptor", "sm90.cuh", "1ull << 62", "2ull << 62" },
        { "wrong stride in the descriptor", "lora_sm90.cu", "lr_descriptor(w + 32 * kk, 1024)", "lr_descriptor(w + 32 * kk, 512)" },
        { "too few bytes expected", "lora_sm90.cu", "(tn == 0 ? RP : 0)", "0" },
        { "producer and consumer in different order", "lora_sm90.cu", "        const int tn = tile / p.row_tiles, tm = tile % p.row_tiles;\n        float acc", "        const int tn = tile % p.col_tiles, tm = tile / p.col_tiles;\n        float acc" },
    };

    internal static IEnumerable<EmulatorSchedule> Schedules =>
        from lazy in (bool[])[false, true] from order in (int[])[0, 1, 2] select new EmulatorSchedule(lazy, order, (uint)order + 7);

    [Theory, InlineData(DType.BF16), InlineData(DType.F16)]
    public void Emulated_Hopper_forward_has_the_same_bits_under_every_schedule(DType type)
    {
        using var driver = new EmulatedDriver();
        byte[]? first = null;
        foreach (EmulatorSchedule schedule in Schedules)
        {
            driver.Schedule = schedule;
            byte[] bits = Forward(driver, type, out double error);
            Assert.True(error <= Close.Bound(DType.BF16), $"{schedule}: relative error {error:E2}");
            first ??= bits;
            Assert.True(first.AsSpan().SequenceEqual(bits), $"{schedule}: bits differ from those of the first schedule");
        }
    }

    [Theory, MemberData(nameof(Faults))]
    public void Mutation_is_caught(string fault, string file, string from, string to)
    {
        using var driver = new EmulatedDriver(Build(fault, file, from, to));
        string[] passed = [.. Schedules.Where(schedule => Passes(driver, schedule)).Select(s => $"{s}")];
        Assert.True(passed.Length < Schedules.Count(), $"{fault}: passed under every schedule");
    }

    [Fact]
    public void Mutation_harness_passes_the_kernel_as_it_is()
    {
        using var driver = new EmulatedDriver(Build("as it is", "lora_sm90.cu", "constexpr int BM", "constexpr int BM"));
        Assert.All(Schedules, schedule => Assert.True(Passes(driver, schedule), $"{schedule}"));
    }

    private static bool Passes(EmulatedDriver driver, EmulatorSchedule schedule)
    {
        driver.Schedule = schedule;
        try
        {
            _ = Forward(driver, DType.BF16, out double error);
            return error <= Close.Bound(DType.BF16);
        }
        catch (KernelException)
        {
            return false;       // the emulator itself saw it: a deadlock, an address, one arrival too many
        }
    }

    /// <summary>One fused forward; y as bytes, and its error to float64.</summary>
    private static byte[] Forward(EmulatedDriver driver, DType type, out double error)
    {
        using Device host = Device.Cpu();
        using Scope scope = host.NewStore();
        var rng = new Rng(3);
        Tensor Draw(string name, Shape shape, DType t)
        {
            float[] values = new float[shape.Count];
            rng.Fork(name).FillUniform(values, -1, 1);
            return scope.Of(shape, values, t);
        }
        Tensor x = Draw("x", [Tokens, K], type), w = Draw("w", [N, K], type), a = Draw("a", [R, K], DType.F32), b = Draw("b", [N, R], DType.F32);
        Tensor y = scope.NewZeros([Tokens, N], type), t = scope.NewZeros([Tokens, R], DType.F32);
        var args = new LoraArgs { X = x.Data, W = w.Data, A = a.Data, B = b.Data, Y = y.Data, T = t.Data, Tokens = Tokens, N = N, K = K, R = R, Scale = 0.5, DType = type, WType = type };
        var stream = new CudaStream(driver);
        try
        {
            Assert.True(CudaMatrixPlans.Forward(stream, in args));
        }
        finally
        {
            stream.End();
            stream.Free();
        }
        Tensor want = scope.NewZeros([Tokens, N], DType.F64);
        host.Launch(Kernels.LoraForward, args with
        {
            X = Wide(x),
            W = Wide(w),
            A = Wide(a),
            B = Wide(b),
            Y = want.Data,
            T = scope.NewZeros([Tokens, R], DType.F64).Data,
            DType = DType.F64,
            WType = DType.F64,
        });
        error = Close.Error(y.ToDoubles(), want.ToDoubles());
        return y.ToBytes();

        nint Wide(Tensor tensor) => scope.Of(tensor.Shape, tensor.ToDoubles()).Data;
    }

    /// <summary>Kernel files, the Hopper forward's where none are named, with one piece of text replaced, as a library of their own.</summary>
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
        string[] inputs = [.. (sources.Length > 0 ? sources : ["lora_sm90.cu", "rows.cu"]).Select(s => Path.Combine(folder, s)), Path.Combine(root, "emu", "emu.cpp"), "-o", library];
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
