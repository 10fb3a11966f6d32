namespace LowRank.Formats;

/// <summary>Every element type of the safetensors format, in the order of the Rust library, which its writer sorts by.</summary>
public enum SafeTensorsType
{
    /// <summary>One byte, 0 or 1.</summary>
    Bool,
    /// <summary>4-bit float, two in a byte.</summary>
    F4,
    /// <summary>6-bit float, 2 exponent bits.</summary>
    F6E2M3,
    /// <summary>6-bit float, 3 exponent bits.</summary>
    F6E3M2,
    /// <summary>Unsigned 8-bit integer.</summary>
    U8,
    /// <summary>Signed 8-bit integer.</summary>
    I8,
    /// <summary>8-bit float, 5 exponent bits, with infinities.</summary>
    F8E5M2,
    /// <summary>8-bit float, 4 exponent bits, no infinity.</summary>
    F8E4M3,
    /// <summary>8-bit power of two: a scale.</summary>
    F8E8M0,
    /// <summary>8-bit float, 4 exponent bits, one zero, one NaN.</summary>
    F8E4M3Fnuz,
    /// <summary>8-bit float, 5 exponent bits, one zero, one NaN.</summary>
    F8E5M2Fnuz,
    /// <summary>Signed 16-bit integer.</summary>
    I16,
    /// <summary>Unsigned 16-bit integer.</summary>
    U16,
    /// <summary>IEEE 754 binary16.</summary>
    F16,
    /// <summary>bfloat16.</summary>
    BF16,
    /// <summary>Signed 32-bit integer.</summary>
    I32,
    /// <summary>Unsigned 32-bit integer.</summary>
    U32,
    /// <summary>IEEE 754 binary32.</summary>
    F32,
    /// <summary>Complex number of two binary32.</summary>
    C64,
    /// <summary>IEEE 754 binary64.</summary>
    F64,
    /// <summary>Signed 64-bit integer.</summary>
    I64,
    /// <summary>Unsigned 64-bit integer.</summary>
    U64,
}

/// <summary>Facts about a <see cref="SafeTensorsType"/>.</summary>
public static class SafeTensorsTypes
{
    private static readonly string[] Names =
    [
        "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
        "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
    ];

    /// <summary>The name on disk: <c>F32</c>, <c>F8_E4M3</c>.</summary>
    public static string Name(this SafeTensorsType type) => Names[(int)type];

    /// <summary>Size of one element in bits; 4 and 6 for the packed types.</summary>
    public static int Bits(this SafeTensorsType type) => type switch
    {
        SafeTensorsType.F4 => 4,
        SafeTensorsType.F6E2M3 or SafeTensorsType.F6E3M2 => 6,
        < SafeTensorsType.I16 => 8,
        < SafeTensorsType.I32 => 16,
        < SafeTensorsType.C64 => 32,
        _ => 64,
    };

    /// <summary>The type of a name on disk, which is written in upper case; false for any other text.</summary>
    public static bool TryParse(string name, out SafeTensorsType type)
    {
        int at = Array.IndexOf(Names, name);
        type = (SafeTensorsType)Math.Max(at, 0);
        return at >= 0;
    }

    /// <summary>The engine's type of the same bytes; false for those it does not compute with.</summary>
    public static bool TryToDType(this SafeTensorsType type, out DType dtype)
    {
        dtype = type switch
        {
            SafeTensorsType.F32 => DType.F32,
            SafeTensorsType.BF16 => DType.BF16,
            SafeTensorsType.F16 => DType.F16,
            SafeTensorsType.F64 => DType.F64,
            SafeTensorsType.I32 => DType.I32,
            SafeTensorsType.I64 => DType.I64,
            SafeTensorsType.U8 or SafeTensorsType.Bool => DType.U8,
            _ => default,
        };
        return dtype != default;
    }

    /// <summary>The type on disk of the engine's type.</summary>
    public static SafeTensorsType ToSafeTensors(this DType type) => type switch
    {
        DType.F32 => SafeTensorsType.F32,
        DType.BF16 => SafeTensorsType.BF16,
        DType.F16 => SafeTensorsType.F16,
        DType.F64 => SafeTensorsType.F64,
        DType.I32 => SafeTensorsType.I32,
        DType.I64 => SafeTensorsType.I64,
        DType.U8 => SafeTensorsType.U8,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "not a DType"),
    };
}
