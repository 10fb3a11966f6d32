using System.Globalization;
using LowRank.Formats;

namespace LowRank.Models.Data;

/// <summary>Labelled images as two arrays of a safetensors file: <c>images</c> [N, channels, height, width] or [N, height, width], and <c>labels</c> [N].</summary>
public static class ImageArrays
{
    /// <summary>Reads a file; images of unsigned bytes become 0..1, floating-point ones stay as they are. Classes are named by their numbers.</summary>
    /// <exception cref="FileNotFoundException">The file is not there.</exception>
    /// <exception cref="ModelFormatException">An array is missing, of another shape or type, or holds what is not a number; a label is negative or too large.</exception>
    public static ImageSet Read(string path)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        SafeTensorsEntry images = file["images"];
        SafeTensorsEntry labels = file["labels"];
        if (images.Dimensions.Count is not (3 or 4) || images.Dimensions.Any(d => d is 0 or > int.MaxValue) || images.Count > Array.MaxLength)
        {
            throw new ModelFormatException($"ImageArrays: images of {path} is {images}, want [N, channels, height, width] or [N, height, width]") { File = path, Key = "images" };
        }
        if (labels.Dimensions.Count != 1 || labels.Dimensions[0] != images.Dimensions[0])
        {
            throw new ModelFormatException($"ImageArrays: labels of {path} is {labels}, want [{images.Dimensions[0]}], one label an image") { File = path, Key = "labels" };
        }
        float[] pixels = images.Type == SafeTensorsType.U8 ? [.. file.Bytes("images").ToArray().Select(b => b / 255f)] : file.ReadSingle("images");
        int outside = Array.FindIndex(pixels, value => !float.IsFinite(value));
        if (outside >= 0)
        {
            throw new ModelFormatException($"ImageArrays: value {outside} of images of {path} is {pixels[outside]}, want finite numbers") { File = path, Key = "images" };
        }
        int[] numbers = file.ReadInt32("labels");
        outside = Array.FindIndex(numbers, label => label is < 0 or > MostClasses);
        if (outside >= 0)
        {
            throw new ModelFormatException($"ImageArrays: label {outside} of {path} is {numbers[outside]}, want 0..{MostClasses}") { File = path, Key = "labels" };
        }
        string[] classes = [.. Enumerable.Range(0, numbers.Max() + 1).Select(c => c.ToString(CultureInfo.InvariantCulture))];
        int[] size = [.. images.Dimensions.Skip(1).Select(d => (int)d)];
        return size.Length == 2 ? new ImageSet(pixels, numbers, 1, size[0], size[1], classes) : new ImageSet(pixels, numbers, size[0], size[1], size[2], classes);
    }

    // A label beyond this is a damaged file, not a task; each class gets a name.
    private const int MostClasses = 1_000_000;
}
