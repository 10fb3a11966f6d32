namespace LowRank.Models.Data;

/// <summary>Fashion-MNIST: 60,000 + 10,000 gray images of 28x28, 10 classes; Zalando Research, MIT licence.</summary>
public static class FashionMnist
{
    /// <summary>Where Debian's package dataset-fashion-mnist installs the four files.</summary>
    public const string DebianFolder = "/usr/share/datasets/fashion-mnist";

    /// <summary>The names of the labels 0..9.</summary>
    public static IReadOnlyList<string> ClassNames { get; } =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

    /// <summary>Reads one part from the folder that holds the idx files, gzipped or not.</summary>
    /// <param name="folder">Holds train-images-idx3-ubyte[.gz] and its fellows.</param>
    /// <param name="train">The 60,000 training images, or the 10,000 test images.</param>
    /// <exception cref="FileNotFoundException">A file is not there.</exception>
    /// <exception cref="Formats.ModelFormatException">A file is not what its name says.</exception>
    public static ImageSet Read(string folder, bool train) => IdxFile.ReadFolder(folder, train ? "train" : "t10k", ClassNames);
}
