namespace LowRank.Adapters;

/// <summary>One number for each axis of an image or volume, the slowest first. An int stands for the same along every axis; an image without depth, or
/// without height, passes over those.</summary>
public readonly record struct Extent(int Depth, int Height, int Width)
{
    public static implicit operator Extent(int everywhere) => new(everywhere, everywhere, everywhere);

    /// <summary>The conversion named, for languages without operators.</summary>
    public static Extent ToExtent(int everywhere) => everywhere;

    /// <summary>The numbers for the last <paramref name="axes"/> axes.</summary>
    internal int[] Last(int axes) => [.. new[] { Depth, Height, Width }.TakeLast(axes)];
}

/// <summary>Geometry of a convolution along one to three axes.</summary>
public sealed record Convolution
{
    /// <summary>Steps from patch to patch.</summary>
    public Extent Stride { get; init; } = 1;

    /// <summary>Zeros around the image, on each side.</summary>
    public Extent Padding { get; init; }

    /// <summary>Steps from tap to tap inside a patch.</summary>
    public Extent Dilation { get; init; } = 1;

    /// <summary>Patches along each axis: (size + 2·padding - dilation·(kernel - 1) - 1)/stride + 1.</summary>
    /// <param name="x">[batch, channels, ..].</param>
    /// <param name="weight">[out, channels, ..] with as many axes.</param>
    /// <exception cref="ShapeException">x has other axes or channels, or the kernel does not fit.</exception>
    internal int[] OutputSize(Shape x, Shape weight)
    {
        int axes = weight.Rank - 2;
        if (x.Rank != weight.Rank || x[1] != weight[1])
        {
            throw new ShapeException($"Convolution: x is {x}, want [batch, {weight[1]}] and {axes} more dimensions for W {weight}");
        }
        (int[] stride, int[] pad, int[] dilation) = (Stride.Last(axes), Padding.Last(axes), Dilation.Last(axes));
        int[] free = [.. Enumerable.Range(0, axes).Select(i => x[2 + i] + (2 * pad[i]) - (dilation[i] * (weight[2 + i] - 1)) - 1)];
        return free.All(f => f >= 0) && stride.All(s => s > 0) && dilation.All(d => d > 0) && pad.All(p => p >= 0)
            ? [.. free.Select((f, i) => (f / stride[i]) + 1)]
            : throw new ShapeException($"Convolution: x is {x}, want at least one patch of W {weight} at stride {Stride}, padding {Padding}, dilation {Dilation}");
    }

    /// <summary>What the weight matrix [out, channels·taps] multiplies, a patch a row: x [batch, channels, ..] → [batch·patches, channels·taps].</summary>
    internal Tensor Patches(Tensor x, Shape weight)
    {
        int[] outputs = OutputSize(x.Shape, weight);
        bool even = Stride.Height == Stride.Width && Padding.Height == Padding.Width && Dilation.Height == Dilation.Width;
        if (outputs.Length == 2 && even)
        {
            return new Unfold(weight[2], weight[3], Stride.Width, Padding.Width, Dilation.Width).Apply(x);
        }
        // Pixels as rows of channels behind a row of zeros, which stands for all that lies outside; each patch looks its taps up.
        int batch = x.Shape[0], channels = x.Shape[1], pixels = checked((int)(x.Shape.Count / batch / channels)), taps = checked((int)(weight.Count / weight[0] / weight[1]));
        Scope scope = x.Device.Current!;
        Tensor rows = new Transpose().Apply(x.Reshape([batch, channels, pixels])).Reshape([1, batch * pixels, channels]);
        Tensor table = new Prepend().Apply(rows, scope.NewZeros([channels], x.DType.ForParameters())).Reshape([1 + (batch * pixels), channels]);
        int[] places = Places(x.Shape, weight, outputs, pixels);
        Tensor patches = new Gather().Apply(table, scope.Of([places.Length / taps, taps], places));
        return new Transpose().Apply(patches).Reshape([places.Length / taps, channels * taps]);
    }

    /// <summary>For every patch and tap 1 + the number of its pixel, counted over the batch; 0 outside.</summary>
    private int[] Places(Shape x, Shape weight, int[] outputs, int pixels)
    {
        int axes = outputs.Length;
        (int[] stride, int[] pad, int[] dilation) = (Stride.Last(axes), Padding.Last(axes), Dilation.Last(axes));
        int[] kernel = [.. weight.Skip(2)], size = [.. x.Skip(2)];
        int patches = outputs.Aggregate(1, (a, b) => a * b), taps = kernel.Aggregate(1, (a, b) => a * b);
        var places = new int[checked(x[0] * patches * taps)];
        for (int i = 0; i < places.Length; i++)
        {
            int tap = i % taps, patch = i / taps % patches, place = 0, step = 1;
            bool inside = true;
            for (int axis = axes - 1; axis >= 0; axis--)
            {
                int at = (patch % outputs[axis] * stride[axis]) - pad[axis] + (tap % kernel[axis] * dilation[axis]);
                inside &= at >= 0 && at < size[axis];
                place += at * step;
                (tap, patch, step) = (tap / kernel[axis], patch / outputs[axis], step * size[axis]);
            }
            places[i] = inside ? 1 + (i / taps / patches * pixels) + place : 0;
        }
        return places;
    }
}
