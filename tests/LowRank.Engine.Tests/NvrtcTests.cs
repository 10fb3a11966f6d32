using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Level 0: the real compiler takes every kernel file, for each element type and architecture, and its log has nothing that costs speed.</summary>
public class NvrtcTests
{
    /// <summary>The suite's one: a file is compiled once, whoever asks.</summary>
    internal static CudaCompiler Compiler { get; } = new(CudaCache.Default);

    public static TheoryData<string, DType, int> Variants
    {
        get
        {
            var data = new TheoryData<string, DType, int>();
            foreach (string file in CudaSources.Shipped.Files)
            {
                foreach (DType type in (DType[])[DType.F32, DType.BF16, DType.F16])
                {
                    foreach (int architecture in (int[])[80, 90])
                    {
                        if (new CudaVariant(file, type, architecture).HasKernels)
                        {
                            data.Add(file, type, architecture);
                        }
                    }
                }
            }
            return data;
        }
    }

    [Theory, MemberData(nameof(Variants))]
    public void Nvrtc_compiles_without_spills_or_remarks(string file, DType type, int architecture)
    {
        Assert.SkipWhen(CudaCompiler.Version is null, Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc));
        var variant = new CudaVariant(file, type, architecture);
        CudaBinary binary = Compiler.Get(variant);
        Assert.NotEmpty(binary.Cubin);
        Assert.True(binary.Kernels.Count > 0, binary.Log);
        Assert.True(binary.Notes.Count == 0, $"{variant}: {string.Join('\n', binary.Notes)}");
        Assert.All(binary.Kernels, k => Assert.True(k.Value is { SpillBytes: 0, StackBytes: 0 }, $"{variant}: {k.Key} uses {k.Value}"));
    }
}
