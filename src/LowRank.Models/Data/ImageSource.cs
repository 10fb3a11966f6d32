using LowRank.Formats;

namespace LowRank.Models.Data;

/// <summary>Finds out what a name given by a user stands for, and reads it.</summary>
public static class ImageSource
{
    /// <summary>The name of the embedded digits.</summary>
    public const string DigitsName = "digits";

    /// <summary>Reads labelled images from the first of these that <paramref name="source"/> is: the word <c>digits</c> (all of them, 8x8);
    /// a safetensors file with arrays <c>images</c> and <c>labels</c>; a folder of MNIST-like idx files; a folder with one subfolder of PNG images a class, or with folders <c>train</c> and <c>test</c> of that kind.</summary>
    /// <param name="source">The word, or a path.</param>
    /// <param name="train">Which part, where the source has two.</param>
    /// <param name="decode">Reads a PNG file.</param>
    /// <param name="channels">1 for gray, 3 for RGB: what PNG images become. The other sources keep the channels they have.</param>
    /// <exception cref="FileNotFoundException">Nothing is at that path.</exception>
    /// <exception cref="ModelFormatException">What is there is none of these, or damaged.</exception>
    public static ImageSet Read(string source, bool train, Func<string, DecodedImage> decode, int channels = 1)
    {
        if (source == DigitsName)
        {
            return Digits.Load();
        }
        if (File.Exists(source))
        {
            return ImageArrays.Read(source);
        }
        if (!Directory.Exists(source))
        {
            throw new FileNotFoundException($"ImageSource: {source} is neither '{DigitsName}' nor a safetensors file, nor a folder of idx files or PNG images", source);
        }
        string part = train ? "train" : "t10k";
        if (Directory.EnumerateFiles(source, "*-idx3-ubyte*").Any())
        {
            return IdxFile.ReadFolder(source, part);
        }
        string inside = Path.Combine(source, train ? "train" : "test");
        return ImageFolder.Read(Directory.Exists(inside) ? inside : source, decode, channels);
    }

    /// <summary>True where a source brings test images of its own; the others have one set, and <see cref="Read"/> gives it for both parts.</summary>
    public static bool HasTest(string source) => source != DigitsName && Directory.Exists(source)
        && (Directory.EnumerateFiles(source, "t10k-images-idx3-ubyte*").Any() || (Directory.Exists(Path.Combine(source, "train")) && Directory.Exists(Path.Combine(source, "test"))));
}
