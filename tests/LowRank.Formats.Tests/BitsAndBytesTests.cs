using System.Text;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Weights that bitsandbytes quantised: read, spelled out, made again from the floats, written again; and files that do not fit.</summary>
public class BitsAndBytesTests : FolderTest
{
    private const string FourBit = "linear4bit.safetensors", EightBit = "linear8bit.safetensors";

    private static readonly string[] FourBitNames = ["nf4", "nf4_f16", "nf4_bf16", "nf4_bs128", "nf4_bs128_f16", "nf4_bs128_bf16", "nf4_double", "fp4", "fp4_f16", "fp4_bf16"];

    public static TheoryData<string, string> Weights =>
    [
        .. FourBitNames.Select(name => new TheoryDataRow<string, string>(FourBit, name)),
        new TheoryDataRow<string, string>(EightBit, "int8"),
    ];

    [Theory, MemberData(nameof(Weights))]
    public void Golden_values_of_the_codes(string file, string name) => Run(c =>
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        TensorSource source = c.Open(file);
        Assert.True(BitsAndBytes.Contains(source, name + ".weight"));
        QuantizedMatrix matrix = BitsAndBytes.Read(source, name + ".weight");
        Assert.Equal(c.Shape("out." + name), matrix.Shape);
        c.Check("out." + name, matrix.ToTensor(scope).ToDoubles());
        if (matrix.Kind != Quantization.Int8Rows)
        {
            Assert.Equal(c.Floats("out." + name), matrix.ToTensor(scope).ToArray());       // bit for bit
        }
        if (matrix.Nested is not null)
        {
            Assert.Equal(c.Floats($"out.{name}.absmax"), matrix.Scales);
        }
    });

    [Theory, MemberData(nameof(Weights))]
    public void Golden_codes_of_the_values(string file, string name) => Run(c =>
    {
        QuantizedMatrix want = BitsAndBytes.Read(c.Open(file), name + ".weight");
        QuantizedMatrix got = QuantizedMatrix.Quantize(c.Floats("in." + name), want.Shape, want.Kind, want.Kind == Quantization.Int8Rows ? 64 : want.BlockSize, want.Nested is not null, want.DType);
        Assert.Equal(want.Codes, got.Codes);
        Assert.Equal(want.Map, got.Map);
        Assert.Equal(want.Scales, got.Scales);
        Assert.Equal(want.Nested?.Codes, got.Nested?.Codes);
        Assert.Equal(want.Nested?.Scales, got.Nested?.Scales);
        Assert.Equal(want.Nested?.Map, got.Nested?.Map);
        Assert.Equal(want.Nested?.Offset, got.Nested?.Offset);
    });

    [Theory, InlineData(FourBit), InlineData(EightBit)]
    public void Golden_file_comes_back_byte_for_byte(string file) => Run(c =>
    {
        TensorSource source = c.Open(file);
        IEnumerable<string> names = source.Entries.Select(e => e.Name).Where(n => n.EndsWith(".weight", StringComparison.Ordinal));
        SafeTensorsFile.Save(At(file), names.SelectMany(n => BitsAndBytes.Write(n, BitsAndBytes.Read(source, n))), source.Metadata);
        Assert.Equal(File.ReadAllBytes(c.PathOf(file)), File.ReadAllBytes(At(file)));
    });

    [Theory]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 48, "dtype": "float32", "shape": [2, 64]}""", "block size is 48")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float64", "shape": [2, 64]}""", "dtype is 'float64', want float32, bfloat16, float16")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [2, 64]}""", "quant_type is 'fp4', want nf4 or fp4 as the key says")]
    [InlineData("w.quant_state.bitsandbytes__nf5", """{"quant_type": "nf5", "blocksize": 64, "dtype": "float32", "shape": [2, 64]}""", "quant_type is 'nf5', want nf4 or fp4")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 65]}""", "codes is 64 long, want 65")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2147483647, 2147483647]}""", "shape is [2147483647, 2147483647]")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, -64]}""", "shape is [2, -64], want two dimensions from 1 on")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 1e99, "dtype": "float32", "shape": [2, 64]}""", "cannot be read")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "dtype": "float32", "shape": [2, 64]}""", "cannot be read")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": null, "blocksize": 64, "dtype": "float32", "shape": [2, 64]}""", "quant_type is ''")]
    [InlineData("w.quant_state.bitsandbytes__nf4", "[1", "cannot be read")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 64], "nested_blocksize": 256}""", "cannot be read")]
    [InlineData("w.quant_state.bitsandbytes__nf4", """{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.5}""", "'w.absmax': it is F32[2], want U8")]
    [InlineData("w.other", "{}", "'w': it is U8[64, 1], want I8")]
    public void A_state_that_does_not_fit_is_refused(string key, string json, string says)
    {
        SafeTensorsFile.Save(At("w.safetensors"), Parts(key, json));
        using TensorSource source = TensorSource.Open(At("w.safetensors"));
        ModelFormatException error = GoldenFiles.Refused(At("w.safetensors"), () => BitsAndBytes.Read(source, "w"));
        Assert.Contains(says, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("w.absmax")]
    [InlineData("w.quant_map")]
    [InlineData("w.nested_absmax")]
    [InlineData("w.nested_quant_map")]
    public void A_missing_part_is_named(string part)
    {
        QuantizedMatrix matrix = QuantizedMatrix.Quantize(new float[128], [2, 64], Quantization.NF4, nested: true);
        SafeTensorsFile.Save(At("w.safetensors"), BitsAndBytes.Write("w", matrix).Where(t => t.Name != part));
        using TensorSource source = TensorSource.Open(At("w.safetensors"));
        Assert.Equal(part, GoldenFiles.Refused(At("w.safetensors"), () => BitsAndBytes.Read(source, "w")).Key);
    }

    [Fact]
    public void Bytes_of_another_order_are_refused()
    {
        QuantizedMatrix matrix = QuantizedMatrix.Quantize(new float[128], [2, 64], Quantization.Int8Rows);
        SafeTensorsFile.Save(At("w.safetensors"), [.. BitsAndBytes.Write("m.weight", matrix).Where(t => t.Name != "m.weight_format"), TensorData.Of("m.weight_format", [1], Encoding.ASCII.GetBytes("2"))]);
        using TensorSource source = TensorSource.Open(At("w.safetensors"));
        Assert.Contains("'m.weight_format': the weight's format is 50, want 0", GoldenFiles.Refused(At("w.safetensors"), () => BitsAndBytes.Read(source, "m.weight")).Message, StringComparison.Ordinal);
    }

    private static void Run(Action<GoldenCase> body) => Golden.Run("formats", "bitsandbytes", body);

    private static IEnumerable<TensorData> Parts(string key, string json)
    {
        byte[] state = Encoding.UTF8.GetBytes(json);
        return [TensorData.Of("w", [64, 1], new byte[64]), TensorData.Of("w.absmax", [2], new float[2]), TensorData.Of("w.quant_map", [16], new float[16]), TensorData.Of(key, [state.Length], state)];
    }
}
