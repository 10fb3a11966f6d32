using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

public class PrimitivesTests
{
    private static float[] Draw(int count, ulong seed)
    {
        var values = new float[count];
        new Rng(seed).FillUniform(values, -1, 1);
        return values;
    }

    [Fact]
    public void Lora_forward_equals_the_merged_linear()
    {
        const int tokens = 9, k = 33, n = 40, r = 4;
        float[] x = Draw(tokens * k, 1), w = Draw(n * k, 2), a = Draw(r * k, 3), b = Draw(n * r, 4), merged = new float[n * k], y = new float[tokens * n], want = new float[tokens * n];
        LowRankPrimitives.LoraForward(x.AsMatrix(tokens, k), w.AsMatrix(n, k), a.AsMatrix(r, k), b.AsMatrix(n, r), 2, y.AsMatrix(tokens, n));
        LowRankPrimitives.LoraMerge(w.AsMatrix(n, k), a.AsMatrix(r, k), b.AsMatrix(n, r), 2, merged.AsMatrix(n, k));
        LowRankPrimitives.Linear(x.AsMatrix(tokens, k), merged.AsMatrix(n, k), want.AsMatrix(tokens, n));
        Close.Check([.. y.Select(v => (double)v)], [.. want.Select(v => (double)v)], Close.Bound(DType.F32), "LoraForward");
    }

    [Fact]
    public void Wrong_shapes_and_overlap_are_named()
    {
        var x = new float[6];
        Assert.Equal("AsMatrix: span has 6 elements, want 2x4", Assert.Throws<ShapeException>(() => x.AsMatrix(2, 4)).Message);
        Assert.Equal("LowRankPrimitives: w is [2, 3], want [2, 6]", Assert.Throws<ShapeException>(() => LowRankPrimitives.Linear(x.AsMatrix(1, 6), x.AsMatrix(2, 3), x.AsMatrix(1, 2 * 3))).Message);
        Assert.Contains("destination overlaps x", Assert.Throws<ShapeException>(() => LowRankPrimitives.Linear(x.AsMatrix(2, 3), new float[9].AsMatrix(3, 3), x.AsMatrix(2, 3))).Message, StringComparison.Ordinal);
    }
}
