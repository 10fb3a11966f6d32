namespace LowRank.Models.Data;

/// <summary>Bilinear resizing between pixel centres: output pixel i samples the input at (i + 0.5)·in/out - 0.5, clamped to the border.
/// Every value is a weighted mean of four inputs, so 0..1 stays 0..1; plain float arithmetic in a fixed order gives the same bits everywhere.</summary>
public static class Bilinear
{
    /// <summary>Resizes <paramref name="planes"/> planes: source [planes, height, width] → destination [planes, toHeight, toWidth].</summary>
    /// <exception cref="ShapeException">A size is not positive, or a span does not hold its planes.</exception>
    public static void Resize(ReadOnlySpan<float> source, int planes, int height, int width, Span<float> destination, int toHeight, int toWidth)
    {
        if (height < 1 || width < 1 || toHeight < 1 || toWidth < 1)
        {
            throw new ShapeException($"Bilinear: sizes are [{height}, {width}] and [{toHeight}, {toWidth}], want positive ones");
        }
        if (source.Length != planes * height * width || destination.Length != planes * toHeight * toWidth)
        {
            throw new ShapeException($"Bilinear: spans hold {source.Length} and {destination.Length} values, want {planes}x[{height}, {width}] and {planes}x[{toHeight}, {toWidth}]");
        }
        (int Low, int High, float Weight)[] rows = Taps(height, toHeight);
        (int Low, int High, float Weight)[] columns = Taps(width, toWidth);
        for (int p = 0; p < planes; p++)
        {
            ReadOnlySpan<float> from = source.Slice(p * height * width, height * width);
            Span<float> to = destination.Slice(p * toHeight * toWidth, toHeight * toWidth);
            for (int y = 0; y < toHeight; y++)
            {
                ReadOnlySpan<float> top = from.Slice(rows[y].Low * width, width);
                ReadOnlySpan<float> bottom = from.Slice(rows[y].High * width, width);
                for (int x = 0; x < toWidth; x++)
                {
                    (int left, int right, float weight) = columns[x];
                    float above = top[left] * (1 - weight) + top[right] * weight;
                    float below = bottom[left] * (1 - weight) + bottom[right] * weight;
                    to[y * toWidth + x] = above * (1 - rows[y].Weight) + below * rows[y].Weight;
                }
            }
        }
    }

    private static (int Low, int High, float Weight)[] Taps(int from, int to)
    {
        (int, int, float)[] taps = new (int, int, float)[to];
        for (int i = 0; i < to; i++)
        {
            float at = Math.Clamp((i + 0.5f) * from / to - 0.5f, 0, from - 1);
            int low = (int)at;
            taps[i] = (low, Math.Min(low + 1, from - 1), at - low);
        }
        return taps;
    }
}
