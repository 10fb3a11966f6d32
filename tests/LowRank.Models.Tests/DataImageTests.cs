using LowRank.Formats;
using LowRank.Models.Data;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Image sets: the embedded digits, selection, normalisation, resizing, augmentation, folders.</summary>
public sealed class DataImageTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-images").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void The_digits_are_those_of_the_data_set()
    {
        ImageSet digits = Digits.Load();
        Assert.Equal((1797, 1, 8, 8), (digits.Count, digits.Channels, digits.Height, digits.Width));
        Assert.Equal([178, 182, 177, 183, 181, 182, 181, 179, 174, 180], digits.Labels.CountBy(label => label).OrderBy(c => c.Key).Select(c => c.Value));
        Assert.Equal(561718, digits.Pixels.Sum(p => (double)p * 16));
        Assert.Equal([0f, 0, 5, 13, 9, 1, 0, 0], digits.Image(0)[..8].ToArray().Select(p => p * 16));
    }

    [Fact]
    public void Upscaled_digits_stay_between_black_and_white()
    {
        ImageSet digits = Digits.Load(28);
        Assert.Equal((28, 28, 1797 * 28 * 28), (digits.Height, digits.Width, digits.Pixels.Length));
        Assert.True(digits.Pixels.All(p => p is >= 0 and <= 1));
        Assert.Equal(Digits.Load(28).Pixels, digits.Pixels);
    }

    [Fact]
    public void Bilinear_samples_between_pixel_centres()
    {
        // Twice as wide: outputs lie at -0.25, 0.25, 0.75, 1.25 of the two inputs.
        float[] wide = new float[4];
        Bilinear.Resize([0f, 1f], 1, 1, 2, wide, 1, 4);
        Assert.Equal([0f, 0.25f, 0.75f, 1f], wide);
        float[] half = new float[1];
        Bilinear.Resize([1f, 2f, 3f, 6f], 1, 2, 2, half, 1, 1);
        Assert.Equal([3f], half);
        Assert.Throws<ShapeException>(() => Bilinear.Resize([1f], 1, 1, 2, new float[1], 1, 1));
    }

    [Fact]
    public void Few_shot_takes_each_class_equally_and_holds_the_rest_out()
    {
        ImageSet digits = Digits.Load();
        (ImageSet few, ImageSet heldOut) = digits.FewShot(10, new Rng(1).Fork("few"));
        Assert.Equal((100, 1697), (few.Count, heldOut.Count));
        Assert.All(few.Labels.CountBy(label => label), c => Assert.Equal(10, c.Value));
        Assert.Equal(Sum(digits), Sum(few) + Sum(heldOut));
        Assert.Equal(few.Pixels, digits.FewShot(10, new Rng(1).Fork("few")).Few.Pixels);
        Assert.NotEqual(few.Pixels, digits.FewShot(10, new Rng(2).Fork("few")).Few.Pixels);
        ShapeException error = Assert.Throws<ShapeException>(() => digits.FewShot(175, new Rng(1).Fork("few")));
        Assert.Contains("class 8 has 174 images, want 175", error.Message, StringComparison.Ordinal);
        Assert.Throws<ShapeException>(() => digits.FewShot(0, new Rng(1).Fork("few")));
    }

    [Fact]
    public void Split_keeps_every_image_once()
    {
        ImageSet digits = Digits.Load();
        (ImageSet first, ImageSet rest) = digits.Split(1000, new Rng(3).Fork("split"));
        Assert.Equal((1000, 797), (first.Count, rest.Count));
        Assert.Equal(Sum(digits), Sum(first) + Sum(rest));
        Assert.Throws<ShapeException>(() => digits.Split(1798, new Rng(3).Fork("split")));
    }

    [Fact]
    public void Normalised_channels_have_mean_zero_and_deviation_one()
    {
        ImageSet set = new([0, 2, 1, 5, 2, 0, 5, 1], [0, 0], 2, 1, 2, ["a"]);
        (float[] mean, float[] deviation) = set.ChannelStatistics();
        Assert.Equal([1f, 3f], mean);
        Assert.Equal([1f, 2f], deviation);
        Assert.Equal([-1f, 1, -1, 1, 1, -1, 1, -1], set.Normalize(mean, deviation).Pixels);
        Assert.Throws<ShapeException>(() => set.Normalize([0f], [1f]));
        Assert.Throws<ShapeException>(() => set.Normalize([0f, 0f], [1f, 0f]));
    }

    [Fact]
    public void A_set_refuses_what_does_not_fit()
    {
        Assert.Contains("label of image 1 is 2, want 0..1",
            Assert.Throws<ModelFormatException>(() => new ImageSet([0, 0], [0, 2], 1, 1, 1, ["a", "b"])).Message, StringComparison.Ordinal);
        Assert.Throws<ShapeException>(() => new ImageSet([0, 0, 0], [0, 1], 1, 1, 1, ["a", "b"]));
        Assert.Throws<ShapeException>(() => new ImageSet([], [], 1, 0, 1, ["a"]));
    }

    [Fact]
    public void Augmentation_shifts_and_mirrors()
    {
        float[] image = [1, 2, 3, 4, 5, 6];
        HashSet<string> seen = [];
        Rng rng = new Rng(5).Fork("augment");
        float[] changed = new float[6];
        for (int i = 0; i < 500; i++)
        {
            new Augmentation(1, Flip: true, Background: 9).Apply(image, changed, 1, 2, 3, rng);
            seen.Add(string.Join(' ', changed));
        }
        // 3 vertical by 3 horizontal shifts, mirrored or not: all different for this image.
        Assert.Equal(18, seen.Count);
        Assert.Contains("1 2 3 4 5 6", seen);
        Assert.Contains("3 2 1 6 5 4", seen);
        Assert.Contains("9 1 2 9 4 5", seen);
        Assert.Contains("9 9 9 1 2 3", seen);
        new Augmentation(0, Flip: false).Apply(image, changed, 1, 2, 3, rng);
        Assert.Equal(image, changed);
    }

    [Fact]
    public void A_folder_gives_a_class_a_subfolder()
    {
        Put("b/1.png", "a/2.png", "a/10.png");
        ImageSet set = ImageFolder.Read(folder, path => new DecodedImage([(byte)path.Length, 255], 1, 1, 2));
        Assert.Equal(["a", "b"], set.Classes);
        Assert.Equal([0, 0, 1], set.Labels);
        Assert.Equal((1, 1, 2), (set.Channels, set.Height, set.Width));
        Assert.Equal(1f, set.Image(2)[1]);
    }

    [Fact]
    public void A_folder_turns_colour_into_gray_and_gray_into_colour()
    {
        Put("a/1.png");
        Assert.Equal([0.299f, 0.587f], ImageFolder.Read(folder, _ => new DecodedImage([255, 0, 0, 0, 255, 0], 3, 1, 2)).Pixels);
        Assert.Equal([0.2f, 1f, 0.2f, 1f, 0.2f, 1f], ImageFolder.Read(folder, _ => new DecodedImage([51, 255], 1, 1, 2), channels: 3).Pixels);
        Assert.Equal([1f, 0f, 0f, 1f, 0f, 0f], ImageFolder.Read(folder, _ => new DecodedImage([255, 0, 0, 0, 255, 0], 3, 1, 2), channels: 3).Pixels);
    }

    [Fact]
    public void An_image_of_another_size_is_named_with_both_sizes()
    {
        Put("a/1.png", "a/2.png");
        ModelFormatException error = Assert.Throws<ModelFormatException>(() => ImageFolder.Read(folder,
            path => path.EndsWith("2.png", StringComparison.Ordinal) ? new DecodedImage([0, 0], 1, 2, 1) : new DecodedImage([0], 1, 1, 1)));
        Assert.Contains("2.png is 2x1, want 1x1", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_empty_folder_and_an_empty_class_are_refused()
    {
        Assert.Contains("no subfolders", Assert.Throws<ModelFormatException>(() => ImageFolder.Read(folder, Never)).Message, StringComparison.Ordinal);
        Directory.CreateDirectory(Path.Combine(folder, "a"));
        Assert.Contains("has no *.png", Assert.Throws<ModelFormatException>(() => ImageFolder.Read(folder, Never)).Message, StringComparison.Ordinal);
        Assert.Throws<DirectoryNotFoundException>(() => ImageFolder.Read(Path.Combine(folder, "nowhere"), Never));
        static DecodedImage Never(string path) => throw new InvalidOperationException(path);
    }

    [Fact]
    public void A_source_is_recognised_by_what_lies_there()
    {
        Assert.Equal(1797, ImageSource.Read("digits", train: true, Pixel).Count);
        Put("flat/a/1.png", "flat/b/1.png", "parts/train/a/1.png", "parts/test/a/1.png", "parts/test/a/2.png");
        Assert.Equal(2, ImageSource.Read(Path.Combine(folder, "flat"), train: true, Pixel).Count);
        Assert.Equal(1, ImageSource.Read(Path.Combine(folder, "parts"), train: true, Pixel).Count);
        Assert.Equal(2, ImageSource.Read(Path.Combine(folder, "parts"), train: false, Pixel).Count);
        Put("idx/t10k-images-idx3-ubyte", "idx/t10k-labels-idx1-ubyte");
        File.WriteAllBytes(Path.Combine(folder, "idx/t10k-images-idx3-ubyte"), [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9]);
        File.WriteAllBytes(Path.Combine(folder, "idx/t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 3]);
        Assert.Equal(3, ImageSource.Read(Path.Combine(folder, "idx"), train: false, Pixel).Labels[0]);
        Assert.Contains("nowhere", Assert.Throws<FileNotFoundException>(() => ImageSource.Read("nowhere", train: true, Pixel)).Message, StringComparison.Ordinal);
        static DecodedImage Pixel(string path) => new([0], 1, 1, 1);
    }

    private static double Sum(ImageSet set) => set.Pixels.Sum(p => (double)p);

    private void Put(params string[] files)
    {
        foreach (string file in files)
        {
            string path = Path.Combine(folder, file);
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllBytes(path, []);
        }
    }
}
