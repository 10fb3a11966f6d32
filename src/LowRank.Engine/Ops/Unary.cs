namespace LowRank;

/// <summary>Base of the elementwise functions y = f(x) with dx = dy·f'(x).</summary>
public abstract record Unary : Op
{
    private protected abstract Kernel<UnaryArgs> Forward { get; }

    private protected abstract Kernel<UnaryGradArgs> Gradient { get; }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs) => inputs[0].DType.IsFloat() ? [inputs[0].Shape] : throw Bad("x", inputs[0].DType, "a floating-point type");

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) =>
        inputs[0].Device.Launch(Forward, new UnaryArgs { X = inputs[0].Data, Y = outputs[0].Data, Count = inputs[0].Shape.Count, DType = inputs[0].DType });

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        Grads.Place dx = grads[0];
        x.Device.Launch(Gradient, new UnaryGradArgs { X = x.Data, Dy = dy.Data, Dx = dx.Data, Count = x.Shape.Count, DType = x.DType, Add = Grads.Place.Mask(dx) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(10 * inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());
}
