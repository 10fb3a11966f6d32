namespace LowRank;

/// <summary>How a matrix is quantised.</summary>
public enum Quantization
{
    /// <summary>Signed bytes, one scale a row: W = code·scale/127 (arXiv 2208.07339, without outliers).</summary>
    Int8Rows,
    /// <summary>4-bit NormalFloat in blocks of the flattened matrix (QLoRA, arXiv 2305.14314): W = map[code]·scale.</summary>
    NF4,
    /// <summary>As NF4 with the values of a 4-bit float.</summary>
    FP4,
}

/// <summary>A frozen matrix [rows, cols] as codes and scales, in host memory: what bitsandbytes stores, bit for bit. <see cref="ToTensor"/> gives the W
/// operand of <see cref="Linear"/> and <see cref="LoraLinear"/>.</summary>
public sealed class QuantizedMatrix
{
    private const int SmallestBlock = 32, LargestBlock = 4096;
    private readonly byte[] codes;
    private readonly float[]? scales;
    private readonly float[] map;

    private QuantizedMatrix(Quantization kind, Shape shape, DType type, int blockSize, byte[] codes, float[]? scales, NestedScales? nested, float[] map)
    {
        (Kind, Shape, DType, BlockSize, Nested) = (kind, shape, type, blockSize, nested);
        (this.codes, this.scales, this.map) = (codes, scales, map);
    }

    /// <summary>How it is quantised.</summary>
    public Quantization Kind { get; }

    /// <summary>[rows, cols].</summary>
    public Shape Shape { get; }

    /// <summary>The type that values are rounded to where they are spelled out: that of the matrix before it was quantised.</summary>
    public DType DType { get; }

    /// <summary>Elements that share a scale: a row for Int8Rows.</summary>
    public int BlockSize { get; }

    /// <summary>Signed bytes of Int8Rows; else two codes a byte, the first in the upper half.</summary>
    public ReadOnlySpan<byte> Codes => codes;

    /// <summary>The largest magnitude of each block, expanded where it is quantised itself.</summary>
    public float[] Scales => scales ?? Nested!.Expand();

    /// <summary>The quantised scales, where there are.</summary>
    public NestedScales? Nested { get; }

    /// <summary>Value by 4-bit code; empty for Int8Rows.</summary>
    public ReadOnlySpan<float> Map => map;

    /// <summary>Bytes of codes, scales and maps as stored. On a device (<see cref="Tensor.Bytes"/>) scales are float32.</summary>
    public long Bytes => codes.Length + ((long)sizeof(float) * map.Length) + (Nested?.Bytes ?? (long)sizeof(float) * scales!.Length);

    /// <summary>Quantises values [rows, cols].</summary>
    /// <param name="values">Row by row.</param>
    /// <param name="shape">[rows, cols].</param>
    /// <param name="kind">How.</param>
    /// <param name="blockSize">Elements that share a scale, a power of two from 32 to 4096; Int8Rows has a scale a row.</param>
    /// <param name="nested">Whether the scales of 4-bit codes are quantised too (double quantisation).</param>
    /// <param name="type">The type of the values before: F32, BF16 or F16.</param>
    /// <exception cref="ShapeException">Shape, block size or type do not fit.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite.</exception>
    public static QuantizedMatrix Quantize(ReadOnlySpan<float> values, Shape shape, Quantization kind, int blockSize = 64, bool nested = false, DType type = DType.F32)
    {
        if (shape.Rank != 2 || shape.Count != values.Length)
        {
            throw Bad("values", $"{values.Length} for {shape}", "two dimensions and as many values");
        }
        if (kind == Quantization.Int8Rows)
        {
            (byte[] bytes, float[] rows) = Blocks.QuantizeRows(values.ToArray(), shape[0], shape[1]);
            return Of(kind, shape, bytes, rows, type: type);
        }
        RequireBlockSize(blockSize);
        Codebook book = kind == Quantization.NF4 ? Codebook.NF4 : Codebook.FP4;
        (byte[] single, float[] scales) = Blocks.Quantize(values.ToArray(), blockSize, book);
        var pairs = new byte[(single.Length + 1) / 2];
        for (int i = 0; i < single.Length; i++)
        {
            pairs[i / 2] |= (byte)(i % 2 == 0 ? single[i] << 4 : single[i]);
        }
        return nested
            ? Of(kind, shape, pairs, NestedScales.Of(scales), [.. book.Values], blockSize, type)
            : Of(kind, shape, pairs, scales, [.. book.Values], blockSize, type);
    }

    /// <summary>A matrix that is quantised already. The arrays are kept, not copied.</summary>
    /// <param name="kind">How it is quantised.</param>
    /// <param name="shape">[rows, cols].</param>
    /// <param name="codes">As <see cref="Codes"/>.</param>
    /// <param name="scales">Largest magnitude by block, or by row for Int8Rows.</param>
    /// <param name="map">16 values; null for Int8Rows or the kind's own.</param>
    /// <param name="blockSize">As for <see cref="Quantize"/>; not used by Int8Rows.</param>
    /// <param name="type">The type of the values.</param>
    /// <exception cref="ShapeException">A part has another length, the block size or the type do not fit.</exception>
    public static QuantizedMatrix Of(Quantization kind, Shape shape, byte[] codes, float[] scales, float[]? map = null, int blockSize = 64, DType type = DType.F32)
    {
        QuantizedMatrix matrix = Checked(kind, shape, codes, scales, null, map, blockSize, type);
        RequireLength("scales", scales.Length, matrix.BlockCount);
        return matrix;
    }

    /// <summary>A matrix of 4-bit codes whose scales are quantised too.</summary>
    /// <exception cref="ShapeException">As for the other one; Int8Rows has no nested scales.</exception>
    public static QuantizedMatrix Of(Quantization kind, Shape shape, byte[] codes, NestedScales nested, float[]? map = null, int blockSize = 64, DType type = DType.F32)
    {
        if (kind == Quantization.Int8Rows)
        {
            throw Bad("nested scales", "given for Int8Rows", "NF4 or FP4");
        }
        QuantizedMatrix matrix = Checked(kind, shape, codes, null, nested, map, blockSize, type);
        RequireLength("scales", nested.Codes.Length, matrix.BlockCount);
        RequireLength("map of the scales", nested.Map.Length, 256);
        RequireBlockSize(nested.BlockSize);
        RequireLength("scales of the scales", nested.Scales.Length, (nested.Codes.Length + nested.BlockSize - 1) / nested.BlockSize);
        return matrix;
    }

    /// <summary>The frozen W operand, living in <paramref name="scope"/>: <see cref="Tensor.Shape"/> and <see cref="Tensor.DType"/> are the matrix's,
    /// <see cref="Tensor.ConvertTo"/> and <see cref="Tensor.ToArray"/> spell its values out.</summary>
    public Tensor ToTensor(Scope scope)
    {
        Layout layout = Kind == Quantization.Int8Rows ? Layout.Codes8 : Layout.Codes4;
        float[] expanded = Kind == Quantization.Int8Rows ? [.. scales!.Select(s => s * (1f / 127))] : Scales;
        Tensor w = scope.New(Shape, DType, layout, (nuint)CodeBlock.Bytes(layout, Shape.Count, BlockSize));
        CodeBlock.Write(scope.Device, w.Data, layout, Shape.Count, codes, expanded, map, BlockSize);
        return w;
    }

    private long BlockCount => (Shape.Count + BlockSize - 1) / BlockSize;

    private static QuantizedMatrix Checked(Quantization kind, Shape shape, byte[] codes, float[]? scales, NestedScales? nested, float[]? map, int blockSize, DType type)
    {
        if (shape.Rank != 2 || shape.Count == 0 || shape.Count > Array.MaxLength)
        {
            throw Bad("shape", shape, $"two dimensions and 1 to {Array.MaxLength} elements");
        }
        if (type is not (DType.F32 or DType.BF16 or DType.F16))
        {
            throw Bad("type", type, "F32, BF16 or F16");
        }
        bool bytes = kind == Quantization.Int8Rows;
        RequireLength("codes", codes.Length, CodeBlock.CodeBytes(bytes ? Layout.Codes8 : Layout.Codes4, shape.Count));
        if (!bytes)
        {
            RequireBlockSize(blockSize);
        }
        map ??= bytes ? [] : [.. (kind == Quantization.NF4 ? Codebook.NF4 : Codebook.FP4).Values];
        RequireLength("map", map.Length, bytes ? 0 : CodeBlock.Table);
        return new(kind, shape, type, bytes ? shape[1] : blockSize, codes, scales, nested, map);
    }

    private static void RequireLength(string part, long got, long want)
    {
        if (got != want)
        {
            throw Bad(part, $"{got} long", $"{want}");
        }
    }

    private static void RequireBlockSize(int size)
    {
        if (size is < SmallestBlock or > LargestBlock || (size & (size - 1)) != 0)
        {
            throw Bad("block size", size, $"a power of two from {SmallestBlock} to {LargestBlock}");
        }
    }

    private static ShapeException Bad(string what, object got, string want) => new($"QuantizedMatrix: {what} is {got}, want {want}");
}
