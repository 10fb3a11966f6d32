using System.Text.Json;
using LowRank.Formats;
using LowRank.Models.Data;
using SkiaSharp;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Reports: the pictures hold curves and text, Markdown and JSON hold the same numbers, files appear whole.</summary>
public sealed class ReportTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-report").FullName;

    private static Report Sample => new(
        "Adapting a ViT to digits",
        [("model", "vit-fashion"), ("seeds", "3")],
        ["method", "trainable", "accuracy", "merged", "seconds"],
        [["LoRA r=8", 12345, 0.98765, true, 1.5], ["head | only", 1290, float.NaN, false, 0.25f]],
        [
            new ReportChart("loss", "Loss of training", "step", "cross-entropy / nats",
                [Curve.Mean("LoRA r=8", [0, 1, 2], [[2.0, 1.0, 0.5], [2.2, 1.4, 0.3]]), new Curve("head only", [0, 1, 2], [2.1, 1.8, 1.6])]),
            new ReportChart("accuracy", "Accuracy on held-out digits", "step", "share", [new Curve("LoRA r=8", [0], [0.1])]),
        ]);

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_report_is_pictures_markdown_and_json()
    {
        IReadOnlyList<string> written = ReportWriter.Write(Path.Combine(folder, "new", "report"), Sample);
        Assert.Equal(["loss.png", "accuracy.png", "report.json", "report.md"], written.Select(Path.GetFileName));
        Assert.Equal(written.Order(), Directory.EnumerateFiles(Path.GetDirectoryName(written[0])!).Order());
        string markdown = File.ReadAllText(written[^1]);
        Assert.StartsWith("# Adapting a ViT to digits\n\n- model: vit-fashion\n", markdown, StringComparison.Ordinal);
        Assert.Contains("| method | trainable | accuracy | merged | seconds |\n|---|---:|---:|---:|---:|\n| LoRA r=8 | 12,345 | 0.9877 | yes | 1.5 |\n", markdown, StringComparison.Ordinal);
        Assert.Contains("| head \\| only | 1,290 | NaN | no | 0.25 |", markdown, StringComparison.Ordinal);
        Assert.Contains("![Loss of training](loss.png)", markdown, StringComparison.Ordinal);
    }

    [Fact]
    public void Json_holds_the_numbers_as_they_are()
    {
        using JsonDocument json = JsonDocument.Parse(ReportWriter.Json(Sample));
        JsonElement rows = json.RootElement.GetProperty("rows");
        Assert.Equal(12345, rows[0].GetProperty("trainable").GetInt64());
        Assert.Equal(0.98765, rows[0].GetProperty("accuracy").GetDouble());
        Assert.True(rows[0].GetProperty("merged").GetBoolean());
        Assert.Equal(JsonValueKind.Null, rows[1].GetProperty("accuracy").ValueKind);
        JsonElement curves = json.RootElement.GetProperty("charts").GetProperty("loss").GetProperty("curves");
        Assert.Equal([2.1, 1.2, 0.4], curves[0].GetProperty("y").EnumerateArray().Select(y => y.GetDouble()));
        Assert.Equal(3, curves[0].GetProperty("deviation").GetArrayLength());
        Assert.False(curves[1].TryGetProperty("deviation", out _));
    }

    [Fact]
    public void A_picture_holds_curve_and_text()
    {
        using SKBitmap picture = SKBitmap.Decode(Sample.Charts[0].ToPng());
        Assert.Equal((900, 520), (picture.Width, picture.Height));
        // The title stands alone in the top rows; the curves are the only saturated colours inside.
        Assert.InRange(Pixels(picture, 0, 36).Count(p => p.Red < 128), 100, 5000);
        Assert.InRange(Pixels(picture, 36, 520).Count(p => Math.Max(p.Red, p.Blue) - Math.Min(p.Red, p.Blue) > 60), 500, 100000);
    }

    [Fact]
    public void Every_character_the_report_uses_is_in_the_font()
    {
        ReportFont.Register();
        Assert.Equal(ReportFont.Family, new ScottPlot.Plot().Axes.Title.Label.FontName);
        SKTypeface face = ScottPlot.Fonts.GetTypeface(ReportFont.Family, false, false);
        Assert.Equal("DejaVu Sans", face.FamilyName);
        Assert.True(face.ContainsGlyphs("0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz .,:;()[]%+-=/_ ±×·−→σ"));
    }

    [Fact]
    public void Mean_and_deviation_are_taken_over_the_runs()
    {
        Curve curve = Curve.Mean("a", [0, 1], [[1, 2], [3, 2]]);
        Assert.Equal([2.0, 2.0], curve.Y);
        Assert.Equal([Math.Sqrt(2), 0], curve.Deviation!);
        Assert.Null(Curve.Mean("a", [0, 1], [[1, 2]]).Deviation);
        Assert.Throws<ShapeException>(() => Curve.Mean("a", [0, 1], [[1]]));
        Assert.Throws<ShapeException>(() => Curve.Mean("a", [0, 1], []));
    }

    [Fact]
    public void A_row_must_have_a_cell_a_column()
    {
        Assert.Contains("has 1 cells, want 2", Assert.Throws<ShapeException>(() => ReportWriter.Write(folder, new Report("t", [], ["a", "b"], [[1]], []))).Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder));
    }

    [Fact]
    public void A_file_in_the_way_leaves_nothing_half_written()
    {
        string taken = Path.Combine(folder, "report.md");
        Directory.CreateDirectory(taken);
        File.WriteAllText(Path.Combine(taken, "inside"), "");
        Assert.ThrowsAny<IOException>(() => ReportWriter.Write(folder, new Report("t", [], ["a"], [["x"]], [])));
        Assert.DoesNotContain(Directory.EnumerateFiles(folder), f => f.EndsWith(AtomicFile.TemporaryEnding, StringComparison.Ordinal));
    }

    [Fact]
    public void Png_images_are_read_as_they_were_written()
    {
        SKColor[] colours = [new(255, 0, 0), new(0, 255, 0), new(0, 0, 255), new(10, 20, 30)];
        DecodedImage image = PngDecoder.Decode(Png("rgb.png", SKColorType.Rgba8888, colours));
        Assert.Equal((3, 2, 2), (image.Channels, image.Height, image.Width));
        Assert.Equal([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30], image.Pixels);
        DecodedImage gray = PngDecoder.Decode(Png("gray.png", SKColorType.Gray8, [new(0, 0, 0), new(7, 7, 7), new(128, 128, 128), new(255, 255, 255)]));
        Assert.Equal(1, gray.Channels);
        Assert.Equal([0, 7, 128, 255], gray.Pixels);
    }

    [Fact]
    public void What_is_no_png_is_refused_by_name()
    {
        string text = Path.Combine(folder, "text.png");
        File.WriteAllText(text, "no image");
        byte[] whole = File.ReadAllBytes(Png("whole.png", SKColorType.Rgba8888, [.. Enumerable.Repeat(new SKColor(1, 2, 3), 4)]));
        string cut = Path.Combine(folder, "cut.png");
        File.WriteAllBytes(cut, whole[..50]);
        string damaged = Path.Combine(folder, "damaged.png");
        byte[] large = File.ReadAllBytes(Png("large.png", SKColorType.Rgba8888, [.. Enumerable.Range(0, 64 * 64).Select(i => new SKColor((uint)(i * 2654435761) | 0xff000000))]));
        File.WriteAllBytes(damaged, large[..(large.Length / 2)]);
        string clear = Png("clear.png", SKColorType.Rgba8888, [.. Enumerable.Repeat(new SKColor(1, 2, 3, 100), 4)]);
        foreach ((string path, string message) in new[] { (text, "is not an image"), (cut, "is not an image"), (damaged, "is damaged"), (clear, "transparent") })
        {
            string error = Assert.Throws<ModelFormatException>(() => PngDecoder.Decode(path)).Message;
            Assert.Contains(path, error, StringComparison.Ordinal);
            Assert.Contains(message, error, StringComparison.Ordinal);
        }
        Assert.Throws<FileNotFoundException>(() => PngDecoder.Decode(Path.Combine(folder, "none.png")));
    }

    [Fact]
    public void A_folder_of_png_images_becomes_a_set()
    {
        foreach (string name in new[] { "cat", "dog" })
        {
            Directory.CreateDirectory(Path.Combine(folder, name));
            Png(Path.Combine(name, "1.png"), SKColorType.Gray8, [.. Enumerable.Repeat(new SKColor(51, 51, 51), 4)]);
        }
        ImageSet set = ImageFolder.Read(folder, PngDecoder.Decode);
        Assert.Equal(["cat", "dog"], set.Classes);
        Assert.All(set.Pixels, p => Assert.Equal(0.2f, p));
    }

    private string Png(string name, SKColorType type, SKColor[] colours)
    {
        int width = (int)Math.Sqrt(colours.Length);
        using SKBitmap bitmap = new(width, width, type, type == SKColorType.Gray8 ? SKAlphaType.Opaque : SKAlphaType.Unpremul);
        for (int i = 0; i < colours.Length; i++)
        {
            bitmap.SetPixel(i % width, i / width, colours[i]);
        }
        string path = Path.Combine(folder, name);
        using FileStream stream = File.Create(path);
        bitmap.Encode(stream, SKEncodedImageFormat.Png, 100);
        return path;
    }

    private static IEnumerable<SKColor> Pixels(SKBitmap picture, int from, int to)
    {
        for (int y = from; y < to; y++)
        {
            for (int x = 0; x < picture.Width; x++)
            {
                yield return picture.GetPixel(x, y);
            }
        }
    }
}
