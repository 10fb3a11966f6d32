namespace LowRank;

/// <summary>Block-wise quantisation: each block of values is divided by its largest magnitude.</summary>
internal static class Blocks
{
    /// <summary>A code a value, and the scale of each block; a block of zeros has scale 0.</summary>
    public static (byte[] Codes, float[] Scales) Quantize(float[] values, int block, Codebook book)
    {
        var codes = new byte[values.Length];
        var scales = new float[(values.Length + block - 1) / block];
        int each = Math.Max(1, 16384 / block);
        Pool.For((scales.Length + each - 1) / each, chunk =>
        {
            for (int b = chunk * each; b < Math.Min(scales.Length, (chunk + 1) * each); b++)
            {
                int first = b * block, count = Math.Min(block, values.Length - first);
                scales[b] = Largest(values.AsSpan(first, count));
                for (int i = first; i < first + count; i++)
                {
                    codes[i] = book.Nearest(scales[b] > 0 ? values[i] / scales[b] : 0);
                }
            }
        });
        return (codes, scales);
    }

    /// <summary>Signed codes -127 .. 127 by row, and the largest magnitude of each row.</summary>
    public static (byte[] Codes, float[] Scales) QuantizeRows(float[] values, int rows, int cols)
    {
        var codes = new byte[values.Length];
        var scales = new float[rows];
        Pool.For(rows, row =>
        {
            ReadOnlySpan<float> line = values.AsSpan(row * cols, cols);
            scales[row] = Largest(line);
            float factor = scales[row] > 0 ? 127 / scales[row] : 0;
            for (int i = 0; i < cols; i++)
            {
                codes[(row * cols) + i] = (byte)(sbyte)MathF.Round(line[i] * factor);
            }
        });
        return (codes, scales);
    }

    private static float Largest(ReadOnlySpan<float> values)
    {
        float most = 0;
        for (int i = 0; i < values.Length; i++)
        {
            most = float.IsFinite(values[i]) ? Math.Max(most, Math.Abs(values[i])) : throw new NumericException($"QuantizedMatrix: a value is {values[i]}, want finite values");
        }
        return most;
    }
}
