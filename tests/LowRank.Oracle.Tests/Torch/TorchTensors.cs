using Torch = TorchSharp.torch;

namespace LowRank.Oracle;

/// <summary>Values between the engine's tensors and torch's.</summary>
public static class TorchTensors
{
    /// <summary>torch's name of a type.</summary>
    /// <exception cref="ArgumentOutOfRangeException">torch has none.</exception>
    public static Torch.ScalarType TypeOf(DType type) => type switch
    {
        DType.F64 => Torch.ScalarType.Float64,
        DType.F32 => Torch.ScalarType.Float32,
        DType.BF16 => Torch.ScalarType.BFloat16,
        DType.I32 => Torch.ScalarType.Int32,
        DType.U8 => Torch.ScalarType.Byte,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "no type of torch"),
    };

    /// <summary>A tensor of float64 values rounded to <paramref name="type"/>.</summary>
    public static Torch.Tensor Of(ReadOnlySpan<double> values, Shape shape, DType type)
    {
        using Torch.Tensor wide = Torch.tensor(values.ToArray(), Sizes(shape));
        return wide.to(TypeOf(type)).DetachFromDisposeScope();
    }

    /// <summary>A tensor of float32 values rounded to <paramref name="type"/>.</summary>
    public static Torch.Tensor Of(float[] values, Shape shape, DType type)
    {
        Torch.Tensor wide = Torch.tensor(values, Sizes(shape));
        return wide.to(TypeOf(type)).DetachFromDisposeScope();
    }

    /// <summary>A copy of one of the engine's tensors.</summary>
    public static Torch.Tensor Of(Tensor tensor) => Of(tensor.ToDoubles(), tensor.Shape, tensor.DType);

    /// <summary>The values as float64, row-major.</summary>
    public static double[] Values(Torch.Tensor tensor)
    {
        using Torch.Tensor wide = tensor.detach().to(Torch.ScalarType.Float64).contiguous();
        return wide.data<double>().ToArray();
    }

    private static long[] Sizes(Shape shape) => [.. Enumerable.Range(0, shape.Rank).Select(i => (long)shape[i])];
}
