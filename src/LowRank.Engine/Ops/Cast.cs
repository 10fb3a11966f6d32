namespace LowRank;

/// <summary>y = x in another floating-point type, rounded to nearest even; x → y of the same shape. The gradient is cast back.</summary>
public sealed record Cast(DType Type) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs) => !inputs[0].DType.IsFloat() ? throw Bad("x", inputs[0].DType, "a floating-point type")
        : !Type.IsFloat() ? throw Bad("Type", Type, "a floating-point type") : [inputs[0].Shape];

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => Type;

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Convert(inputs[0], outputs[0].Data, Type);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        Grads.Place dx = grads[0];
        if (Grads.Place.Mask(dx) == 0)
        {
            Convert(dy, dx.Data, x.DType);
            return;
        }
        using Scope scope = x.Device.NewStore();
        Tensor part = scope.New(x.Shape, x.DType);
        Convert(dy, part.Data, x.DType);
        dx.Accumulate(part);
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(0, inputs[0].Shape.Count * (inputs[0].DType.Size() + Type.Size()));

    private static void Convert(Tensor from, nint to, DType type) =>
        from.Device.Launch(Kernels.Convert, new ConvertArgs { X = from.Data, Y = to, Count = from.Shape.Count, From = from.DType, To = type });
}
