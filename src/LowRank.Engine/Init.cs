namespace LowRank;

/// <summary>How a new parameter is filled. Values depend on the random stream and the shape only.</summary>
public abstract record Init
{
    /// <summary>All zeros.</summary>
    public static Init Zeros { get; } = new ConstantInit(0);

    /// <summary>All ones.</summary>
    public static Init Ones { get; } = new ConstantInit(1);

    /// <summary>Every element <paramref name="value"/>.</summary>
    public static Init Constant(double value) => new ConstantInit(value);

    /// <summary>Normal with mean 0.</summary>
    public static Init Normal(double std) => new NormalInit(std);

    /// <summary>Uniform on ±bound.</summary>
    public static Init Uniform(double bound) => new UniformInit(bound);

    /// <summary>Uniform on ±sqrt(6 / ((1+a²) fan_in)), fan_in = elements per first-dimension row; a = √5 gives ±1/sqrt(fan_in), as torch's layers and PEFT's A.</summary>
    public static Init KaimingUniform(double a) => new KaimingInit(a);

    /// <summary>Given values, row-major.</summary>
    public static Init Values(float[] values) => new ValuesInit(values);

    /// <summary>Fills <paramref name="to"/>, the elements of a tensor of <paramref name="shape"/>.</summary>
    public abstract void Fill(Rng rng, Shape shape, Span<float> to);

    /// <summary>A new tensor in <paramref name="store"/>.</summary>
    public Tensor Make(Scope store, Rng rng, Shape shape, DType type)
    {
        var values = new float[shape.Count];
        Fill(rng, shape, values);
        return store.Of(shape, values, type);
    }

    private sealed record ConstantInit(double Value) : Init
    {
        public override void Fill(Rng rng, Shape shape, Span<float> to) => to.Fill((float)Value);
    }

    private sealed record NormalInit(double Std) : Init
    {
        public override void Fill(Rng rng, Shape shape, Span<float> to) => rng.FillNormal(to, 0, (float)Std);
    }

    private sealed record UniformInit(double Bound) : Init
    {
        public override void Fill(Rng rng, Shape shape, Span<float> to) => rng.FillUniform(to, (float)-Bound, (float)Bound);
    }

    private sealed record KaimingInit(double A) : Init
    {
        public override void Fill(Rng rng, Shape shape, Span<float> to) =>
            new UniformInit(Math.Sqrt(6 / ((1 + (A * A)) * Math.Max(1, shape.Count / Math.Max(1, shape[0]))))).Fill(rng, shape, to);
    }

    private sealed record ValuesInit(float[] Given) : Init
    {
        public override void Fill(Rng rng, Shape shape, Span<float> to) => Given.CopyTo(to);
    }
}
