namespace LowRank;

/// <summary>c = the coefficients of <paramref name="Levels"/> levels of the two-dimensional wavelet transform of x [rows, cols]; c [count] in parameter
/// precision, in the order of <see cref="WaveletLayout"/>. Each level filters and halves along both axes and goes on with LL; it is PyWavelets' wavedec2.
/// The gradient is the exact transpose in every mode. Saves the approximations between the levels.</summary>
public sealed record Wavelet2(Wavelet Wavelet, WaveletMode Mode, int Levels) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        WaveletLayout layout = Layout(inputs[0]);
        return layout.Levels == 1 ? [[layout.Count]] : [[layout.Count], [layout.ScratchCount]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => inputs[0].DType.ForParameters();

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor x = inputs[0];
        Layout(x).Down(x.Device.Current!, x.Data, x.DType, outputs[0].Data, outputs.Optional(1)?.Data ?? 0, adjoint: false);
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        (Tensor x, Grads.Place dx) = (inputs[0], grads[0]);
        Layout(x).Up(x.Device.Current!, dy.Data, dx.Data, x.DType, outputs.Optional(1)?.Data ?? 0, adjoint: true, add: Grads.Place.Mask(dx) != 0);
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => Layout(inputs[0]).Cost(inputs[0].DType);

    private WaveletLayout Layout(Tensor x)
    {
        if (x.Shape.Rank != 2 || x.Shape.Count == 0)
        {
            throw Bad("x", x.Shape, "[rows, cols]");
        }
        RequireRowMajor("x", x);
        return new(Wavelet, Mode, Levels, x.Shape[0], x.Shape[1]);
    }
}
