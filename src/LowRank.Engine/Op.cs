namespace LowRank;

/// <summary>What an op costs: the roofline of a bench row. <paramref name="Flops"/> counts a multiply-add as two; <paramref name="Bytes"/> is the least traffic.</summary>
public readonly record struct Cost(long Flops, long Bytes);

/// <summary>A differentiable function. The record's fields are its attributes; equality and ToString come with it. The first output is the
/// differentiable one, the others are saved values. Its float64 specification is the op run on F64 tensors, where every kernel is its reference.</summary>
public abstract record Op
{
    /// <summary>Checks operands and returns the shapes of the outputs.</summary>
    /// <exception cref="ShapeException">An operand does not fit: names it, what it is and what is wanted.</exception>
    public abstract Shape[] Infer(Inputs inputs);

    /// <summary>Launches the forward kernels.</summary>
    public abstract void Run(Inputs inputs, Inputs outputs);

    /// <summary>Launches the backward kernels: given dy = dL/d(output 0), writes or adds the gradients that are wanted.</summary>
    public abstract void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads);

    /// <summary>FLOPs and least bytes of the forward pass.</summary>
    public abstract Cost Cost(Inputs inputs);

    /// <summary>Type of an output: the first input's for the result, parameter precision for what is saved.</summary>
    public virtual DType TypeOf(int output, Inputs inputs) => output == 0 ? inputs[0].DType : inputs[0].DType.ForParameters();

    /// <summary>Runs the op in the device's current scope, and records it where that is a tape and an input needs a gradient.
    /// Optional inputs may be null.</summary>
    /// <exception cref="ShapeException">As <see cref="Infer"/>; or two devices are mixed.</exception>
    /// <exception cref="InvalidOperationException">No scope or tape is open.</exception>
    public Tensor Apply(params ReadOnlySpan<Tensor?> inputs) => ApplyAll(inputs)[0];

    /// <summary>As <see cref="Apply"/>, returning the saved outputs too.</summary>
    public Tensor[] ApplyAll(params ReadOnlySpan<Tensor?> inputs)
    {
        var operands = new Inputs(inputs);
        Device device = operands[0].Device;
        bool needsGradient = false;
        foreach (Tensor? t in inputs)
        {
            if (t is not null)
            {
                if (t.Device != device)
                {
                    throw new ShapeException($"{GetType().Name}: operands are on {device.Name} and {t.Device.Name}, want one device");
                }
                needsGradient |= t.NeedsGradient;
            }
        }
        Scope scope = device.Current ?? throw new InvalidOperationException($"{GetType().Name}: no scope is open; call BeginScope or BeginTape first");
        Shape[] shapes = Infer(operands);
        var outputs = new Tensor[shapes.Length];
        for (int i = 0; i < outputs.Length; i++)
        {
            outputs[i] = scope.New(shapes[i], TypeOf(i, operands));
        }
        Run(operands, outputs);
        if (device.CheckFinite)
        {
            RequireFinite(outputs[0]);
        }
        if (needsGradient && scope is Tape tape)
        {
            tape.Record(this, inputs.ToArray(), outputs);
        }
        return outputs;
    }

    /// <summary>The error for an operand that does not fit.</summary>
    protected ShapeException Bad(string operand, object got, string want) => new($"{GetType().Name}: {operand} is {got}, want {want}");

    /// <summary>Throws unless the operand has the given shape.</summary>
    protected void Require(string operand, Tensor? tensor, Shape want)
    {
        if (tensor is not null && tensor.Shape != want)
        {
            throw Bad(operand, tensor.Shape, want.ToString());
        }
    }

    /// <summary>Throws unless the operand is a floating-point tensor of the type wanted beside these activations: parameter precision.</summary>
    protected void RequireParameter(string operand, Tensor? tensor, DType activations)
    {
        if (tensor is not null && tensor.DType != activations.ForParameters())
        {
            throw Bad(operand, tensor.DType, $"{activations.ForParameters()} beside {activations} activations");
        }
    }

    /// <summary>Throws unless the operand is a matrix; returns its rows and columns.</summary>
    protected (int Rows, int Cols) RequireMatrix(string operand, Tensor tensor) =>
        tensor.Shape.Rank == 2 ? (tensor.Shape[0], tensor.Shape[1]) : throw Bad(operand, tensor.Shape, "two dimensions");

    /// <summary>Throws unless the operand is row-major, not packed for the matrix kernels.</summary>
    protected void RequireRowMajor(string operand, Tensor tensor)
    {
        if (tensor.Layout != Layout.Rows)
        {
            throw Bad(operand, tensor.IsQuantized ? tensor : tensor + " packed in panels", "a row-major tensor");
        }
    }

    /// <summary>Throws unless a weight's type goes with the activations': F64 with F64 only; a trained one in parameter precision. A quantised one goes with any.</summary>
    protected void RequireWeightType(Tensor x, Tensor w)
    {
        if (!x.DType.IsFloat() || (!w.IsQuantized && (x.DType == DType.F64) != (w.DType == DType.F64)) || !w.DType.IsFloat())
        {
            throw Bad("W", w.DType, $"a floating-point type that goes with {x.DType} activations");
        }
        if (w.NeedsGradient)
        {
            RequireParameter("W", w, x.DType);
        }
    }

    /// <summary>Throws unless the operand is I32 with every value in 0 .. limit-1, or the one allowed beside.</summary>
    protected void RequireIds(string operand, Tensor ids, int limit, int? allow)
    {
        if (ids.DType != DType.I32)
        {
            throw Bad(operand, ids, "I32");
        }
        foreach (int id in ids.Device.Recording is null ? ids.ToInts() : [])     // a graph sees other ids in each replay
        {
            if ((uint)id >= (uint)limit && id != allow)
            {
                throw Bad(operand, $"{id}", $"0 .. {limit - 1}");
            }
        }
    }

    /// <summary>Throws unless the operand holds that many I32 places. That they are sorted, distinct and below <paramref name="limit"/> is for those who make them.</summary>
    private protected void RequirePlaces(string operand, Tensor places, int count, long limit)
    {
        if (places.DType != DType.I32 || places.Shape.Rank != 1 || places.Shape[0] != count)
        {
            throw Bad(operand, places, $"I32[{count}]");
        }
        if (count > limit || limit > int.MaxValue)
        {
            throw Bad(operand, places, $"places in a matrix of {limit} elements, of which there may be up to {int.MaxValue}");
        }
    }

    /// <summary>Throws unless the options of a cross-entropy are in range.</summary>
    private protected void RequireOptions(double smoothing, double softCap)
    {
        if (smoothing is not (>= 0 and < 1))
        {
            throw Bad("Smoothing", smoothing, "0 or more and less than 1");
        }
        if (!(softCap >= 0))
        {
            throw Bad("SoftCap", softCap, "0 (no cap) or more");
        }
    }

    private void RequireFinite(Tensor y)
    {
        if (y.DType.IsFloat() && y.ToDoubles().AsSpan().ContainsAnyExceptFinite())
        {
            throw new ShapeException($"{this}: result {y} is not finite, want finite values");
        }
    }
}

internal static class FiniteSpans
{
    public static bool ContainsAnyExceptFinite(this Span<double> values)
    {
        foreach (double v in values)
        {
            if (!double.IsFinite(v))
            {
                return true;
            }
        }
        return false;
    }
}
