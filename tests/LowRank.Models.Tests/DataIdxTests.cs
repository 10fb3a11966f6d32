using System.IO.Compression;
using LowRank.Formats;
using LowRank.Models.Data;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>The IDX reader: what it accepts, and that everything else is a typed error that names the file.</summary>
public sealed class DataIdxTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-idx").FullName;

    public static TheoryData<string, byte[], string> Broken => new()
    {
        { "empty", [], "ends inside its header" },
        { "half a header", [0, 0, 8], "ends inside its header" },
        { "no dimension", [0, 0, 8, 1, 0, 0], "ends inside its header" },
        { "another format", [0x89, 0x50, 0x4e, 0x47, 0, 0, 0, 0], "not an IDX file" },
        { "floats", [0, 0, 0x0d, 1, 0, 0, 0, 1, 0, 0, 0, 0], "want 0x08" },
        { "too many dimensions", [0, 0, 8, 9, 0, 0, 0, 1], "9 dimensions" },
        { "no dimensions", [0, 0, 8, 0], "0 dimensions" },
        { "cut short", [0, 0, 8, 1, 0, 0, 0, 3, 7, 7], "2 values, want 3" },
        { "too long", [0, 0, 8, 1, 0, 0, 0, 1, 7, 7], "goes on after its 1 values" },
        { "claims a gigabyte", [0, 0, 8, 1, 0x40, 0, 0, 0, 7], "1 values, want 1073741824" },
        { "overflows", [0, 0, 8, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "claims more than" },
        { "damaged gzip", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff], "damaged gzip" },
    };

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Broken))]
    public void A_broken_file_is_refused_by_name(string what, byte[] bytes, string message)
    {
        string path = Write($"{what}.idx", bytes);
        ModelFormatException error = Assert.Throws<ModelFormatException>(() => IdxFile.Read(path));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_header_that_lies_allocates_nothing_of_its_size()
    {
        string path = Write("liar.idx", [0, 0, 8, 1, 0x7f, 0xff, 0xff, 0x00, 7]);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Throws<ModelFormatException>(() => IdxFile.Read(path));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
    }

    [Fact]
    public void Plain_and_gzipped_files_give_the_same_images()
    {
        byte[] images = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 51, 255, 102];
        byte[] labels = [0, 0, 8, 1, 0, 0, 0, 2, 1, 0];
        Write("a-images-idx3-ubyte", images);
        Write("a-labels-idx1-ubyte", labels);
        Write("b-images-idx3-ubyte.gz", Zip(images));
        Write("b-labels-idx1-ubyte.gz", Zip(labels));
        foreach (string part in new[] { "a", "b" })
        {
            ImageSet set = IdxFile.ReadFolder(folder, part);
            Assert.Equal([0f, 51 / 255f, 1f, 102 / 255f], set.Pixels);
            Assert.Equal([1, 0], set.Labels);
            Assert.Equal((1, 1, 2), (set.Channels, set.Height, set.Width));
            Assert.Equal(["0", "1"], set.Classes);
        }
    }

    [Fact]
    public void A_missing_file_is_named() =>
        Assert.Contains("train-images-idx3-ubyte", Assert.Throws<FileNotFoundException>(() => FashionMnist.Read(folder, train: true)).Message, StringComparison.Ordinal);

    [Fact]
    public void Fashion_mnist_of_the_debian_package_is_read()
    {
        Assert.SkipUnless(Directory.Exists(FashionMnist.DebianFolder), "needs the Debian package dataset-fashion-mnist");
        ImageSet test = FashionMnist.Read(FashionMnist.DebianFolder, train: false);
        Assert.Equal((10000, 1, 28, 28), (test.Count, test.Channels, test.Height, test.Width));
        Assert.All(test.Labels.CountBy(label => label), c => Assert.Equal(1000, c.Value));
        Assert.Equal("Ankle boot", test.Classes[test.Labels[0]]);
        Assert.Equal((0f, 1f), (test.Pixels.Min(), test.Pixels.Max()));
    }

    [Fact]
    public void Labels_must_fit_images_and_classes()
    {
        IdxFile images = IdxFile.Read(Write("i", [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9]));
        IdxFile two = IdxFile.Read(Write("two", [0, 0, 8, 1, 0, 0, 0, 2, 0, 0]));
        IdxFile high = IdxFile.Read(Write("high", [0, 0, 8, 1, 0, 0, 0, 1, 5]));
        Assert.Contains("want [1]", Assert.Throws<ModelFormatException>(() => IdxFile.ToImages(images, two)).Message, StringComparison.Ordinal);
        Assert.Contains("is 5, want 0..1", Assert.Throws<ModelFormatException>(() => IdxFile.ToImages(images, high, ["a", "b"])).Message, StringComparison.Ordinal);
        Assert.Contains("want images", Assert.Throws<ModelFormatException>(() => IdxFile.ToImages(two, two)).Message, StringComparison.Ordinal);
        Assert.Contains("want 0..8", Assert.Throws<ModelFormatException>(() => IdxFile.ToImages(images, high, white: 8)).Message, StringComparison.Ordinal);
    }

    private static byte[] Zip(byte[] bytes)
    {
        using MemoryStream zipped = new();
        using (GZipStream gzip = new(zipped, CompressionLevel.Optimal))
        {
            gzip.Write(bytes);
        }
        return zipped.ToArray();
    }

    private string Write(string name, byte[] bytes)
    {
        string path = Path.Combine(folder, name);
        File.WriteAllBytes(path, bytes);
        return path;
    }
}
