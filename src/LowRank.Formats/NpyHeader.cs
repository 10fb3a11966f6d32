using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace LowRank.Formats;

/// <summary>The header of a NumPy array: magic, version, length, a Python literal, spaces, a line's end. The literal is parsed, never evaluated. Format: NumPy's NEP 1, versions 1 to 3.</summary>
internal sealed record NpyHeader(SafeTensorsType Type, long[] Dimensions, bool IsComplex, bool IsBigEndian, bool IsFortran, int DataStart)
{
    /// <summary>Bytes that <see cref="Measure"/> needs, where there are so many; more help it to name what a foreign file is.</summary>
    public const int PrefixBytes = 12;

    private const int MostBytes = 1 << 16;      // 64 sizes and every type fit in 2 KB
    private const int MostRank = 64;            // NumPy's own limit
    private const int Alignment = 64;
    private static ReadOnlySpan<byte> Magic => [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y'];

    // NumPy's letter and size; a complex number is two of the float, an axis of its own.
    private static readonly (string Code, SafeTensorsType Type, bool IsComplex)[] Codes =
    [
        ("b1", SafeTensorsType.Bool, false), ("i1", SafeTensorsType.I8, false), ("u1", SafeTensorsType.U8, false),
        ("i2", SafeTensorsType.I16, false), ("u2", SafeTensorsType.U16, false), ("f2", SafeTensorsType.F16, false),
        ("i4", SafeTensorsType.I32, false), ("u4", SafeTensorsType.U32, false), ("f4", SafeTensorsType.F32, false),
        ("i8", SafeTensorsType.I64, false), ("u8", SafeTensorsType.U64, false), ("f8", SafeTensorsType.F64, false),
        ("c8", SafeTensorsType.F32, true), ("c16", SafeTensorsType.F64, true), ("c8", SafeTensorsType.C64, false),
    ];

    /// <summary>True where the data are row-major and little-endian as they stand.</summary>
    public bool IsPlain => !IsBigEndian && !IsFortran;

    /// <summary>Size of the data in bytes.</summary>
    public long DataBytes => Dimensions.Aggregate(Type.Bits() / 8L, (bytes, size) => bytes * size);

    /// <summary>Bytes of the whole header, from its first <see cref="PrefixBytes"/>.</summary>
    public static int Measure(ReadOnlySpan<byte> prefix, long bytes, string file, string? key)
    {
        if (!prefix.StartsWith(Magic))
        {
            throw Bad(file, key, FileKind.Explain(prefix) is { } kind ? $"is no NumPy array: {kind}" : $"begins with {Convert.ToHexString(prefix[..Math.Min(prefix.Length, Magic.Length)])} of {bytes} bytes, want \\x93NUMPY: it is cut short or no NumPy array");
        }
        if (prefix.Length < 10)
        {
            throw Bad(file, key, $"ends after {bytes} bytes, inside its header: download or save it again");
        }
        if (prefix[6] is 0 or > 3 || prefix[7] != 0)
        {
            throw Bad(file, key, $"has version {prefix[6]}.{prefix[7]}, want 1.0, 2.0 or 3.0");
        }
        bool isShort = prefix[6] == 1;
        if (!isShort && prefix.Length < PrefixBytes)
        {
            throw Bad(file, key, $"ends after {bytes} bytes, inside its header: download or save it again");
        }
        long length = isShort ? BinaryPrimitives.ReadUInt16LittleEndian(prefix[8..]) : BinaryPrimitives.ReadUInt32LittleEndian(prefix[8..]);
        long whole = (isShort ? 10 : PrefixBytes) + length;
        return whole > MostBytes ? throw Bad(file, key, $"claims a header of {length} bytes, want at most {MostBytes}")
            : whole > bytes ? throw Bad(file, key, $"claims a header of {length} bytes but ends after {bytes}: download or save it again")
            : (int)whole;
    }

    /// <summary>Reads the header and checks it against the size of the file.</summary>
    /// <param name="header">As many bytes as <see cref="Measure"/> says.</param>
    /// <param name="bytes">Of header and data.</param>
    /// <param name="file">For messages.</param>
    /// <param name="key">The member of an archive, or null.</param>
    public static NpyHeader Parse(ReadOnlySpan<byte> header, long bytes, string file, string? key)
    {
        var literal = new NpyLiteral(header[(header[6] == 1 ? 10 : PrefixBytes)..], why => Bad(file, key, why));
        (string descr, bool isFortran, List<long> sizes) = literal.Read();
        var code = Array.Find(Codes, c => c.Code.AsSpan().SequenceEqual(descr.AsSpan(Math.Min(1, descr.Length))));
        if (code.Code is null || descr[0] is not ('<' or '>' or '|') || (descr[0] == '|' && code.Type.Bits() > 8))
        {
            throw Bad(file, key, $"has descr {ModelFormatException.Quote(descr)}, want numbers: '<', '>' or '|' before one of {string.Join(", ", Codes.Select(c => c.Code).Distinct())}{Hint(descr)}");
        }
        if (sizes.Count > MostRank)
        {
            throw Bad(file, key, $"has {sizes.Count} dimensions, want at most {MostRank}");
        }
        if (code.IsComplex)
        {
            sizes.Add(2);
        }
        UInt128 size = (UInt128)code.Type.Bits() / 8;
        foreach (long d in sizes)
        {
            size *= (UInt128)d;
            if (size > long.MaxValue)
            {
                throw Bad(file, key, $"has shape ({string.Join(", ", sizes.Take(16))}), whose size overflows 63 bits");
            }
        }
        long data = bytes - header.Length;
        return (long)size == data ? new(code.Type, [.. sizes], code.IsComplex, descr[0] == '>', isFortran, header.Length)
            : throw Bad(file, key, $"has {data} bytes of data but its header describes {size}: {((long)size > data ? "it is cut short; download or save it again" : "something was appended, or it holds several arrays; save each by itself or as .npz")}");
    }

    /// <summary>Header of version 1.0 for a row-major array, byte for byte as NumPy writes it.</summary>
    /// <exception cref="ArgumentException">NumPy has no such type, or allows no such rank.</exception>
    public static byte[] Build(TensorData tensor)
    {
        var code = Array.Find(Codes, c => c.Type == tensor.Type && !c.IsComplex);
        if (code.Code is null || tensor.Dimensions.Count > MostRank)
        {
            throw new ArgumentException($"NpyFile: {ModelFormatException.Quote(tensor.Name)} is {tensor.Type.Name()} with {tensor.Dimensions.Count} dimensions, want a type that NumPy has and at most {MostRank}: convert it, for example to F32", nameof(tensor));
        }
        string[] sizes = [.. tensor.Dimensions.Select(d => d.ToString(CultureInfo.InvariantCulture))];
        string shape = sizes.Length == 1 ? $"({sizes[0]},)" : $"({string.Join(", ", sizes)})";
        char order = tensor.Type.Bits() > 8 ? '<' : '|';
        // NumPy leaves room for the first size to grow to 21 digits.
        string text = $"{{'descr': '{order}{code.Code}', 'fortran_order': False, 'shape': {shape}, }}{(sizes.Length == 0 ? "" : new string(' ', 21 - sizes[0].Length))}";
        int length = (10 + text.Length + 1 + Alignment - 1) / Alignment * Alignment;
        byte[] header = [.. Magic, 1, 0, 0, 0, .. Encoding.ASCII.GetBytes(text.PadRight(length - 11)), (byte)'\n'];
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), (ushort)(length - 10));
        return header;
    }

    /// <summary>The data in row-major order, little-endian.</summary>
    public byte[] ToPlain(ReadOnlySpan<byte> data)
    {
        byte[] plain = data.ToArray();
        if (IsBigEndian)
        {
            switch (Type.Bits())
            {
                case 16: Swap<ushort>(plain, BinaryPrimitives.ReverseEndianness); break;
                case 32: Swap<uint>(plain, BinaryPrimitives.ReverseEndianness); break;
                case 64: Swap<ulong>(plain, BinaryPrimitives.ReverseEndianness); break;
            }
        }
        return IsFortran && plain.Length > 0 ? Transposed(plain) : plain;
    }

    private static void Swap<T>(byte[] bytes, Action<ReadOnlySpan<T>, Span<T>> reverse) where T : unmanaged
    {
        Span<T> values = MemoryMarshal.Cast<byte, T>(bytes.AsSpan());
        reverse(values, values);
    }

    private byte[] Transposed(byte[] columns) => (Type.Bits() / 8 * (IsComplex ? 2 : 1)) switch
    {
        1 => Transposed<byte>(columns),
        2 => Transposed<ushort>(columns),
        4 => Transposed<uint>(columns),
        8 => Transposed<ulong>(columns),
        _ => Transposed<UInt128>(columns),
    };

    // An odometer over the target; the source's stride of an axis is the product of the sizes before it.
    private byte[] Transposed<T>(byte[] columns) where T : unmanaged
    {
        long[] sizes = IsComplex ? Dimensions[..^1] : Dimensions;
        var rows = new byte[columns.Length];
        ReadOnlySpan<T> source = MemoryMarshal.Cast<byte, T>(columns.AsSpan());
        Span<T> target = MemoryMarshal.Cast<byte, T>(rows.AsSpan());
        Span<int> strides = stackalloc int[sizes.Length], at = stackalloc int[sizes.Length];
        int stride = 1;
        for (int axis = 0; axis < sizes.Length; axis++)
        {
            strides[axis] = stride;
            stride *= (int)sizes[axis];
        }
        at.Clear();
        for (int i = 0, from = 0; i < target.Length; i++)
        {
            target[i] = source[from];
            for (int axis = sizes.Length - 1; axis >= 0; axis--)
            {
                from += strides[axis];
                if (++at[axis] < sizes[axis])
                {
                    break;
                }
                from -= at[axis] * strides[axis];
                at[axis] = 0;
            }
        }
        return rows;
    }

    private static string Hint(string descr) => descr.AsSpan(Math.Min(1, descr.Length)) switch
    {
        ['O', ..] => ": an object array is a pickle inside, which is never read; save it as numbers",
        ['V', ..] => ": NumPy has no bfloat16; save it as float32",
        ['S' or 'U' or 'M' or 'm', ..] => ": texts and dates are no numbers",
        _ => "",
    };

    private static ModelFormatException Bad(string file, string? key, string found) =>
        new($"{(key is null ? nameof(NpyFile) : nameof(NpzFile))}: {file}{(key is null ? "" : $": {ModelFormatException.Quote(key)}")} {found}") { File = file, Key = key };
}
