using System.Globalization;

namespace LowRank.Models.Data;

/// <summary>The 8x8 digits embedded in this library: 1,797 images, 10 classes. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten
/// Digits, UCI Machine Learning Repository, CC BY 4.0 (Resources/digits.txt).</summary>
public static class Digits
{
    /// <summary>Rows and columns of an image as the data set holds it.</summary>
    public const int SourceSize = 8;

    /// <summary>All digits as gray images of 0..1, upscaled by <see cref="Bilinear"/> where <paramref name="size"/> is not 8.</summary>
    /// <param name="size">Rows and columns of the images wanted.</param>
    public static ImageSet Load(int size = SourceSize)
    {
        IdxFile images = Resource("digits-images-idx3-ubyte.gz");
        IdxFile labels = Resource("digits-labels-idx1-ubyte.gz");
        string[] classes = [.. Enumerable.Range(0, 10).Select(d => d.ToString(CultureInfo.InvariantCulture))];
        return IdxFile.ToImages(images, labels, classes, white: 16).Resize(size, size);
    }

    private static IdxFile Resource(string name)
    {
        using Stream stream = typeof(Digits).Assembly.GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"Digits: resource {name} is missing from {typeof(Digits).Assembly.GetName().Name}");
        return IdxFile.Read(stream, name);
    }
}
