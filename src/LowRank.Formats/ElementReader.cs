using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace LowRank.Formats;

/// <summary>Little-endian elements of any safetensors type as float32, float64 or 64-bit integers; exact wherever the target can hold the value.</summary>
internal static class ElementReader
{
    /// <summary>Float types only; F64 is rounded to nearest even.</summary>
    public static bool TryRead(SafeTensorsType type, ReadOnlySpan<byte> bytes, Span<float> values)
    {
        if (type == SafeTensorsType.F32 && BitConverter.IsLittleEndian)
        {
            bytes[..(4 * values.Length)].CopyTo(MemoryMarshal.AsBytes(values));
            return true;
        }
        if (type is not (SafeTensorsType.F32 or SafeTensorsType.F64 or SafeTensorsType.F16 or SafeTensorsType.BF16
            or SafeTensorsType.F8E4M3 or SafeTensorsType.F8E5M2 or SafeTensorsType.F8E8M0))
        {
            return false;
        }
        int size = type.Bits() / 8;
        if (type == SafeTensorsType.BF16)
        {
            for (int i = 0; i < values.Length; i++)
            {
                values[i] = BitConverter.Int32BitsToSingle(BinaryPrimitives.ReadUInt16LittleEndian(bytes[(2 * i)..]) << 16);
            }
            return true;
        }
        for (int i = 0; i < values.Length; i++)
        {
            ReadOnlySpan<byte> at = bytes[(i * size)..];
            values[i] = type switch
            {
                SafeTensorsType.F64 => (float)BinaryPrimitives.ReadDoubleLittleEndian(at),
                SafeTensorsType.F32 => BinaryPrimitives.ReadSingleLittleEndian(at),
                SafeTensorsType.F16 => (float)BinaryPrimitives.ReadHalfLittleEndian(at),
                SafeTensorsType.F8E5M2 => (float)BitConverter.UInt16BitsToHalf((ushort)(at[0] << 8)),     // the upper half of a binary16
                SafeTensorsType.F8E4M3 => FromE4M3(at[0]),
                _ => FromE8M0(at[0]),
            };
        }
        return true;
    }

    /// <summary>Float and integer types; 64-bit integers above 2^53 are rounded to nearest.</summary>
    public static bool TryRead(SafeTensorsType type, ReadOnlySpan<byte> bytes, Span<double> values)
    {
        if (type == SafeTensorsType.F64)
        {
            for (int i = 0; i < values.Length; i++)
            {
                values[i] = BinaryPrimitives.ReadDoubleLittleEndian(bytes[(i * 8)..]);
            }
            return true;
        }
        if (type == SafeTensorsType.U64)
        {
            for (int i = 0; i < values.Length; i++)
            {
                values[i] = BinaryPrimitives.ReadUInt64LittleEndian(bytes[(i * 8)..]);
            }
            return true;
        }
        var integers = new long[1];
        var floats = new float[1];
        int size = type.Bits() / 8;
        for (int i = 0; i < values.Length; i++)
        {
            if (TryRead(type, bytes[(i * size)..], floats))
            {
                values[i] = floats[0];
            }
            else if (TryRead(type, bytes[(i * size)..], integers))
            {
                values[i] = integers[0];
            }
            else
            {
                return false;
            }
        }
        return true;
    }

    /// <summary>Integer types and BOOL. A U64 from 2^63 on is not representable and counts as no integer.</summary>
    public static bool TryRead(SafeTensorsType type, ReadOnlySpan<byte> bytes, Span<long> values)
    {
        int size = type.Bits() / 8;
        for (int i = 0; i < values.Length; i++)
        {
            ReadOnlySpan<byte> at = bytes[(i * size)..];
            switch (type)
            {
                case SafeTensorsType.I64: values[i] = BinaryPrimitives.ReadInt64LittleEndian(at); break;
                case SafeTensorsType.I32: values[i] = BinaryPrimitives.ReadInt32LittleEndian(at); break;
                case SafeTensorsType.U32: values[i] = BinaryPrimitives.ReadUInt32LittleEndian(at); break;
                case SafeTensorsType.I16: values[i] = BinaryPrimitives.ReadInt16LittleEndian(at); break;
                case SafeTensorsType.U16: values[i] = BinaryPrimitives.ReadUInt16LittleEndian(at); break;
                case SafeTensorsType.I8: values[i] = (sbyte)at[0]; break;
                case SafeTensorsType.U8 or SafeTensorsType.Bool: values[i] = at[0]; break;
                case SafeTensorsType.U64 when at[7] < 0x80: values[i] = BinaryPrimitives.ReadInt64LittleEndian(at); break;
                default: return false;
            }
        }
        return true;
    }

    // Sign, 4 exponent bits (bias 7), 3 bits of mantissa; all ones is NaN and there is no infinity.
    private static float FromE4M3(byte code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        float magnitude = (code & 0x7f) == 0x7f ? float.NaN
            : exponent == 0 ? mantissa / 512f
            : MathF.ScaleB(1 + (mantissa / 8f), exponent - 7);
        return (code & 0x80) != 0 ? -magnitude : magnitude;
    }

    // An exponent alone (bias 127): 2^-127 is a subnormal float32, 255 is NaN.
    private static float FromE8M0(byte code) => code == 255 ? float.NaN : MathF.ScaleB(1, code - 127);
}
