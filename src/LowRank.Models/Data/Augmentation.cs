namespace LowRank.Models.Data;

/// <summary>Random changes of training images: a shift by up to <paramref name="Shift"/> pixels each way, and a mirror image half of the time.</summary>
/// <param name="Shift">Largest shift in pixels, in either direction.</param>
/// <param name="Flip">Whether left and right may be exchanged; wrong for digits and letters.</param>
/// <param name="Background">What moves in at the border: the value of an empty pixel after normalisation.</param>
public sealed record Augmentation(int Shift, bool Flip, float Background = 0)
{
    /// <summary>One changed image [channels, height, width] → the same shape; draws three numbers whatever the options.</summary>
    /// <exception cref="ShapeException">A span does not hold the image.</exception>
    public void Apply(ReadOnlySpan<float> image, Span<float> destination, int channels, int height, int width, Rng rng)
    {
        if (image.Length != channels * height * width || destination.Length != image.Length)
        {
            throw new ShapeException($"Augmentation: spans hold {image.Length} and {destination.Length} values, want [{channels}, {height}, {width}]");
        }
        ArgumentNullException.ThrowIfNull(rng);
        int down = rng.Below(2 * Shift + 1) - Shift;
        int right = rng.Below(2 * Shift + 1) - Shift;
        bool mirrored = rng.Below(2) == 1 && Flip;
        for (int row = 0; row < channels * height; row++)
        {
            int y = row % height - down;
            ReadOnlySpan<float> from = (uint)y < (uint)height ? image.Slice((row / height * height + y) * width, width) : default;
            for (int x = 0; x < width; x++)
            {
                int at = (mirrored ? width - 1 - x : x) - right;
                destination[row * width + x] = (uint)at < (uint)from.Length ? from[at] : Background;
            }
        }
    }
}
