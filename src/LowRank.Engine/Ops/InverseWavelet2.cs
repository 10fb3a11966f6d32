namespace LowRank;

/// <summary>y = W + Scale·(the matrix of the wavelet coefficients c); c [count] in parameter precision and in the order of <see cref="WaveletLayout"/> for
/// [Rows, Cols], W [Rows, Cols] or absent → y like W. It is PyWavelets' waverec2, which of an odd matrix gives one row or column more: ask for that size
/// to have it. W is added in the last level, so a merge makes no pass of its own. The gradient is the exact transpose in every mode. Saves the
/// approximations between the levels.</summary>
public sealed record InverseWavelet2(Wavelet Wavelet, WaveletMode Mode, int Levels, int Rows, int Cols, double Scale = 1) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        WaveletLayout layout = Layout;
        Require("c", inputs[0], [layout.Count]);
        RequireParameter("c", inputs[0], TypeOf(0, inputs));
        if (inputs.Optional(1) is { } w)
        {
            Require("W", w, [Rows, Cols]);
            RequireRowMajor("W", w);
        }
        return layout.Levels == 1 ? [[Rows, Cols]] : [[Rows, Cols], [layout.ScratchCount]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => output == 0 ? (inputs.Optional(1) ?? inputs[0]).DType : inputs[0].DType;

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor c = inputs[0], y = outputs[0];
        Layout.Up(c.Device.Current!, c.Data, y.Data, y.DType, outputs.Optional(1)?.Data ?? 0, adjoint: false, Scale, inputs.Optional(1)?.Data ?? 0);
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (dc, dw) = (grads[0], grads[1]);
        if (dw.Wanted)
        {
            dw.Accumulate(dy);
        }
        if (dc.Wanted)
        {
            Layout.Down(dy.Device.Current!, dy.Data, dy.DType, dc.Data, outputs.Optional(1)?.Data ?? 0, adjoint: true, Scale, Grads.Place.Mask(dc) != 0);
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        Cost cost = Layout.Cost(TypeOf(0, inputs));
        return inputs.Optional(1) is { } w ? cost with { Bytes = cost.Bytes + (long)w.Bytes } : cost;
    }

    private WaveletLayout Layout => new(Wavelet, Mode, Levels, Rows, Cols);
}
