namespace LowRank.Adapters;

/// <summary>How the samples of a calibration are weighed.</summary>
public enum MomentAverage
{
    /// <summary>As the official code accumulates: H ← H·N/(N + b) + XᵀX/N for each call of b samples, N of them in all, so that the last one weighs most.</summary>
    Official,
    /// <summary>1/N each.</summary>
    Mean,
}

/// <summary>What a layer's inputs x on calibration data come to (arXiv 2410.21271): H = Σ x·xᵀ over samples and tokens by <see cref="MomentAverage"/>, c their mean
/// squares, a their magnitudes. Products are float32 for float32 inputs, as in the official code; sums are float64.</summary>
/// <param name="inputs">Width of x.</param>
/// <param name="samples">N, the samples that there will be.</param>
/// <param name="average">Their weights in H.</param>
public sealed class InputMoments(int inputs, int samples, MomentAverage average)
{
    private readonly double[] second = new double[checked(inputs * inputs)], squares = new double[inputs], magnitudes = new double[inputs];

    /// <summary>Tokens seen.</summary>
    public long Tokens { get; private set; }

    /// <summary>H [inputs, inputs].</summary>
    public double[] Second => Checked(second);

    /// <summary>c [inputs]: the mean over samples of Σ x² over tokens.</summary>
    public double[] Squares => Checked(squares);

    /// <summary>a [inputs]: the sum over samples of the mean of |x| over tokens.</summary>
    public double[] Magnitudes => Checked(magnitudes);

    /// <summary>Adds a sample [tokens, inputs], or several [b, tokens, inputs]; a scope is open.</summary>
    /// <exception cref="ShapeException">x has another width, or no sample was announced.</exception>
    public void Add(Tensor x)
    {
        if (samples < 1 || x.Shape.Rank < 2 || x.Shape.Cols != inputs)
        {
            throw new ShapeException($"InputMoments: x is {x.Shape} of {samples} samples, want [tokens, {inputs}] of 1 or more");
        }
        int batch = x.Shape.Rank > 2 ? checked((int)(x.Shape.Count / x.Shape[-2] / inputs)) : 1, rows = checked((int)(x.Shape.Count / inputs));
        if (rows == 0)
        {
            return;
        }
        Tensor flat = x.Reshape([rows, inputs]);
        Tensor wide = flat.DType == flat.DType.ForParameters() ? flat : flat.ConvertTo(flat.DType.ForParameters(), flat.Device.Current!);
        double[] gram = new MatMul(TransposeA: true).Apply(wide, wide).ToDoubles(), values = wide.ToDoubles();
        double keep = average == MomentAverage.Official ? (double)samples / (samples + batch) : 1;
        for (int i = 0; i < second.Length; i++)
        {
            second[i] = (keep * second[i]) + (gram[i] / samples);
        }
        for (int i = 0; i < values.Length; i++)
        {
            squares[i % inputs] += values[i] * values[i] / samples;
            magnitudes[i % inputs] += Math.Abs(values[i]) * batch / rows;
        }
        Tokens += rows;
    }

    private double[] Checked(double[] sums) => Tokens > 0 ? sums : throw new NumericException("InputMoments: eora: no calibration data");
}
