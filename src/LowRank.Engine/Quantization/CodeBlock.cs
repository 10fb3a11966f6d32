using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>The memory of a quantised matrix on a device: Codes8 and Codes4 of <c>lr_layout</c>, where its parts and their order are laid down.</summary>
internal static unsafe class CodeBlock
{
    /// <summary>Bytes before the codes: the table, then the block size.</summary>
    public const int Header = 128;

    /// <summary>Values of the table.</summary>
    public const int Table = 16;

    /// <summary>Bytes of the codes of so many elements.</summary>
    public static long CodeBytes(Layout layout, long elements) => layout == Layout.Codes8 ? elements : (elements + 1) / 2;

    /// <summary>Where the scales begin.</summary>
    public static long ScaleOffset(Layout layout, long elements) => Header + ((CodeBytes(layout, elements) + 63) & ~63L);

    /// <summary>Bytes of the whole.</summary>
    public static long Bytes(Layout layout, long elements, int block) => ScaleOffset(layout, elements) + (sizeof(float) * ((elements + block - 1) / block));

    /// <summary>Writes all parts to memory of a device.</summary>
    public static void Write(Device device, nint to, Layout layout, long elements, ReadOnlySpan<byte> codes, ReadOnlySpan<float> scales, ReadOnlySpan<float> table, int block)
    {
        Span<byte> head = stackalloc byte[Header];
        head.Clear();
        device.Upload(head[..64], to + (nint)(ScaleOffset(layout, elements) - 64));     // zeros behind the codes, which come over them
        MemoryMarshal.AsBytes(table).CopyTo(head);
        MemoryMarshal.Write(head[(Table * sizeof(float))..], in block);
        device.Upload(head, to);
        device.Upload(codes, to + Header);
        device.Upload(MemoryMarshal.AsBytes(scales), to + (nint)ScaleOffset(layout, elements));
    }

    /// <summary>Element <paramref name="i"/> of the flattened matrix.</summary>
    public static double Value(nint data, Layout layout, long elements, long i)
    {
        byte* bytes = (byte*)data;
        double scale = ((float*)(bytes + ScaleOffset(layout, elements)))[i / ((int*)data)[Table]];
        return layout == Layout.Codes8
            ? scale * (sbyte)bytes[Header + i]
            : scale * ((float*)data)[(bytes[Header + (i / 2)] >> (i % 2 == 0 ? 4 : 0)) & 15];
    }
}

[StructLayout(LayoutKind.Sequential)]
internal struct DequantizeArgs : IKernelArgs
{
    public nint W, Y;
    public int N, K;
    public DType DType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;
}
