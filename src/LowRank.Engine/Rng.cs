using System.Text;

namespace LowRank;

/// <summary>Philox4x32-10 (Salmon et al. 2011): numbers that depend on a key and a counter only, so any device and thread draws the same.</summary>
internal static class Philox
{
    /// <summary>Uniform on [0,1) with 24 bits: key = seed (low, high), counter = (index/4 low, high, stream low, high), lane = index mod 4, value = (u32 &gt;&gt; 8)·2⁻²⁴.</summary>
    public static float Uniform(ulong seed, ulong stream, long index) => ToUniform(Bits(seed, stream, index));

    /// <summary>The 32 bits behind <see cref="Uniform"/>.</summary>
    public static uint Bits(ulong seed, ulong stream, long index)
    {
        (uint c0, uint c1, uint c2, uint c3) = Block(seed, stream, (ulong)index / 4);
        return (index % 4) switch { 0 => c0, 1 => c1, 2 => c2, _ => c3 };
    }

    /// <summary>The four lanes of one counter value: indices 4·block to 4·block + 3.</summary>
    public static (uint, uint, uint, uint) Block(ulong seed, ulong stream, ulong block)
    {
        (uint c0, uint c1, uint c2, uint c3) = ((uint)block, (uint)(block >> 32), (uint)stream, (uint)(stream >> 32));
        (uint k0, uint k1) = ((uint)seed, (uint)(seed >> 32));
        for (int round = 0; round < 10; round++)
        {
            ulong p0 = (ulong)0xD2511F53 * c0, p1 = (ulong)0xCD9E8D57 * c2;
            (c0, c1, c2, c3) = ((uint)(p1 >> 32) ^ c1 ^ k0, (uint)p1, (uint)(p0 >> 32) ^ c3 ^ k1, (uint)p0);
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return (c0, c1, c2, c3);
    }

    /// <summary>The upper 24 bits as a number on [0,1).</summary>
    public static float ToUniform(uint bits) => (bits >> 8) * (1f / (1 << 24));
}

/// <summary>Where a generator stands: enough to draw the same numbers again.</summary>
/// <param name="Seed">Key of the stream, forks already mixed in.</param>
/// <param name="Position">32-bit draws made so far.</param>
public readonly record struct RngState(ulong Seed, long Position);

/// <summary>
/// A counter-based generator (Philox4x32-10): its numbers depend on seed, names of the forks and position only. Not for several threads at once: fork one for each.
/// Uniform values and whole numbers are the same bits on every machine; normal values go through the platform's log, sin and cos and may differ in the last bit between platforms.
/// </summary>
/// <param name="seed">Any 64 bits; nearby seeds give unrelated numbers.</param>
public sealed class Rng(ulong seed)
{
    // dropout counts its streams from 0 under the same kind of seed; this one lies out of their way
    private const ulong Stream = 0x4C6F_7752_616E_6B00;

    private long next;
    private (uint, uint, uint, uint) lanes;
    private long block = -1;

    /// <summary>Continues from a saved state.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The position is negative.</exception>
    public Rng(RngState state) : this(state.Seed)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(state.Position);
        next = state.Position;
    }

    /// <summary>Seed and position now; <see cref="Rng(RngState)"/> continues from there bit for bit.</summary>
    public RngState State => new(seed, next);

    /// <summary>What a kernel draws this generator's values by: Philox.Uniform(Seed, Stream, position).</summary>
    internal (ulong Seed, ulong Stream) Key => (seed, Stream);

    /// <summary>An independent stream for a name. It depends on seed and name only, not on what was drawn before.</summary>
    public Rng Fork(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        ulong hash = 14695981039346656037;               // FNV-1a over UTF-8
        foreach (byte b in Encoding.UTF8.GetBytes(name))
        {
            hash = (hash ^ b) * 1099511628211;
        }
        return new Rng(Mix(Mix(seed + 0x9E3779B97F4A7C15) ^ hash));
    }

    /// <summary>The value of a position, uniform on [0,1) with 24 bits; moves nothing.</summary>
    /// <param name="index">Position, 0 or more.</param>
    public float Uniform(long index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        return Philox.Uniform(seed, Stream, index);
    }

    /// <summary>Fills with uniform values on [low, high), one draw each.</summary>
    public void FillUniform(Span<float> to, float low, float high)
    {
        foreach (ref float value in to)
        {
            value = low + ((high - low) * Philox.ToUniform(Draw()));
        }
    }

    /// <summary>Fills with uniform values on [low, high) of 53 bits, two draws each.</summary>
    public void FillUniform(Span<double> to, double low, double high)
    {
        foreach (ref double value in to)
        {
            value = low + ((high - low) * DrawDouble());
        }
    }

    /// <summary>Fills with normal values (Box and Muller), two draws a pair.</summary>
    public void FillNormal(Span<float> to, float mean, float std)
    {
        for (int i = 0; i < to.Length; i += 2)
        {
            double radius = Math.Sqrt(-2 * Math.Log((Draw() + 1.0) * (1.0 / (1L << 32))));
            (double sin, double cos) = Math.SinCos(2 * Math.PI * (Draw() * (1.0 / (1L << 32))));
            to[i] = (float)(mean + (std * radius * cos));
            if (i + 1 < to.Length)
            {
                to[i + 1] = (float)(mean + (std * radius * sin));
            }
        }
    }

    /// <summary>Fills with normal values from uniforms of 53 bits, four draws a pair.</summary>
    public void FillNormal(Span<double> to, double mean, double std)
    {
        for (int i = 0; i < to.Length; i += 2)
        {
            double radius = Math.Sqrt(-2 * Math.Log(1 - DrawDouble()));
            (double sin, double cos) = Math.SinCos(2 * Math.PI * DrawDouble());
            to[i] = mean + (std * radius * cos);
            if (i + 1 < to.Length)
            {
                to[i + 1] = mean + (std * radius * sin);
            }
        }
    }

    /// <summary>A whole number of 0..count-1, all equally likely.</summary>
    public int Below(int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        uint fair = (uint)(-count) % (uint)count;        // products whose low half lies below this would favour some numbers (Lemire 2019)
        ulong product;
        do
        {
            product = (ulong)Draw() * (uint)count;
        }
        while ((uint)product < fair);
        return (int)(product >> 32);
    }

    /// <summary>0..count-1 in a random order (Fisher and Yates).</summary>
    public int[] Permutation(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        int[] order = new int[count];
        for (int i = 0; i < count; i++)
        {
            int j = Below(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        return order;
    }

    private uint Draw()
    {
        long index = next++;
        if (index / 4 != block)
        {
            block = index / 4;
            lanes = Philox.Block(seed, Stream, (ulong)block);
        }
        return (index % 4) switch { 0 => lanes.Item1, 1 => lanes.Item2, 2 => lanes.Item3, _ => lanes.Item4 };
    }

    private double DrawDouble()
    {
        ulong high = Draw();
        return (((high << 32) | Draw()) >> 11) * (1.0 / (1L << 53));
    }

    // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
    private static ulong Mix(ulong x)
    {
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
        return x ^ (x >> 31);
    }
}
