using LowRank.Formats;

namespace LowRank.Models.Data;

/// <summary>An image as a decoder gives it: bytes [height, width, channels], row by row, the channels of a pixel together.</summary>
/// <param name="Pixels">height·width·channels bytes.</param>
/// <param name="Channels">1 for gray, 3 for RGB.</param>
/// <param name="Height">Rows.</param>
/// <param name="Width">Columns.</param>
public sealed record DecodedImage(byte[] Pixels, int Channels, int Height, int Width);

/// <summary>A folder of PNG images, one subfolder a class: the subfolder's name is the class, both in ordinal order.</summary>
public static class ImageFolder
{
    /// <summary>Reads every *.png below <paramref name="folder"/>; bytes become 0..1.</summary>
    /// <param name="folder">Holds one folder a class.</param>
    /// <param name="decode">Path to image; throws <see cref="ModelFormatException"/> where the file is none.</param>
    /// <param name="channels">Wanted: 1 (an RGB image becomes gray by 0.299 R + 0.587 G + 0.114 B) or 3 (a gray image is repeated).</param>
    /// <param name="height">Rows wanted; 0: those of the first image.</param>
    /// <param name="width">Columns wanted; 0: those of the first image.</param>
    /// <exception cref="DirectoryNotFoundException">The folder is not there.</exception>
    /// <exception cref="ModelFormatException">No class, a class without images, or an image of another size (named with its size and the one wanted).</exception>
    public static ImageSet Read(string folder, Func<string, DecodedImage> decode, int channels = 1, int height = 0, int width = 0)
    {
        ArgumentNullException.ThrowIfNull(decode);
        if (channels is not (1 or 3))
        {
            throw new ShapeException($"ImageFolder: channels is {channels}, want 1 or 3");
        }
        string[] classes = [.. Directory.EnumerateDirectories(folder).Order(StringComparer.Ordinal)];
        if (classes.Length == 0)
        {
            throw new ModelFormatException($"ImageFolder: {folder} has no subfolders, want one a class with PNG images in it");
        }
        List<float[]> images = [];
        List<int> labels = [];
        for (int c = 0; c < classes.Length; c++)
        {
            string[] files = [.. Directory.EnumerateFiles(classes[c], "*.png").Order(StringComparer.Ordinal)];
            if (files.Length == 0)
            {
                throw new ModelFormatException($"ImageFolder: class {classes[c]} has no *.png");
            }
            foreach (string file in files)
            {
                DecodedImage image = decode(file);
                (height, width) = (height == 0 ? image.Height : height, width == 0 ? image.Width : width);
                if (image.Height != height || image.Width != width)
                {
                    throw new ModelFormatException($"ImageFolder: {file} is {image.Height}x{image.Width}, want {height}x{width}: resize it first");
                }
                images.Add(Planes(image, channels, file));
                labels.Add(c);
            }
        }
        float[] pixels = new float[images.Count * images[0].Length];
        for (int i = 0; i < images.Count; i++)
        {
            images[i].CopyTo(pixels, i * images[i].Length);
        }
        return new ImageSet(pixels, [.. labels], channels, height, width, [.. classes.Select(c => Path.GetFileName(c)!)]);
    }

    // [height, width, channels] bytes → [channels, height, width] floats of 0..1.
    private static float[] Planes(DecodedImage image, int channels, string file)
    {
        if (image.Channels is not (1 or 3))
        {
            throw new ModelFormatException($"ImageFolder: {file} has {image.Channels} channels, want 1 or 3");
        }
        int plane = image.Height * image.Width;
        float[] values = new float[channels * plane];
        for (int i = 0; i < plane; i++)
        {
            ReadOnlySpan<byte> pixel = image.Pixels.AsSpan(i * image.Channels, image.Channels);
            if (channels == 1)
            {
                values[i] = pixel.Length == 1 ? pixel[0] / 255f : (0.299f * pixel[0] + 0.587f * pixel[1] + 0.114f * pixel[2]) / 255f;
                continue;
            }
            for (int c = 0; c < channels; c++)
            {
                values[c * plane + i] = pixel[pixel.Length == 1 ? 0 : c] / 255f;
            }
        }
        return values;
    }
}
