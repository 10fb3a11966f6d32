namespace LowRank;

/// <summary>Coefficients of one level become signals of twice the length: operands x_i [r_i, m] of the low band, or of the high one where bit i of
/// <paramref name="High"/> is set; y [Σ r_i, Samples] has under each other y_i[:, (2j+k-Shift) mod 2m] = Σ f[k]·x_i[:, j], f the synthesis filter of the
/// band, Samples at most 2m. With <paramref name="Down"/> it goes along columns: x_i [m, r_i] → y [Samples, Σ r_i], side by side. Orthonormal wavelets
/// only: the gradient is then the transform's own coefficients. A level of WaRA's factors (arXiv 2506.24092).</summary>
public sealed record WaveletLift(Wavelet Wavelet, int Shift, int Samples, uint High, bool Down = false) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        int half = Bands(inputs[0]), lines = 0;
        if (!Wavelet.IsOrthonormal)
        {
            throw Bad("wavelet", Wavelet, "an orthonormal one: haar, db, sym or coif");
        }
        if (inputs.Count > 32 || Samples < 1 || Samples > 2L * half)
        {
            throw Bad("x", inputs[0].Shape, $"up to 32 operands of {(Samples + 1) / 2} coefficients or more");
        }
        for (int i = 0; i < inputs.Count; i++)
        {
            Tensor x = inputs[i];
            if (x.Shape.Rank != 2 || Bands(x) != half || Lines(x) == 0)
            {
                throw Bad($"x{i}", x.Shape, Down ? $"[{half}, r]" : $"[r, {half}]");
            }
            if (x.DType != x.DType.ForParameters() || x.DType != inputs[0].DType)
            {
                throw Bad($"x{i}", x.DType, $"{inputs[0].DType.ForParameters()}");
            }
            lines += Lines(x);
        }
        return [Down ? [Samples, lines] : [lines, Samples]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        int before = 0;
        for (int i = 0; i < inputs.Count; i++)
        {
            Tensor x = inputs[i], y = outputs[0];
            x.Device.Launch(Kernels.WaveletUp, Args(x, i, x.Data, y, y.Data, before, adjoint: false));
            before += Lines(x);
        }
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        int before = 0;
        for (int i = 0; i < inputs.Count; i++)
        {
            Grads.Place dx = grads[i];
            if (dx.Wanted)
            {
                bool add = Grads.Place.Mask(dx) != 0;
                dy.Device.Launch(Kernels.WaveletDown, Args(inputs[i], i, dx.Data, dy, dy.Data, before, adjoint: true) with { Add = add ? 0b1111u : 0 });
            }
            before += Lines(inputs[i]);
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        long lines = Infer(inputs)[0].Count / Samples;
        return new(lines * Samples * Wavelet.Length, lines * (Samples + Bands(inputs[0])) * inputs[0].DType.Size());
    }

    /// <summary>Puts the tables that steps read into <paramref name="store"/>, which outlives them: no step sends them again, and steps can be recorded.</summary>
    /// <param name="store">Of the parameters.</param>
    /// <param name="bands">m: coefficients of the operands.</param>
    /// <param name="type">Of the operands.</param>
    public void Keep(Scope store, int bands, DType type)
    {
        foreach (bool adjoint in (ReadOnlySpan<bool>)[false, true])
        {
            WaveletAxis.Periodic(Wavelet, Shift, Samples, bands, adjoint).On(store, type);
        }
    }

    private int Bands(Tensor x) => x.Shape[Down ? 0 : -1];

    private int Lines(Tensor x) => x.Shape[Down ? -1 : 0];

    private WaveletArgs Args(Tensor x, int i, nint half, Tensor y, nint whole, int before, bool adjoint)
    {
        nint axis = WaveletAxis.Periodic(Wavelet, Shift, Samples, Bands(x), adjoint).On(y.Device.Current!, x.DType);
        bool high = ((High >> i) & 1) != 0;
        return new WaveletArgs
        {
            Rows = Down ? axis : 0,
            Cols = Down ? 0 : axis,
            X = whole + (nint)((Down ? before : (long)before * Samples) * x.DType.Size()),
            Ll = high ? 0 : half,
            Lh = high && !Down ? half : 0,
            Hl = high && Down ? half : 0,
            XRows = Down ? Samples : Lines(x),
            XCols = Down ? Lines(x) : Samples,
            BandRows = x.Shape[0],
            BandCols = x.Shape[1],
            Ldx = y.Shape[1],
            Ldb = x.Shape[1],
            Scale = 1,
            DType = x.DType,
        };
    }
}
