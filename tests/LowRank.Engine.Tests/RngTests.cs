using System.Buffers.Binary;
using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

public sealed class RngTests
{
    // known answers of the Random123 distribution, kat_vectors: philox4x32 10
    [Theory]
    [InlineData(0, 0, 0, 0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)]
    [InlineData(ulong.MaxValue, ulong.MaxValue, ulong.MaxValue, 0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)]
    [InlineData(0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88, 0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)]
    public void PhiloxGivesThePublishedNumbers(ulong key, ulong stream, ulong block, uint a, uint b, uint c, uint d) =>
        Assert.Equal((a, b, c, d), Philox.Block(key, stream, block));

    [Fact]
    public void FillersFollowPositions()
    {
        var rng = new Rng(11);
        var values = new float[9];
        rng.FillUniform(values.AsSpan(0, 3), 0, 1);
        rng.FillUniform(values.AsSpan(3), 0, 1);
        Assert.Equal(values, Enumerable.Range(0, 9).Select(i => new Rng(11).Uniform(i)));
        Assert.Equal(new RngState(11, 9), rng.State);
    }

    [Fact]
    public void StateContinuesBitForBit()
    {
        var rng = new Rng(5).Fork("order");
        rng.Permutation(7);
        var copy = new Rng(rng.State);
        double[] a = new double[5], b = new double[5];
        rng.FillNormal(a, 0, 1);
        copy.FillNormal(b, 0, 1);
        Assert.Equal(a, b);
        Assert.Equal(rng.Permutation(100), copy.Permutation(100));
    }

    [Fact]
    public void ForksDependOnSeedAndNameOnly()
    {
        var used = new Rng(1);
        used.Below(9);
        Assert.Equal(new Rng(1).Fork("a").Uniform(0), used.Fork("a").Uniform(0));
        float[] distinct = [new Rng(1).Uniform(0), new Rng(1).Fork("a").Uniform(0), new Rng(1).Fork("b").Uniform(0), new Rng(1).Fork("").Uniform(0),
            new Rng(2).Fork("a").Uniform(0), new Rng(1).Fork("a").Fork("b").Uniform(0), new Rng(1).Fork("b").Fork("a").Uniform(0)];
        Assert.Equal(distinct.Length, distinct.Distinct().Count());
    }

    [Fact]
    public void MomentsAreThoseOfTheDistribution()
    {
        const int count = 1 << 16;
        var uniform = new float[count];
        new Rng(3).FillUniform(uniform, -1, 3);
        Assert.All(uniform, v => Assert.InRange(v, -1, 3));
        Moments(uniform.Select(v => (double)v).ToArray(), 1, 16.0 / 12);
        var single = new float[count + 1];
        new Rng(3).FillNormal(single, 2, 0.5f);
        Moments(single.Select(v => (double)v).ToArray(), 2, 0.25);
        var normal = new double[count + 1];
        new Rng(3).FillNormal(normal, -1, 3);
        Moments(normal, -1, 9);
        int[] below = new int[6];
        var rng = new Rng(8);
        for (int i = 0; i < count; i++)
        {
            below[rng.Below(6)]++;
        }
        Assert.All(below, n => Assert.True(Math.Abs(n - (count / 6.0)) < Close.Deviations * Math.Sqrt(count / 6.0)));
    }

    [Fact]
    public void PermutationHoldsEveryNumberOnce()
    {
        int[] order = new Rng(4).Permutation(257);
        Assert.Equal(Enumerable.Range(0, 257), order.Order());
        Assert.NotEqual(Enumerable.Range(0, 257), order);
        Assert.Empty(new Rng(4).Permutation(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new Rng(4).Below(0));
    }

    [Fact]
    public void TorchUniformStream()
    {
        var values = new float[4];
        new TorchRandom(0).FillUniform(values, 0, 1);
        Assert.Equal(["0.4962566", "0.7682218", "0.0884774", "0.1320305"], values.Select(v => v.ToString("F7", null)));
        new TorchRandom(42).FillUniform(values, 0, 1);
        Assert.Equal(["0.8822693", "0.9150040", "0.3828638"], values.Take(3).Select(v => v.ToString("F7", null)));
        Assert.Throws<ShapeException>(() => new TorchRandom(0).FillUniform(new float[1], 0, 1, DType.I32));
    }

    // torch.manual_seed(0): randn(3), randn(5, 5)[:9], randperm(10)
    [Fact]
    public void TorchNormalsAndPermutation()
    {
        var few = new float[3];
        new TorchRandom(0).FillNormal(few, 0, 1);
        Assert.Equal(["1.5410", "-0.2934", "-2.1788"], few.Select(v => v.ToString("F4", null)));
        var many = new float[25];
        new TorchRandom(0).FillNormal(many, 0, 1);
        Assert.Equal(["-1.1258", "-1.1524", "-0.2506", "-0.4339", "0.8487", "0.6920", "-0.3160", "-2.1152", "0.3223"], many.Take(9).Select(v => v.ToString("F4", null)));
        Assert.Equal([4, 1, 7, 5, 3, 9, 0, 8, 6, 2], new TorchRandom(0).Permutation(10));
    }

    [Fact]
    public void TorchMersenneTwisterReachesItsPublishedNumber()
    {
        var mt = new TorchRandom(5489);
        uint last = 0;
        for (int i = 0; i < 10000; i++)
        {
            last = mt.Next();
        }
        Assert.Equal(4123659995u, last);                 // C++ standard, [rand.predef]
    }

    [Theory]
    [InlineData("vera_init_18x9")]
    [InlineData("vera_generic_14x20")]
    public void GoldenVeraMatricesComeFromTheirKey(string name)
    {
        (JsonElement config, Dictionary<string, (int[] Shape, double[] Values)> tensors) = ReadGolden("lora-core", name);
        var torch = new TorchRandom(config.GetProperty("projection_prng_key").GetUInt64());
        foreach (string key in (string[])["buffer.vera_A", "buffer.vera_B"])
        {
            (int[] shape, double[] want) = tensors[key];
            var got = new float[want.Length];
            float bound = (float)Math.Sqrt(6.0 / shape[1]);
            torch.FillUniform(got, -bound, bound);
            Assert.Equal(want, got.Select(v => (double)v));
        }
    }

    private static void Moments(double[] values, double mean, double variance)
    {
        double error = Close.Deviations / Math.Sqrt(values.Length);
        double m = values.Average();
        Assert.True(Math.Abs(m - mean) < error * Math.Sqrt(variance), $"mean {m}, want {mean}");
        double v = values.Select(x => (x - m) * (x - m)).Average();
        Assert.True(Math.Abs(v - variance) < 2 * error * variance, $"variance {v}, want {variance}");
    }

    private static (JsonElement Config, Dictionary<string, (int[] Shape, double[] Values)> Tensors) ReadGolden(string folder, string name)
    {
        string? path = (Environment.GetEnvironmentVariable("LOWRANK_GOLDEN") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Select(root => Path.Combine(root, folder, name + ".safetensors")).FirstOrDefault(File.Exists);
        if (path is null)
        {
            Assert.Skip($"{folder}/{name}.safetensors lies in none of the folders of LOWRANK_GOLDEN");
        }
        byte[] file = File.ReadAllBytes(path);
        int header = (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        JsonElement json = JsonDocument.Parse(file.AsMemory(8, header)).RootElement;
        var tensors = json.EnumerateObject().Where(p => p.Name != "__metadata__").ToDictionary(p => p.Name, p =>
        {
            int[] offsets = p.Value.GetProperty("data_offsets").EnumerateArray().Select(o => o.GetInt32()).ToArray();
            var values = new double[(offsets[1] - offsets[0]) / sizeof(double)];
            Buffer.BlockCopy(file, 8 + header + offsets[0], values, 0, offsets[1] - offsets[0]);
            return (p.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt32()).ToArray(), values);
        });
        return (JsonDocument.Parse(json.GetProperty("__metadata__").GetProperty("config").GetString()!).RootElement, tensors);
    }
}
