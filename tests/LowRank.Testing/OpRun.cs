namespace LowRank.Testing;

/// <summary>Operands of a row as float64 values, and one run of the row on a device: result and gradients as float64.</summary>
public sealed class OpRun
{
    private readonly OpRow row;
    private readonly QuantizedMatrix?[] quantized;

    /// <summary>Draws the operands; <paramref name="type"/> rounds them, so that float64 sees the same rounded inputs.</summary>
    public OpRun(OpRow row, DType type, ulong seed = 1)
    {
        this.row = row;
        var rng = new Rng(seed);
        Values = [.. row.Inputs.Select((operand, i) => Draw(operand, rng.Fork($"{i}"), TypeOf(operand, type)))];
        Upstream = [];
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        quantized = [.. row.Inputs.Select((o, i) => o.Role == Role.Quantized ? QuantizedMatrix.Quantize([.. Values[i].Select(v => (float)v)], o.Shape, o.Kind, o.Limit) : null)];
        for (int i = 0; i < Values.Length; i++)
        {
            Values[i] = quantized[i]?.ToTensor(scope).ConvertTo(DType.F64, scope).ToDoubles() ?? Values[i];
        }
        Tensor y = row.Op.Apply(Operands(scope, DType.F64));
        Upstream = Draw(new Operand(y.Shape), rng.Fork("dy"), row.Op.TypeOf(0, Operands(scope, type)) is var t && t.IsFloat() ? t : DType.F32);
    }

    /// <summary>Values by operand; empty where absent.</summary>
    public double[][] Values { get; }

    /// <summary>Upstream gradient dy.</summary>
    public double[] Upstream { get; }

    /// <summary>Positions that take a gradient.</summary>
    public IEnumerable<int> Differentiable => Enumerable.Range(0, row.Inputs.Length).Where(i => row.Inputs[i].Role is Role.Activation or Role.Parameter or Role.Positive);

    /// <summary>Result and gradients by operand (null where none) on a device in a type, backward run <paramref name="times"/> times.</summary>
    public (double[] Y, double[]?[] Gradients) On(Device device, DType type, int times = 1)
    {
        using Scope data = device.NewStore();
        Tensor?[] operands = Operands(data, type);
        foreach (int i in Differentiable)
        {
            operands[i]!.NeedsGradient = true;
        }
        double[] y = [];
        for (int run = 0; run < times; run++)
        {
            using Tape tape = device.BeginTape();
            Tensor result = row.Op.Apply(operands);
            y = result.ToDoubles();
            tape.Backward(result, tape.Of(result.Shape, Upstream, result.DType));
        }
        return (y, [.. operands.Select(t => t?.Gradient?.ToDoubles())]);
    }

    /// <summary>Σ y ⊙ dy in float64 with one operand moved by eps·v: what a central difference needs.</summary>
    public double Loss(Device device, int moved, double[] v, double eps)
    {
        double[] keep = Values[moved];
        Values[moved] = [.. keep.Select((x, i) => x + (eps * v[i]))];
        try
        {
            using Scope scope = device.BeginScope();
            double[] y = row.Op.Apply(Operands(scope, DType.F64)).ToDoubles();
            return y.Zip(Upstream, (a, b) => a * b).Sum();
        }
        finally
        {
            Values[moved] = keep;
        }
    }

    /// <summary>A direction of the same size as an operand.</summary>
    public double[] Direction(int operand) => Draw(row.Inputs[operand] with { Role = Role.Activation }, new Rng(99), DType.F64);

    private static DType TypeOf(Operand operand, DType activations) => operand.Role switch
    {
        Role.Parameter or Role.Constant => activations.ForParameters(),
        Role.Ids or Role.Places => DType.I32,
        Role.Mask => DType.U8,
        _ => activations,
    };

    private Tensor?[] Operands(Scope scope, DType type)
    {
        var operands = new Tensor?[row.Inputs.Length];
        for (int i = 0; i < operands.Length; i++)
        {
            Operand o = row.Inputs[i];
            if (o.Role != Role.None)
            {
                operands[i] = quantized[i]?.ToTensor(scope) ?? scope.Of(o.Shape, Values[i], TypeOf(o, type));
                if (o.Role == Role.Packed)
                {
                    operands[i] = Packing.Pack(operands[i]!, scope);
                }
            }
        }
        if (row.Op is DoraScale)
        {
            DoraScale.Norms(operands[1]!, null, null, 0, operands[4]!, scope.New(operands[4]!.Shape, operands[4]!.DType));
        }
        return operands;
    }

    private static double[] Draw(Operand operand, Rng rng, DType type)
    {
        if (operand.Role == Role.None)
        {
            return [];
        }
        var raw = new float[operand.Shape.Count];
        rng.FillUniform(raw, -1, 1);
        var values = new double[raw.Length];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = operand.Role switch
            {
                Role.Places => (i * (operand.Limit / raw.Length)) + Math.Floor((raw[i] + 1) / 2 * (operand.Limit / raw.Length)),
                Role.Positive => Rounded(raw[i] + 1.25f),
                Role.Ids => (int)((raw[i] + 1) / 2 * operand.Limit),
                Role.Mask => i % operand.Shape.Cols == 0 || raw[i] > -0.5f ? 1 : 0,
                _ => Rounded(raw[i]),
            };
        }
        return values;

        double Rounded(float value) => type == DType.BF16 ? Numbers.FromBFloat16(Numbers.ToBFloat16(value)) : type == DType.F16 ? (double)(Half)value : value;
    }
}
