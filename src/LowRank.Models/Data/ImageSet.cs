using LowRank.Formats;

namespace LowRank.Models.Data;

/// <summary>Labelled images in memory, all of one size. Every change makes a new set; the arrays are never written after construction.</summary>
public sealed record ImageSet
{
    /// <summary>Checks that pixels, labels and classes fit together.</summary>
    /// <param name="pixels">[N, channels·height·width], channel by channel, each row by row; 0..1 unless normalised.</param>
    /// <param name="labels">[N], indices into <paramref name="classes"/>.</param>
    /// <param name="channels">1 for gray, 3 for RGB.</param>
    /// <param name="height">Rows of an image.</param>
    /// <param name="width">Columns of an image.</param>
    /// <param name="classes">A name a class.</param>
    /// <exception cref="ShapeException">A size is not positive, or the lengths do not fit.</exception>
    /// <exception cref="ModelFormatException">A label has no class.</exception>
    public ImageSet(float[] pixels, int[] labels, int channels, int height, int width, IReadOnlyList<string> classes)
    {
        ArgumentNullException.ThrowIfNull(pixels);
        ArgumentNullException.ThrowIfNull(labels);
        ArgumentNullException.ThrowIfNull(classes);
        if (channels < 1 || height < 1 || width < 1)
        {
            throw new ShapeException($"ImageSet: image is [{channels}, {height}, {width}], want positive sizes");
        }
        long want = (long)labels.Length * channels * height * width;
        if (pixels.LongLength != want)
        {
            throw new ShapeException($"ImageSet: pixels has {pixels.Length} values, want {want} for [{labels.Length}, {channels}, {height}, {width}]");
        }
        for (int i = 0; i < labels.Length; i++)
        {
            if ((uint)labels[i] >= (uint)classes.Count)
            {
                throw new ModelFormatException($"ImageSet: label of image {i} is {labels[i]}, want 0..{classes.Count - 1}");
            }
        }
        (Pixels, Labels, Channels, Height, Width, Classes) = (pixels, labels, channels, height, width, classes);
    }

    /// <summary>[N, Channels·Height·Width].</summary>
    public float[] Pixels { get; }

    /// <summary>[N], indices into <see cref="Classes"/>.</summary>
    public int[] Labels { get; }

    /// <summary>1 for gray, 3 for RGB.</summary>
    public int Channels { get; }

    /// <summary>Rows of an image.</summary>
    public int Height { get; }

    /// <summary>Columns of an image.</summary>
    public int Width { get; }

    /// <summary>A name a class.</summary>
    public IReadOnlyList<string> Classes { get; }

    /// <summary>Number of images.</summary>
    public int Count => Labels.Length;

    /// <summary>Values an image: Channels·Height·Width.</summary>
    public int ImageSize => Channels * Height * Width;

    /// <summary>The values of image <paramref name="index"/>, [Channels, Height, Width].</summary>
    public ReadOnlySpan<float> Image(int index) => Pixels.AsSpan(index * ImageSize, ImageSize);

    /// <summary>The images as F32 [Count, Channels, Height, Width] in the scope or tape that is open on <paramref name="device"/>.</summary>
    /// <exception cref="InvalidOperationException">None is open.</exception>
    public Tensor ToTensor(Device device) =>
        (device.Current ?? throw new InvalidOperationException("ImageSet: no scope is open; call BeginScope or BeginTape first")).Of([Count, Channels, Height, Width], Pixels);

    /// <summary>The images at <paramref name="indices"/>, in that order; an index may occur more than once.</summary>
    public ImageSet Select(ReadOnlySpan<int> indices)
    {
        float[] pixels = new float[indices.Length * ImageSize];
        int[] labels = new int[indices.Length];
        Gather(indices, pixels, labels);
        return With(pixels, labels);
    }

    /// <summary>Copies the images at <paramref name="indices"/> and their labels, for example into a batch.</summary>
    /// <param name="indices">[B], of 0..<see cref="Count"/>-1.</param>
    /// <param name="pixels">[B, Channels·Height·Width].</param>
    /// <param name="labels">[B].</param>
    /// <exception cref="ShapeException">A span does not hold as many images.</exception>
    public void Gather(ReadOnlySpan<int> indices, Span<float> pixels, Span<int> labels)
    {
        if (pixels.Length != indices.Length * ImageSize || labels.Length != indices.Length)
        {
            throw new ShapeException($"ImageSet: pixels and labels hold {pixels.Length} and {labels.Length}, want {indices.Length * ImageSize} and {indices.Length}");
        }
        for (int i = 0; i < indices.Length; i++)
        {
            Image(indices[i]).CopyTo(pixels[(i * ImageSize)..]);
            labels[i] = Labels[indices[i]];
        }
    }

    /// <summary>The first <paramref name="count"/> images of a random order, and those after them.</summary>
    /// <exception cref="ShapeException"><paramref name="count"/> is outside 0..<see cref="Count"/>.</exception>
    public (ImageSet First, ImageSet Second) Split(int count, Rng rng)
    {
        if (count < 0 || count > Count)
        {
            throw new ShapeException($"ImageSet: count is {count}, want 0..{Count}");
        }
        int[] order = Shuffled(rng);
        return (Select(order.AsSpan(0, count)), Select(order.AsSpan(count)));
    }

    /// <summary>Few-shot selection: <paramref name="perClass"/> random images of each class, ordered by class, and all the others held out.</summary>
    /// <exception cref="ShapeException">A class has fewer images, or <paramref name="perClass"/> is not positive.</exception>
    public (ImageSet Few, ImageSet HeldOut) FewShot(int perClass, Rng rng)
    {
        if (perClass < 1)
        {
            throw new ShapeException($"ImageSet: perClass is {perClass}, want at least 1");
        }
        List<int>[] few = [.. Classes.Select(_ => new List<int>(perClass))];
        List<int> heldOut = [];
        foreach (int index in Shuffled(rng))
        {
            List<int> chosen = few[Labels[index]];
            (chosen.Count < perClass ? chosen : heldOut).Add(index);
        }
        for (int c = 0; c < few.Length; c++)
        {
            if (few[c].Count < perClass)
            {
                throw new ShapeException($"ImageSet: class {Classes[c]} has {few[c].Count} images, want {perClass}: ask for fewer a class");
            }
        }
        heldOut.Sort();
        return (Select([.. few.SelectMany(f => f)]), Select([.. heldOut]));
    }

    /// <summary>Mean and standard deviation of each channel over all images; the deviation divides by the number of values.</summary>
    public (float[] Mean, float[] Deviation) ChannelStatistics()
    {
        int plane = Height * Width;
        (float[] mean, float[] deviation) = (new float[Channels], new float[Channels]);
        for (int c = 0; c < Channels; c++)
        {
            (double sum, double squares) = (0, 0);
            for (int i = 0; i < Count; i++)
            {
                foreach (float value in Image(i).Slice(c * plane, plane))
                {
                    sum += value;
                    squares += (double)value * value;
                }
            }
            double values = Math.Max(1, (double)Count * plane);
            mean[c] = (float)(sum / values);
            deviation[c] = (float)Math.Sqrt(Math.Max(0, squares / values - sum / values * (sum / values)));
        }
        return (mean, deviation);
    }

    /// <summary>(value - mean) / deviation by channel.</summary>
    /// <exception cref="ShapeException">Not one mean and one positive deviation a channel.</exception>
    public ImageSet Normalize(ReadOnlySpan<float> mean, ReadOnlySpan<float> deviation)
    {
        if (mean.Length != Channels || deviation.Length != Channels)
        {
            throw new ShapeException($"ImageSet: mean and deviation have {mean.Length} and {deviation.Length} values, want {Channels}, one a channel");
        }
        int plane = Height * Width;
        float[] pixels = new float[Pixels.Length];
        for (int c = 0; c < Channels; c++)
        {
            if (!(deviation[c] > 0))
            {
                throw new ShapeException($"ImageSet: deviation of channel {c} is {deviation[c]}, want a positive number");
            }
            for (int i = 0; i < Count; i++)
            {
                int start = i * ImageSize + c * plane;
                for (int j = start; j < start + plane; j++)
                {
                    pixels[j] = (Pixels[j] - mean[c]) / deviation[c];
                }
            }
        }
        return With(pixels, Labels);
    }

    /// <summary>Every image resized by <see cref="Bilinear"/>; the set itself where the size is the same.</summary>
    public ImageSet Resize(int height, int width)
    {
        if (height == Height && width == Width)
        {
            return this;
        }
        float[] pixels = new float[Count * Channels * height * width];
        Bilinear.Resize(Pixels, Count * Channels, Height, Width, pixels, height, width);
        return new ImageSet(pixels, Labels, Channels, height, width, Classes);
    }

    private ImageSet With(float[] pixels, int[] labels) => new(pixels, labels, Channels, Height, Width, Classes);

    private int[] Shuffled(Rng rng) => rng.Permutation(Count);
}
