using System.Runtime.Intrinsics.X86;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>LR_CPU_ISA forces a level, so that a run of these tests with it set did test that level.</summary>
public class InstructionSetTests
{
    [Fact]
    public void The_level_asked_for_is_the_level_in_use()
    {
        string? asked = Environment.GetEnvironmentVariable("LR_CPU_ISA");
        string want = asked is "portable" || !Avx2.IsSupported || !Fma.IsSupported ? "portable"
            : asked is "avx2" || !Avx512F.IsSupported ? "avx2"
            : "avx512";
        if (asked == want)
        {
            Assert.Equal(want, CpuDevice.Isa);
        }
        // Unasked, a processor may be at its best on the level above avx512 (products of bf16 pairs), which carries its name in front.
        Assert.StartsWith(want, CpuDevice.Isa, StringComparison.Ordinal);
    }
}
