using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Quantised matrices beyond what their op rows hold: how far codes are from values, products as of the values spelled out, bad input.</summary>
public class QuantizationTests
{
    // Half the widest gap between neighbouring codes, as a share of the largest magnitude of a block
    public static TheoryData<Quantization, double> Kinds => new() { { Quantization.Int8Rows, 0.5 / 127 }, { Quantization.NF4, (1 - 0.6961928) / 2 }, { Quantization.FP4, (1 - 0.6666667) / 2 } };

    public static TheoryData<string, Quantization, DType> SpelledOut =>
    [
        .. from device in Devices.Present from kind in Enum.GetValues<Quantization>() from type in (DType[])[DType.F32, DType.BF16, DType.F16]
           select new TheoryDataRow<string, Quantization, DType>(device, kind, type),
    ];

    [Theory, MemberData(nameof(Kinds))]
    public void A_value_lies_within_half_a_gap_of_its_code(Quantization kind, double gap)
    {
        const int rows = 37, cols = 70;
        float[] values = Draw(rows * cols);
        values.AsSpan(0, 2 * cols).Clear();       // blocks and rows of zeros stay zeros
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        QuantizedMatrix matrix = QuantizedMatrix.Quantize(values, [rows, cols], kind);
        float[] back = matrix.ToTensor(scope).ToArray(), scales = matrix.Scales;
        for (int i = 0; i < values.Length; i++)
        {
            float largest = scales[i / matrix.BlockSize];
            Assert.True(Math.Abs(back[i] - values[i]) <= (gap + Close.Bound(DType.F32)) * largest, $"[{i}] {values[i]} became {back[i]} in a block of {largest}");
        }
        Assert.All(back[..(2 * cols)], v => Assert.Equal(0, v));
    }

    [Theory, InlineData(64, 256), InlineData(128, 320)]
    public void Nested_scales_take_a_quarter_of_the_bytes(int rows, int cols)
    {
        float[] values = Draw(rows * cols);
        QuantizedMatrix plain = QuantizedMatrix.Quantize(values, [rows, cols], Quantization.NF4), nested = QuantizedMatrix.Quantize(values, [rows, cols], Quantization.NF4, nested: true);
        Assert.True(plain.Codes.SequenceEqual(nested.Codes));
        double spread = plain.Scales.Max() - plain.Scales.Min();
        Assert.All(plain.Scales.Zip(nested.Scales), pair => Assert.InRange(Math.Abs(pair.First - pair.Second), 0, spread / 64));
        int blocks = rows * cols / 64;
        Assert.Equal((rows * cols / 2) + (4 * 16) + (4 * blocks), plain.Bytes);
        Assert.Equal((rows * cols / 2) + (4 * 16) + blocks + (4 * (256 + ((blocks + 255) / 256))), nested.Bytes);
    }

    [Theory, MemberData(nameof(SpelledOut))]
    public void Spelled_out_values_are_those_of_the_reference(string deviceName, Quantization kind, DType type)
    {
        using Device device = Devices.Open(deviceName), reference = Devices.Open("cpu");
        using Scope scope = device.BeginScope(), wide = reference.BeginScope();
        foreach (Shape shape in (Shape[])[[45, 96], [13, 17], [3, 1100]])
        {
            QuantizedMatrix matrix = QuantizedMatrix.Quantize(Draw((int)shape.Count), shape, kind, type: type);
            Tensor w = matrix.ToTensor(scope);
            double[] want = wide.Of(shape, matrix.ToTensor(wide).ConvertTo(DType.F64, wide).ToDoubles(), type).ToDoubles();
            Assert.Equal(want, w.ToDoubles());
            Assert.Equal(want, Packing.Unpack(w, scope).ToDoubles());
            Assert.Equal(want, w.CopyTo(scope).ToDoubles());
        }
        Assert.Empty(device.Fallbacks);
    }

    // More than the scratch holds at once: the parts must add up to the product with W spelled out and packed, bit for bit.
    [Theory, InlineData(DType.F32), InlineData(DType.BF16)]
    public void Large_products_have_the_bits_of_the_matrix_spelled_out(DType type)
    {
        const int tokens = 170, n = 2087, k = 2121, r = 3;
        using Device device = Device.Cpu();
        using Scope scope = device.NewStore();
        Tensor codes = QuantizedMatrix.Quantize(Draw(n * k), [n, k], Quantization.NF4).ToTensor(scope), values = Packing.Pack(codes.ConvertTo(type, scope), scope);
        Tensor x = scope.Of([tokens, k], Draw(tokens * k), type), a = scope.Of([r, k], Draw(r * k)), b = scope.Of([n, r], Draw(n * r)), dy = scope.Of([tokens, n], Draw(tokens * n), type);
        x.NeedsGradient = true;
        (double[] Y, double[] Dx) On(Tensor w)
        {
            using Tape tape = device.BeginTape();
            Tensor y = new LoraLinear(0.5).Apply(x, w, a, b);
            tape.Backward(y, dy);
            return (y.ToDoubles(), x.Gradient!.ToDoubles());
        }
        (double[] Y, double[] Dx) got = On(codes);
        x.ClearGradient();
        (double[] Y, double[] Dx) want = On(values);
        // A set without pairs multiplies exact values where the packed matrix is rounded to bf16.
        double bound = type == DType.BF16 && CpuDevice.Isa != "avx512bf16" ? Close.Bound(DType.BF16) : 0;
        Close.Check(got.Y, want.Y, bound, "y");
        Close.Check(got.Dx, want.Dx, bound, "dx");
    }

    // Blocks of 256 with the dynamic map of 256 values: what double quantisation does to scales.
    [Fact]
    public void Golden_blocks_of_bytes() => Golden.Run("formats", "bitsandbytes", c =>
    {
        Formats.TensorSource source = c.Open("blockwise8.safetensors");
        (byte[] codes, float[] scales) = Blocks.Quantize(c.Floats("in.blockwise8"), 256, Codebook.Dynamic8);
        Assert.Equal(source.ReadSingle("code"), Codebook.Dynamic8.Values);
        Assert.Equal(source.Bytes("q").ToArray(), codes);
        Assert.Equal(source.ReadSingle("absmax"), scales);
        Assert.Equal(c.Floats("out.blockwise8"), new NestedScales(codes, scales, Codebook.Dynamic8.Values, 256, 0).Expand());
    });

    [Fact]
    public void A_part_that_does_not_fit_is_named()
    {
        void Refused(string want, Func<QuantizedMatrix> make) => Assert.Equal($"QuantizedMatrix: {want}", Assert.Throws<ShapeException>(make).Message);
        float[] values = Draw(128), scales = [1, 1];
        byte[] codes = new byte[64];
        Refused("block size is 48, want a power of two from 32 to 4096", () => QuantizedMatrix.Quantize(values, [2, 64], Quantization.NF4, blockSize: 48));
        Refused("block size is 16, want a power of two from 32 to 4096", () => QuantizedMatrix.Of(Quantization.FP4, [2, 64], codes, scales, blockSize: 16));
        Refused("values is 128 for [2, 65], want two dimensions and as many values", () => QuantizedMatrix.Quantize(values, [2, 65], Quantization.NF4));
        Refused("type is F64, want F32, BF16 or F16", () => QuantizedMatrix.Quantize(values, [2, 64], Quantization.NF4, type: DType.F64));
        Refused("codes is 63 long, want 64", () => QuantizedMatrix.Of(Quantization.NF4, [2, 64], codes[1..], scales));
        Refused("codes is 64 long, want 128", () => QuantizedMatrix.Of(Quantization.Int8Rows, [2, 64], codes, scales));
        Refused("scales is 1 long, want 2", () => QuantizedMatrix.Of(Quantization.NF4, [2, 64], codes, [1]));
        Refused("map is 15 long, want 16", () => QuantizedMatrix.Of(Quantization.NF4, [2, 64], codes, scales, new float[15]));
        Refused("shape is [2, 8, 8], want two dimensions and 1 to 2147483591 elements", () => QuantizedMatrix.Of(Quantization.NF4, [2, 8, 8], codes, scales));
        Refused("nested scales is given for Int8Rows, want NF4 or FP4", () => QuantizedMatrix.Of(Quantization.Int8Rows, [2, 64], new byte[128], new NestedScales([0, 0], [1], new float[256], 256, 0)));
        Refused("map of the scales is 255 long, want 256", () => QuantizedMatrix.Of(Quantization.NF4, [2, 64], codes, new NestedScales([0, 0], [1], new float[255], 256, 0)));
        Refused("scales of the scales is 2 long, want 1", () => QuantizedMatrix.Of(Quantization.NF4, [2, 64], codes, new NestedScales([0, 0], [1, 1], new float[256], 256, 0)));
        values[5] = float.NaN;
        Assert.Equal("QuantizedMatrix: a value is NaN, want finite values", Assert.Throws<NumericException>(() => QuantizedMatrix.Quantize(values, [2, 64], Quantization.Int8Rows)).Message);
    }

    [Fact]
    public void A_quantised_operand_is_frozen_and_a_weight_only()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor w = QuantizedMatrix.Quantize(Draw(128), [2, 64], Quantization.NF4).ToTensor(scope), x = scope.NewZeros([3, 63], DType.F32);
        Assert.Equal("Linear: x is [3, 63], want [..., 64]", Assert.Throws<ShapeException>(() => new Linear().Apply(x, w)).Message);
        Assert.Equal("MatMul: b is F32[2, 64] in 4-bit codes, want a row-major tensor", Assert.Throws<ShapeException>(() => new MatMul().Apply(x, w)).Message);
        Assert.Equal("Tensor: F32[2, 64] in 4-bit codes cannot have a gradient, want a floating-point type that is not quantised", Assert.Throws<ShapeException>(() => w.NeedsGradient = true).Message);
        Assert.Throws<InvalidOperationException>(() => w.Set(new float[128]));
        Assert.Throws<InvalidOperationException>(() => w.Reshape([128]));
    }

    private static float[] Draw(int count)
    {
        var values = new float[count];
        new Rng(5).FillUniform(values, -1, 1);
        return values;
    }
}
