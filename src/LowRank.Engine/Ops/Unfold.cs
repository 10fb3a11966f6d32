namespace LowRank;

/// <summary>The patches a convolution reads, as rows: x [batch, c, h, w] → y [batch·oh·ow, c·KernelHeight·KernelWidth] with zeros outside the image,
/// oh = (h + 2·Padding - Dilation·(KernelHeight-1) - 1)/Stride + 1. A convolution is Linear on it; the gradient is its adjoint.</summary>
public sealed record Unfold(int KernelHeight, int KernelWidth, int Stride = 1, int Padding = 0, int Dilation = 1) : Op
{
    /// <summary>Output rows and columns for an image of the given size.</summary>
    /// <exception cref="ShapeException">The kernel does not fit.</exception>
    public (int Height, int Width) OutputSize(int height, int width)
    {
        int h = height + (2 * Padding) - (Dilation * (KernelHeight - 1)) - 1, w = width + (2 * Padding) - (Dilation * (KernelWidth - 1)) - 1;
        return KernelHeight > 0 && KernelWidth > 0 && Stride > 0 && Padding >= 0 && Dilation > 0 && h >= 0 && w >= 0
            ? ((h / Stride) + 1, (w / Stride) + 1)
            : throw Bad("x", $"an image of {height}x{width}", $"at least one patch of {KernelHeight}x{KernelWidth}, stride {Stride}, padding {Padding}, dilation {Dilation}");
    }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Shape x = inputs[0].Shape;
        if (x.Rank != 4)
        {
            throw Bad("x", x, "[batch, channels, height, width]");
        }
        (int oh, int ow) = OutputSize(x[2], x[3]);
        return [[checked(x[0] * oh * ow), checked(x[1] * KernelHeight * KernelWidth)]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor x = inputs[0];
        x.Device.Launch(Kernels.Unfold, Args(x) with { X = x.Data, Y = outputs[0].Data });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        dy.Device.Launch(Kernels.Fold, Args(inputs[0]) with { X = dy.Data, Y = dx.Data, Add = Grads.Place.Mask(dx) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(0, 2L * Infer(inputs)[0].Count * inputs[0].DType.Size());

    private UnfoldArgs Args(Tensor x)
    {
        (int oh, int ow) = OutputSize(x.Shape[2], x.Shape[3]);
        return new UnfoldArgs { Batch = x.Shape[0], Channels = x.Shape[1], Height = x.Shape[2], Width = x.Shape[3], KernelH = KernelHeight, KernelW = KernelWidth, Stride = Stride, Pad = Padding, Dilation = Dilation, OutH = oh, OutW = ow, DType = x.DType };
    }
}
