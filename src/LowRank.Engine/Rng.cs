namespace LowRank;

/// <summary>Philox4x32-10 (Salmon et al. 2011): numbers that depend on a key and a counter only, so any device and thread draws the same.</summary>
internal static class Philox
{
    /// <summary>Uniform on [0,1) with 24 bits: key = seed (low, high), counter = (index/4 low, high, stream low, high), lane = index mod 4, value = (u32 &gt;&gt; 8)·2⁻²⁴.</summary>
    public static float Uniform(ulong seed, ulong stream, long index) => (Bits(seed, stream, index) >> 8) * (1f / (1 << 24));

    /// <summary>The 32 bits behind <see cref="Uniform"/>.</summary>
    public static uint Bits(ulong seed, ulong stream, long index)
    {
        ulong block = (ulong)index / 4;
        (uint c0, uint c1, uint c2, uint c3) = ((uint)block, (uint)(block >> 32), (uint)stream, (uint)(stream >> 32));
        (uint k0, uint k1) = ((uint)seed, (uint)(seed >> 32));
        for (int round = 0; round < 10; round++)
        {
            ulong p0 = (ulong)0xD2511F53 * c0, p1 = (ulong)0xCD9E8D57 * c2;
            (c0, c1, c2, c3) = ((uint)(p1 >> 32) ^ c1 ^ k0, (uint)p1, (uint)(p0 >> 32) ^ c3 ^ k1, (uint)p0);
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return (index % 4) switch { 0 => c0, 1 => c1, 2 => c2, _ => c3 };
    }
}

/// <summary>A counter-based generator: its numbers depend on seed and names only.</summary>
public sealed class Rng(ulong seed)
{
    private long next;

    /// <summary>An independent stream for a name.</summary>
    public Rng Fork(string name)
    {
        ulong hash = 14695981039346656037;
        foreach (byte b in System.Text.Encoding.UTF8.GetBytes(name))
        {
            hash = (hash ^ b) * 1099511628211;
        }
        return new Rng(seed ^ (hash + 0x9E3779B97F4A7C15 + (seed << 6) + (seed >> 2)));
    }

    /// <summary>Fills with uniform values on [low, high).</summary>
    public void FillUniform(Span<float> to, float low, float high)
    {
        foreach (ref float value in to)
        {
            value = low + ((high - low) * Philox.Uniform(seed, 0, next++));
        }
    }

    /// <summary>Fills with normal values, two of each Box-Muller pair used.</summary>
    public void FillNormal(Span<float> to, float mean, float std)
    {
        for (int i = 0; i < to.Length; i++)
        {
            double u1 = 1.0 - Philox.Uniform(seed, 1, next++), u2 = Philox.Uniform(seed, 1, next++);
            to[i] = mean + (std * (float)(Math.Sqrt(-2 * Math.Log(u1)) * Math.Cos(2 * Math.PI * u2)));
        }
    }

    /// <summary>A whole number of 0..count-1; none is likelier than another by more than count/2³².</summary>
    public int Below(int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        return (int)(((ulong)Philox.Bits(seed, 2, next++) * (uint)count) >> 32);
    }

    /// <summary>0..count-1 in a random order (Fisher and Yates).</summary>
    public int[] Permutation(int count)
    {
        int[] order = new int[count];
        for (int i = 0; i < count; i++)
        {
            int j = Below(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        return order;
    }
}
