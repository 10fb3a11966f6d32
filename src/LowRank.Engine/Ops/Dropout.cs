namespace LowRank;

/// <summary>y = x·keep/(1-P), keep = Philox(Seed, Stream, index) ≥ P. No mask is stored: backward draws the same numbers again.</summary>
public sealed record Dropout(double P, ulong Seed, ulong Stream) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs) => P is >= 0 and < 1
        ? [inputs[0].Shape]
        : throw new ShapeException($"Dropout: P is {P}, want 0 or more and less than 1");

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Launch(inputs[0], outputs[0].Data, 0);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        Launch(dy, dx.Data, Grads.Place.Mask(dx));
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(10 * inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());

    private void Launch(Tensor x, nint y, uint add)
    {
        x.Device.RequireNotRecording($"{this}, whose replays would all drop the same elements,");
        x.Device.Launch(Kernels.Dropout, new DropoutArgs { X = x.Data, Y = y, Count = x.Shape.Count, Seed = Seed, Stream = Stream, P = P, DType = x.DType, Add = add });
    }
}
