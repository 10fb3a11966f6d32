namespace LowRank;

/// <summary>A tensor's memory seen as float64 values whatever its type; what the references are written in. Stores round to nearest even.</summary>
internal readonly unsafe struct Elements(nint data, DType type)
{
    /// <summary>False for an absent operand or an output that is not wanted.</summary>
    public bool Present => data != 0;

    public double this[long i]
    {
        get => type switch
        {
            DType.F64 => ((double*)data)[i],
            DType.F32 => ((float*)data)[i],
            DType.BF16 => Numbers.FromBFloat16(((ushort*)data)[i]),
            DType.F16 => (double)((Half*)data)[i],
            DType.I32 => ((int*)data)[i],
            DType.I64 => ((long*)data)[i],
            DType.U8 => ((byte*)data)[i],
            _ => throw new KernelException($"{type} has no values"),
        };
        set
        {
            switch (type)
            {
                case DType.F64: ((double*)data)[i] = value; break;
                case DType.F32: ((float*)data)[i] = (float)value; break;
                case DType.BF16: ((ushort*)data)[i] = Numbers.ToBFloat16((float)value); break;
                case DType.F16: ((Half*)data)[i] = (Half)value; break;
                case DType.I32: ((int*)data)[i] = (int)value; break;
                case DType.I64: ((long*)data)[i] = (long)value; break;
                case DType.U8: ((byte*)data)[i] = (byte)value; break;
                default: throw new KernelException($"{type} has no values");
            }
        }
    }

    /// <summary>Writes or adds, as a bit of the argument block's <c>add</c> says; nothing where the output is not wanted.</summary>
    public void Put(long i, double value, uint add, int bit)
    {
        if (data != 0)
        {
            this[i] = ((add >> bit) & 1) != 0 ? this[i] + value : value;
        }
    }
}

/// <summary>A frozen matrix [n,k] in any layout.</summary>
internal readonly struct Matrix(nint data, DType type, Layout layout, int n, int k)
{
    private readonly Elements e = new(data, type);

    public double this[int row, int col] => layout switch
    {
        Layout.Rows => e[((long)row * k) + col],
        Layout.Panels => e[PanelIndex(row, col, k, type)],
        _ => CodeBlock.Value(data, layout, (long)n * k, ((long)row * k) + col),
    };

    /// <summary>Where element (row, col) of [n,k] lies in LR_PANELS, in elements.</summary>
    public static long PanelIndex(int row, int col, int k, DType type) => type is DType.F32
        ? ((((long)(row / 32) * k) + col) * 32) + (row % 32)
        : (((((long)(row / 32) * ((k + 1) / 2)) + (col / 2)) * 32) + (row % 32)) * 2 + (col % 2);

    /// <summary>Elements that LR_PANELS takes for [n,k], padding included.</summary>
    public static long PanelCount(int n, int k, DType type) => (long)((n + 31) / 32) * 32 * (type is DType.F32 ? k : (k + 1) / 2 * 2);
}

/// <summary>Conversions that .NET has no type for.</summary>
internal static class Numbers
{
    public static float FromBFloat16(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

    /// <summary>Rounds to nearest even; NaN stays NaN (quiet).</summary>
    public static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)((bits >> 16) | 0x40) : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
