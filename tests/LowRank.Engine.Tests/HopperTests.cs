using System.Diagnostics;
using System.Text.RegularExpressions;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The Hopper plans' choice of tiles, and what the assembler made of their kernels.</summary>
public partial class HopperTests
{
    public static TheoryData<int, int, int, int, int> Shapes => new()
    {
        { 8192, 4096, 132, 128, 256 },     // 7.76 waves
        { 8192, 768, 132, 128, 128 },      // 2.9 waves of 128 columns beat 2 of 256
        { 512, 4096, 132, 128, 128 },
        { 512, 768, 132, 64, 128 },
        { 64, 4096, 132, 64, 128 },
    };

    [Theory, MemberData(nameof(Shapes))]
    public void Tiles_follow_from_the_shape(int m, int n, int multiprocessors, int rows, int cols) => Assert.Equal(new HopperTile(rows, cols), HopperTile.For(m, n, multiprocessors));

    [Theory, InlineData(80, false), InlineData(89, false), InlineData(90, true)]
    public void Emulated_plans_leave_other_architectures_alone(int architecture, bool takes)
    {
        using var driver = new EmulatedDriver { Emulates = architecture };
        using Device device = new CudaDevice(driver);
        using Scope scope = device.NewStore();
        Tensor x = scope.NewZeros([64, 64], DType.BF16), y = scope.NewZeros([64, 64], DType.BF16);
        var stream = new CudaStream(driver);
        Assert.Equal(takes, CudaHopperPlans.TryMultiply(stream, new GemmArgs { A = new(x.Data, DType.BF16, 64, 1), B = new(x.Data, DType.BF16, 64, 1), Y = y.Data, YRowStride = 64, YColStride = 1, YType = DType.BF16, M = 64, N = 64, K = 64, Scale = 1 }));
        Assert.Equal(takes, stream.Counters != 0);
        stream.End();
        stream.Free();
    }

    [Theory, InlineData("lora_r16_sm90.cu"), InlineData("lora_r128_sm90.cu"), InlineData("linear_forward_sm90.cu"), InlineData("linear_input_sm90.cu"), InlineData("linear_weight_sm90.cu")]
    public void Nvrtc_sass_has_the_instructions_of_Hopper(string file)
    {
        Assert.SkipWhen(CudaCompiler.Version is null, Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc));
        Assert.SkipWhen(Disassembler is null, "nvdisasm is neither in a bin folder beside NVRTC's nor on PATH");
        foreach (DType type in (DType[])[DType.BF16, DType.F16])
        {
            CudaBinary binary = new CudaCompiler(cache: null).Get(new CudaVariant(file, type, 90));
            string cubin = Path.GetTempFileName();
            File.WriteAllBytes(cubin, binary.Cubin);
            Dictionary<string, string> kernels = Functions().Split(Disassemble(cubin)).Skip(1).Chunk(2).ToDictionary(part => part[0], part => part[1]);
            File.Delete(cubin);
            foreach (string kernel in binary.Kernels.Keys)
            {
                string sass = kernels[kernel], columns = kernel.Contains("x256", StringComparison.Ordinal) ? "256" : "128", format = type == DType.BF16 ? ".BF16" : "";
                Assert.Contains($"HGMMA.64x{columns}x16.F32{format}", sass, StringComparison.Ordinal);
                Assert.All((string[])["UTMALDG.2D", "USETMAXREG", "STG.E.128"], instruction => Assert.Contains(instruction, sass, StringComparison.Ordinal));
                Assert.DoesNotMatch(@"\b(HMMA|LDL|STL)\b", sass);
            }
        }
    }

    private static readonly string? Disassembler = Folders().Select(folder => Path.Combine(folder, "nvdisasm")).FirstOrDefault(File.Exists);

    private static IEnumerable<string> Folders()
    {
        // lib, lib64 or lib/x86_64-linux-gnu: bin is one or two folders up.
        for (string? folder = Path.GetDirectoryName(Interop.CudaLibraries.PathOf(Interop.CudaLibraries.Nvrtc)); !string.IsNullOrEmpty(folder); folder = Path.GetDirectoryName(folder))
        {
            yield return Path.Combine(folder, "bin");
        }
        foreach (string folder in (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries))
        {
            yield return folder;
        }
    }

    private static string Disassemble(string cubin)
    {
        using Process process = Process.Start(new ProcessStartInfo(Disassembler!, ["-c", cubin]) { RedirectStandardOutput = true })!;
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return text;
    }

    [GeneratedRegex(@"^\.text\.(\w+):\s*$", RegexOptions.Multiline)]
    private static partial Regex Functions();
}
