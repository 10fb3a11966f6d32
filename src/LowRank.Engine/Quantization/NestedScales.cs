namespace LowRank;

/// <summary>Scales that are quantised themselves (double quantisation): scale i = Map[Codes[i]]·Scales[i / BlockSize] + Offset.</summary>
/// <param name="Codes">A byte a scale.</param>
/// <param name="Scales">The largest magnitude of each block of scales, after the offset was taken off.</param>
/// <param name="Map">256 values by code.</param>
/// <param name="BlockSize">Scales a block.</param>
/// <param name="Offset">The mean of the scales.</param>
public sealed record NestedScales(byte[] Codes, float[] Scales, float[] Map, int BlockSize, float Offset)
{
    /// <summary>Bytes of codes, scales and map.</summary>
    public long Bytes => Codes.Length + ((long)sizeof(float) * (Scales.Length + Map.Length));

    internal float[] Expand()
    {
        var scales = new float[Codes.Length];
        for (int i = 0; i < scales.Length; i++)
        {
            float value = Map[Codes[i]] * Scales[i / BlockSize];        // rounded before the offset is added, as bitsandbytes does
            scales[i] = value + Offset;
        }
        return scales;
    }

    internal static NestedScales Of(float[] scales)
    {
        const int block = 256;
        float offset = (float)scales.Average(s => (double)s);
        (byte[] codes, float[] largest) = Blocks.Quantize([.. scales.Select(s => s - offset)], block, Codebook.Dynamic8);
        return new(codes, largest, [.. Codebook.Dynamic8.Values], block, offset);
    }
}
