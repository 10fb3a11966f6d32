namespace LowRank;

/// <summary>Element type of a <see cref="Tensor"/>; the numbers are those of <c>lr_dtype</c> in lowrank.h.</summary>
public enum DType
{
    /// <summary>IEEE 754 binary32.</summary>
    F32 = 1,
    /// <summary>bfloat16: the upper half of a binary32.</summary>
    BF16 = 2,
    /// <summary>IEEE 754 binary16.</summary>
    F16 = 3,
    /// <summary>IEEE 754 binary64; computed by the reference of each kernel.</summary>
    F64 = 4,
    /// <summary>Signed 32-bit integer: ids and labels.</summary>
    I32 = 5,
    /// <summary>Signed 64-bit integer.</summary>
    I64 = 6,
    /// <summary>Unsigned 8-bit integer: masks and images.</summary>
    U8 = 7,
}

/// <summary>Facts about a <see cref="DType"/>.</summary>
public static class DTypes
{
    /// <summary>Size of one element in bytes.</summary>
    public static int Size(this DType type) => type switch
    {
        DType.F64 or DType.I64 => 8,
        DType.F32 or DType.I32 => 4,
        DType.BF16 or DType.F16 => 2,
        DType.U8 => 1,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "not a DType"),
    };

    /// <summary>True for the types that gradients flow through.</summary>
    public static bool IsFloat(this DType type) => type is DType.F32 or DType.BF16 or DType.F16 or DType.F64;

    /// <summary>The type of parameters, their gradients and saved values beside activations of this type: F64 for F64, else F32.</summary>
    public static DType ForParameters(this DType activations) => activations == DType.F64 ? DType.F64 : DType.F32;

    /// <summary>From 1 to the next number of F32, or of F64.</summary>
    public static double Epsilon(this DType type) => type == DType.F64 ? Math.BitIncrement(1.0) - 1 : MathF.BitIncrement(1f) - 1;
}
