using LowRank.Formats;
using LowRank.Models.Data;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Images and labels as arrays of a safetensors file.</summary>
public sealed class DataArrayTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-arrays").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void Bytes_become_shares_and_floats_stay()
    {
        ImageSet bytes = ImageArrays.Read(Save(TensorData.Of("images", Shape.Of(2, 1, 2), (byte[])[0, 51, 255, 102]), Labels(2, 0)));
        Assert.Equal([0f, 0.2f, 1f, 0.4f], bytes.Pixels);
        Assert.Equal([2, 0], bytes.Labels);
        Assert.Equal((1, 1, 2), (bytes.Channels, bytes.Height, bytes.Width));
        Assert.Equal(["0", "1", "2"], bytes.Classes);
        ImageSet floats = ImageArrays.Read(Save(TensorData.Of("images", Shape.Of(1, 3, 1, 2), [1f, 2, 3, 4, 5, -6]), Labels(1)));
        Assert.Equal([1f, 2, 3, 4, 5, -6], floats.Pixels);
        Assert.Equal((3, 1, 2), (floats.Channels, floats.Height, floats.Width));
    }

    [Fact]
    public void A_source_may_be_such_a_file() =>
        Assert.Equal(1, ImageSource.Read(Save(Gray(1), Labels(0)), train: true, _ => throw new InvalidOperationException()).Count);

    [Fact]
    public void What_does_not_fit_is_named()
    {
        Refused("labels", Gray(1));
        Refused("want [2], one label an image", Gray(2), Labels(0));
        Refused("want [N, channels, height, width]", TensorData.Of("images", Shape.Of(4), new float[4]), Labels(0, 0, 0, 0));
        Refused("want [N, channels, height, width]", TensorData.Of("images", Shape.Of(0, 2, 2), Array.Empty<float>()), Labels());
        Refused("label 0 of", Gray(1), Labels(-1));
        Refused("value 0 of images", TensorData.Of("images", Shape.Of(1, 1, 1), [float.NaN]), Labels(0));
        Refused("labels", Gray(1), TensorData.Of("labels", Shape.Of(1), [0.5f]));
    }

    private static TensorData Labels(params int[] labels) => TensorData.Of("labels", Shape.Of(labels.Length), labels);

    private static TensorData Gray(int count) => TensorData.Of("images", Shape.Of(count, 2, 2), new float[4 * count]);

    private void Refused(string message, params TensorData[] tensors) =>
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => ImageArrays.Read(Save(tensors))).Message, StringComparison.Ordinal);

    private string Save(params TensorData[] tensors)
    {
        string path = Path.Combine(folder, "images.safetensors");
        SafeTensorsFile.Save(path, tensors);
        return path;
    }
}
