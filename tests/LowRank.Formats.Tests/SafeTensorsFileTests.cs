using System.Text;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Safetensors files of our own, and what people open by mistake.</summary>
public sealed class SafeTensorsFileTests : FolderTest
{
    public static TheoryData<SafeTensorsType> Types => [.. Enum.GetValues<SafeTensorsType>()];

    public static TheoryData<SafeTensorsType> TypesNotComputedWith =>
        [SafeTensorsType.F4, SafeTensorsType.F6E2M3, SafeTensorsType.F6E3M2, SafeTensorsType.F8E4M3Fnuz, SafeTensorsType.F8E5M2Fnuz, SafeTensorsType.C64];

    [Theory, MemberData(nameof(Types))]
    public void Every_type_survives_byte_for_byte(SafeTensorsType type)
    {
        byte[] bytes = [.. Enumerable.Range(1, type.Bits()).Select(i => (byte)i)];      // 8 elements
        SafeTensorsFile.Save(At("a.safetensors"), [TensorData.Of("t", type, [2, 4], bytes)]);
        using SafeTensorsFile file = SafeTensorsFile.Open(At("a.safetensors"));
        Assert.Equal($"{type.Name()}[2, 4]", file["t"].ToString());
        Assert.Equal(bytes, file.Bytes("t"));
        Assert.Equal(bytes.AsSpan(1, 2), file.Bytes("t", 1, 2));
    }

    [Theory, MemberData(nameof(TypesNotComputedWith))]
    public void A_type_without_values_opens_and_fails_when_used(SafeTensorsType type)
    {
        using SafeTensorsFile file = InMemory(TensorData.Of("odd", type, [8], new byte[type.Bits()]));
        var error = Assert.Throws<ModelFormatException>(() => file.ReadSingle("odd"));
        Assert.Contains($"'odd' is {type.Name()}[8], want a float type", error.Message, StringComparison.Ordinal);
        Assert.Equal("odd", error.Key);
        Assert.Throws<ModelFormatException>(() => file.ReadDouble("odd"));
        Assert.Throws<ModelFormatException>(() => file.ReadInt64("odd"));
    }

    [Fact]
    public void Values_of_all_kinds_come_back()
    {
        float[] values = [0, -1.5f, float.NaN, float.PositiveInfinity, 65504];
        using SafeTensorsFile file = InMemory(
            TensorData.Of("f32", [5], values),
            TensorData.Of("f16", [5], values, DType.F16),
            TensorData.Of("bf16", [5], [1f, 1.00390625f, 1.01171875f, float.NaN, float.MaxValue], DType.BF16),
            TensorData.Of("f64", [2], [Math.PI, double.MinValue]),
            TensorData.Of("i32", [2], [int.MinValue, int.MaxValue]),
            TensorData.Of("i64", [1], [1L << 40]),
            TensorData.Of("u8", [0, 3], Array.Empty<byte>()));
        Assert.Equal(values, file.ReadSingle("f32"));
        Assert.Equal(values, file.ReadSingle("f16"));
        Assert.Equal([1f, 1f, 1.015625f, float.NaN, float.PositiveInfinity], file.ReadSingle("bf16"));      // ties to even
        Assert.Equal([Math.PI, double.MinValue], file.ReadDouble("f64"));
        Assert.Equal([int.MinValue, int.MaxValue], file.ReadInt32("i32"));
        Assert.Empty(file.ReadInt64("u8"));
        var error = Assert.Throws<ModelFormatException>(() => file.ReadInt32("i64"));
        Assert.Contains($"'i64' holds {1L << 40} at [0], want values of 32 bits", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => file.Bytes("f32", 16, 5));
        Assert.Throws<ArgumentOutOfRangeException>(() => file.Bytes("f32", -1, 1));
    }

    [Fact]
    public void The_header_is_aligned_and_sorted_as_the_rust_library_writes_it()
    {
        var stream = new MemoryStream();
        SafeTensorsFile.Write(stream, [TensorData.Of("b", [1], new byte[] { 7 }), TensorData.Of("é\"\\", [1], [1f]), TensorData.Of("a", [1], [2f])], new Dictionary<string, string> { ["format"] = "pt" });
        byte[] bytes = stream.ToArray();
        int length = BitConverter.ToInt32(bytes);
        Assert.Equal(0, length % 8);
        Assert.StartsWith(
            """{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"é\"\\":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}}""",
            Encoding.UTF8.GetString(bytes, 8, length), StringComparison.Ordinal);
        Assert.Equal(8 + length + 9, bytes.Length);
    }

    [Fact]
    public void A_name_twice_or_the_name_of_the_metadata_is_refused_before_anything_is_written()
    {
        TensorData one = TensorData.Of("t", [1], [1f]);
        Assert.Contains("'t' occurs twice", Assert.Throws<ArgumentException>(() => SafeTensorsFile.Save(At("a"), [one, one])).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => SafeTensorsFile.Save(At("a"), [TensorData.Of("__metadata__", [1], [1f])]));
        Assert.Throws<ShapeException>(() => TensorData.Of("t", [3], [1f, 2f]));
        Assert.Throws<ShapeException>(() => TensorData.Of("t", SafeTensorsType.F4, [3], new byte[2]));
        Assert.Empty(Files());
    }

    [Fact]
    public void A_missing_tensor_is_named_with_near_ones()
    {
        using SafeTensorsFile file = InMemory(TensorData.Of("layers.0.weight", [1], [1f]), TensorData.Of("layers.0.bias", [1], [1f]));
        var error = Assert.Throws<ModelFormatException>(() => file.ReadSingle("layer.0.bias"));
        Assert.Equal("SafeTensorsFile: memory has no tensor 'layer.0.bias'; it holds 2, such as 'layers.0.bias', 'layers.0.weight'", error.Message);
        Assert.Equal("layer.0.bias", error.Key);
    }

    [Fact]
    public void A_missing_file_and_a_folder_are_named()
    {
        var missing = Assert.Throws<FileNotFoundException>(() => SafeTensorsFile.Open(At("none.safetensors")));
        Assert.Equal($"SafeTensorsFile: there is no file {At("none.safetensors")}: check the name, download it or save it first", missing.Message);
        Assert.Throws<FileNotFoundException>(() => NpyFile.Open(At("none/a.npy")));
        var folder = Assert.Throws<IOException>(() => SafeTensorsFile.Open(Folder));
        Assert.Equal($"SafeTensorsFile: {Folder} is a folder, want a file in it", folder.Message);
    }

    [Fact]
    public void A_closed_file_says_so()
    {
        SafeTensorsFile file = InMemory(TensorData.Of("t", [1], [1f]));
        file.Dispose();
        file.Dispose();
        Assert.Throws<ObjectDisposedException>(() => file.ReadSingle("t"));
    }

    [Theory]
    [InlineData("PK\u0003\u0004", "zip archive, as torch.save")]
    [InlineData("\u0080\u0002\u008a\u000a", "Python pickle")]
    [InlineData("GGUF\u0003\0\0\0", "GGUF")]
    [InlineData("\u0089HDF\r\n\u001a\n", "HDF5")]
    [InlineData("\u0093NUMPY\u0001\0", "NpyFile")]
    [InlineData("PK\u0003\u0004\u0014\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\u0005\0\0\0W.npy", "NpzFile")]
    [InlineData("version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull")]
    [InlineData("\u0008\u0007\u0012\u0007pytorch", "ONNX")]
    [InlineData("\u001f\u008b\u0008\0\0\0\0\0", "gzip")]
    [InlineData("{\"metadata\": {}}", "SafeTensorsIndex")]
    [InlineData("<!DOCTYPE html><html>", "web page")]
    public void Foreign_files_are_called_by_their_name(string head, string want)
    {
        File.WriteAllBytes(At("model.safetensors"), [.. Encoding.Latin1.GetBytes(head), .. new byte[200]]);
        var error = Assert.Throws<ModelFormatException>(() => TensorSource.Open(Folder));
        Assert.StartsWith($"SafeTensorsFile: {At("model.safetensors")} is no safetensors file: it", error.Message, StringComparison.Ordinal);
        Assert.Contains(want, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_truncation_is_refused()
    {
        var stream = new MemoryStream();
        SafeTensorsFile.Write(stream, Writer.Tensors(1, 3));
        byte[] whole = stream.ToArray();
        SafeTensorsFile.Read(whole).Dispose();
        for (int length = 0; length < whole.Length; length++)
        {
            Assert.Throws<ModelFormatException>(() => SafeTensorsFile.Read(whole.AsMemory(0, length)));
        }
    }

    private static SafeTensorsFile InMemory(params TensorData[] tensors)
    {
        var stream = new MemoryStream();
        SafeTensorsFile.Write(stream, tensors);
        return SafeTensorsFile.Read(stream.ToArray());
    }
}
