namespace LowRank;

/// <summary>
/// The generator of torch's CPU device: MT19937 with its conversions to uniform and normal values, so that matrices which files hold only as a key can be drawn again.
/// Uniform values and permutations equal torch's bit for bit; normal values to about 1e-6 (torch's vectorised log, sin and cos differ). Not for several threads at once.
/// </summary>
public sealed class TorchRandom
{
    private const int Words = 624;

    private readonly uint[] state = new uint[Words];
    private int at = Words;
    private double? spare;                               // the sine half of a Box-Muller pair of small tensors

    /// <summary>Starts as <c>torch.manual_seed(seed)</c> does: the low 32 bits count.</summary>
    public TorchRandom(ulong seed)
    {
        state[0] = (uint)seed;
        for (uint i = 1; i < Words; i++)
        {
            state[i] = (1812433253 * (state[i - 1] ^ (state[i - 1] >> 30))) + i;
        }
    }

    /// <summary>The next 32 bits.</summary>
    public uint Next()
    {
        if (at == Words)
        {
            Twist();
        }
        uint v = state[at++];
        v ^= v >> 11;
        v ^= (v << 7) & 0x9D2C5680;
        v ^= (v << 15) & 0xEFC60000;
        return v ^ (v >> 18);
    }

    /// <summary>
    /// <c>tensor.uniform_(low, high)</c> of a float32, bfloat16 or float16 tensor in row-major order, one draw a value of 24, 8 or 11 bits;
    /// values of the short types are returned rounded to their type.
    /// </summary>
    /// <exception cref="ShapeException"><paramref name="type"/> is none of the three.</exception>
    public void FillUniform(Span<float> to, float low, float high, DType type = DType.F32)
    {
        (int bits, Func<float, float> round) = Precision(type);
        (uint mask, float step) = ((1u << bits) - 1, 1f / (1 << bits));
        float from = round(low), width = round(round(high) - from);
        foreach (ref float value in to)
        {
            value = round(MathF.FusedMultiplyAdd((Next() & mask) * step, width, from));      // torch's build contracts the expression
        }
    }

    /// <summary><c>tensor.div_(tensor.std())</c> of a float32, bfloat16 or float16 tensor: the unbiased deviation of all values, rounded to the type as the
    /// quotients are.</summary>
    /// <exception cref="ShapeException"><paramref name="type"/> is none of the three.</exception>
    public static void DivideByDeviation(Span<float> values, DType type = DType.F32)
    {
        Func<float, float> round = Precision(type).Round;
        double mean = 0, squares = 0;
        foreach (float value in values)
        {
            mean += value;
        }
        mean /= values.Length;
        foreach (float value in values)
        {
            squares += (value - mean) * (value - mean);
        }
        float deviation = round((float)Math.Sqrt(squares / (values.Length - 1)));
        foreach (ref float value in values)
        {
            value = round(value / deviation);
        }
    }

    /// <summary><c>tensor.uniform_(low, high)</c> of a float64 tensor: 53 bits from two draws.</summary>
    public void FillUniform(Span<double> to, double low, double high)
    {
        foreach (ref double value in to)
        {
            value = Math.FusedMultiplyAdd(Uniform53(), high - low, low);
        }
    }

    /// <summary><c>tensor.normal_(mean, std)</c> of a contiguous float32 tensor; from 16 values on the draws come in blocks of 16, and the last 16 of a ragged length are drawn again.</summary>
    public void FillNormal(Span<float> to, float mean, float std)
    {
        if (to.Length < 16)
        {
            foreach (ref float value in to)
            {
                value = (float)((SmallNormal() * std) + mean);
            }
            return;
        }
        FillUniform(to, 0, 1);
        for (int i = 0; i + 16 <= to.Length; i += 16)
        {
            Normals(to.Slice(i, 16), mean, std);
        }
        if (to.Length % 16 != 0)
        {
            FillUniform(to[^16..], 0, 1);
            Normals(to[^16..], mean, std);
        }
    }

    /// <summary><c>tensor.normal_(mean, std)</c> of a contiguous float64 tensor, in the same blocks.</summary>
    public void FillNormal(Span<double> to, double mean, double std)
    {
        if (to.Length < 16)
        {
            foreach (ref double value in to)
            {
                value = (SmallNormal() * std) + mean;
            }
            return;
        }
        FillUniform(to, 0, 1);
        for (int i = 0; i + 16 <= to.Length; i += 16)
        {
            Normals(to.Slice(i, 16), mean, std);
        }
        if (to.Length % 16 != 0)
        {
            FillUniform(to[^16..], 0, 1);
            Normals(to[^16..], mean, std);
        }
    }

    /// <summary><c>torch.randperm(count)</c>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Negative, or above 214,748,364: torch draws 64 bits a number there.</exception>
    public int[] Permutation(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)count, uint.MaxValue / 20);
        int[] order = new int[count];
        for (int i = 0; i < count; i++)
        {
            order[i] = i;
        }
        for (int i = 0; i < count - 1; i++)
        {
            int j = i + (int)(Next() % (uint)(count - i));
            (order[i], order[j]) = (order[j], order[i]);
        }
        return order;
    }

    /// <summary>Random bits of a value, and the rounding to the type.</summary>
    private static (int Bits, Func<float, float> Round) Precision(DType type) => type switch
    {
        DType.F32 => (24, static x => x),
        DType.BF16 => (8, static x => Numbers.FromBFloat16(Numbers.ToBFloat16(x))),
        DType.F16 => (11, static x => (float)(Half)x),
        _ => throw new ShapeException($"TorchRandom: type is {type}, want F32, BF16 or F16 (F64 fills a span of double)"),
    };

    private static void Normals(Span<float> block, float mean, float std)
    {
        for (int j = 0; j < 8; j++)
        {
            float radius = MathF.Sqrt(-2 * MathF.Log(1 - block[j]));
            (float sin, float cos) = MathF.SinCos(2 * MathF.PI * block[j + 8]);
            block[j] = (radius * cos * std) + mean;
            block[j + 8] = (radius * sin * std) + mean;
        }
    }

    private static void Normals(Span<double> block, double mean, double std)
    {
        for (int j = 0; j < 8; j++)
        {
            double radius = Math.Sqrt(-2 * Math.Log(1 - block[j]));
            (double sin, double cos) = Math.SinCos(2 * Math.PI * block[j + 8]);
            block[j] = (radius * cos * std) + mean;
            block[j + 8] = (radius * sin * std) + mean;
        }
    }

    private double SmallNormal()
    {
        if (spare is double sine)
        {
            spare = null;
            return sine;
        }
        double angle = 2 * Math.PI * Uniform53(), u = Uniform53();
        double radius = Math.Sqrt(-2 * double.LogP1(-u));
        spare = radius * Math.Sin(angle);
        return radius * Math.Cos(angle);
    }

    private double Uniform53()
    {
        ulong high = Next();
        return (((high << 32) | Next()) & ((1UL << 53) - 1)) * (1.0 / (1L << 53));
    }

    private void Twist()
    {
        for (int i = 0; i < Words; i++)
        {
            uint joined = (state[i] & 0x80000000) | (state[(i + 1) % Words] & 0x7FFFFFFF);
            state[i] = state[(i + 397) % Words] ^ (joined >> 1) ^ ((joined & 1) * 0x9908B0DF);
        }
        at = 0;
    }
}
