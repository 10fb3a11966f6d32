using System.Runtime.InteropServices;

namespace LowRank.Formats;

/// <summary>One tensor to be saved: name, type, dimensions, and its little-endian bytes, fetched when they are written.</summary>
public sealed class TensorData
{
    private readonly Action<Stream> write;

    private TensorData(string name, SafeTensorsType type, IReadOnlyList<long> dimensions, Action<Stream> write)
    {
        Name = name;
        Type = type;
        Dimensions = dimensions;
        this.write = write;
        UInt128 bits = (UInt128)type.Bits();
        foreach (long size in dimensions)
        {
            bits = size >= 0 && bits >> 64 == 0 ? bits * (UInt128)size : UInt128.MaxValue;
        }
        if (bits % 8 != 0 || bits / 8 > long.MaxValue)
        {
            throw new ShapeException($"SafeTensorsFile: {ModelFormatException.Quote(name)} is {type.Name()}[{string.Join(", ", dimensions.Take(16))}], want sizes from 0 and a whole number of bytes");
        }
        Length = (long)(bits / 8);
    }

    /// <summary>The key.</summary>
    public string Name { get; }

    /// <summary>Element type on disk.</summary>
    public SafeTensorsType Type { get; }

    /// <summary>Sizes, outermost first.</summary>
    public IReadOnlyList<long> Dimensions { get; }

    /// <summary>Size in bytes.</summary>
    public long Length { get; }

    /// <summary>Raw bytes of any type.</summary>
    /// <exception cref="ShapeException">The number of bytes is not that of type and dimensions.</exception>
    public static TensorData Of(string name, SafeTensorsType type, IReadOnlyList<long> dimensions, ReadOnlyMemory<byte> bytes) =>
        new TensorData(name, type, dimensions, stream => stream.Write(bytes.Span)).Holding(bytes.Length, type.Bits());

    /// <summary>A tensor of the engine, in its own type; its values are fetched when the file is written.</summary>
    public static TensorData Of(string name, Tensor tensor) =>
        new(name, tensor.DType.ToSafeTensors(), [.. tensor.Shape.Select(d => (long)d)], stream => stream.Write(tensor.ToBytes()));

    /// <summary>float32 values, stored as F32, or rounded to nearest even as BF16, F16 or F64.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape, or the type is another.</exception>
    public static TensorData Of(string name, Shape shape, float[] values, DType type = DType.F32) => type switch
    {
        DType.F32 => Array(name, SafeTensorsType.F32, shape, values),
        DType.F64 => Array(name, SafeTensorsType.F64, shape, System.Array.ConvertAll(values, v => (double)v)),
        DType.F16 => Array(name, SafeTensorsType.F16, shape, System.Array.ConvertAll(values, v => (Half)v)),
        DType.BF16 => Array(name, SafeTensorsType.BF16, shape, System.Array.ConvertAll(values, ToBFloat16)),
        _ => throw new ShapeException($"SafeTensorsFile: {ModelFormatException.Quote(name)} shall be stored as {type}, want a float type for float values"),
    };

    /// <summary>float64 values.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape.</exception>
    public static TensorData Of(string name, Shape shape, double[] values) => Array(name, SafeTensorsType.F64, shape, values);

    /// <summary>32-bit integers.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape.</exception>
    public static TensorData Of(string name, Shape shape, int[] values) => Array(name, SafeTensorsType.I32, shape, values);

    /// <summary>64-bit integers.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape.</exception>
    public static TensorData Of(string name, Shape shape, long[] values) => Array(name, SafeTensorsType.I64, shape, values);

    /// <summary>Bytes.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape.</exception>
    public static TensorData Of(string name, Shape shape, byte[] values) => Array(name, SafeTensorsType.U8, shape, values);

    /// <summary>A tensor of another file, byte for byte.</summary>
    public static TensorData Of(TensorSource source, string name)
    {
        SafeTensorsEntry entry = source[name];
        return new(name, entry.Type, entry.Dimensions, stream =>
        {
            const int step = 1 << 24;
            for (long done = 0; done < entry.Length; done += step)
            {
                stream.Write(source.Bytes(name, done, (int)Math.Min(step, entry.Length - done)));
            }
        });
    }

    /// <summary>A tensor of another file in <paramref name="type"/>, rounded to nearest even through float32; one that is no F64, F32, F16 or BF16 stays byte for byte.</summary>
    public static TensorData Of(TensorSource source, string name, DType type)
    {
        SafeTensorsEntry entry = source[name];
        if (entry.Type is not (SafeTensorsType.F64 or SafeTensorsType.F32 or SafeTensorsType.F16 or SafeTensorsType.BF16) || entry.Type == type.ToSafeTensors())
        {
            return Of(source, name);
        }
        return new(name, type.ToSafeTensors(), entry.Dimensions, stream =>
        {
            const int step = 1 << 22;       // elements
            int size = entry.Type.Bits() / 8;
            for (long done = 0; done < entry.Count; done += step)
            {
                var values = new float[(int)Math.Min(step, entry.Count - done)];
                ElementReader.TryRead(entry.Type, source.Bytes(name, done * size, values.Length * size), values);
                Of(name, [values.Length], values, type).write(stream);
            }
        });
    }

    /// <summary>Writes the bytes.</summary>
    /// <exception cref="InvalidOperationException">There are more or fewer than the header of the file says by now.</exception>
    internal void Write(Stream stream)
    {
        var counted = new CountingStream(stream);
        write(counted);
        if (counted.Bytes != Length)
        {
            throw new InvalidOperationException($"TensorData: {ModelFormatException.Quote(Name)} wrote {counted.Bytes} bytes, want {Length}: it changed its size while it was saved");
        }
    }

    private static TensorData Array<T>(string name, SafeTensorsType type, Shape shape, T[] values) where T : unmanaged =>
        new TensorData(name, type, [.. shape.Select(d => (long)d)], stream => WriteArray(stream, values)).Holding(values.LongLength * type.Bits() / 8, type.Bits());

    private static void WriteArray<T>(Stream stream, T[] values) where T : unmanaged
    {
        const int step = 1 << 24;       // elements; a span of bytes ends at 2 GiB
        for (int done = 0; done < values.Length; done += step)
        {
            stream.Write(MemoryMarshal.AsBytes(values.AsSpan(done, Math.Min(step, values.Length - done))));
        }
    }

    private TensorData Holding(long bytes, int bits) => bytes == Length ? this
        : throw new ShapeException($"SafeTensorsFile: {ModelFormatException.Quote(Name)} has {bytes * 8 / bits} values, want {Length * 8 / bits} for {Type.Name()}[{string.Join(", ", Dimensions)}]");

    private static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)((bits >> 16) | 0x40) : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
