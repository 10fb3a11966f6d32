namespace LowRank;

/// <summary>All trainable parameters in one block for values and one for gradients, so that an optimiser step is one launch.
/// Each state of an optimiser (moments) is one more block of the same layout.</summary>
public sealed class ParameterPack : IDisposable
{
    private const int Align = 16;     // elements: every parameter starts on a cache line
    private readonly Scope store, gradients;
    private readonly SortedDictionary<string, Block> states = new(StringComparer.Ordinal);
    private readonly long[] starts;
    private readonly Tensor[] origins;
    private Scope?[]? alone;          // of every parameter that has a gradient, where each is freed by itself
    private int? moving;              // the one whose step that is

    /// <summary>Moves the parameters' values into a block; their tensors become views of it.</summary>
    /// <exception cref="ShapeException">There is none, two share a name, or types or devices are mixed.</exception>
    public ParameterPack(IReadOnlyList<Parameter> parameters)
    {
        if (parameters.Count == 0)
        {
            throw new ShapeException("ParameterPack: parameters is empty, want at least one trainable parameter");
        }
        Parameters = [.. parameters];
        Tensor first = parameters[0].Value;
        starts = new long[parameters.Count + 1];
        var names = new HashSet<string>(StringComparer.Ordinal);
        for (int i = 0; i < parameters.Count; i++)
        {
            Tensor value = parameters[i].Value;
            if (value.DType != first.DType || value.Device != first.Device || !names.Add(parameters[i].Name))
            {
                throw new ShapeException($"ParameterPack: {parameters[i].Name} is {value} on {value.Device.Name}, want a new name, {first.DType} and {first.Device.Name}");
            }
            starts[i + 1] = starts[i] + Padded(value.Shape);
        }
        origins = [.. Parameters.Select(p => p.Value)];
        (store, gradients) = (first.Device.NewStore(), first.Device.NewStore());
        Values = NewBlock(starts[^1]);
        Gradients = gradients.NewZeros(Values.Shape, first.DType);
        for (int i = 0; i < Parameters.Count; i++)
        {
            Tensor place = View(Values, starts[i], Parameters[i].Value.Shape);
            place.CopyFrom(Parameters[i].Value);
            Parameters[i].MoveTo(place, View(Gradients, starts[i], place.Shape));
        }
    }

    /// <summary>The parameters in their order.</summary>
    public IReadOnlyList<Parameter> Parameters { get; }

    /// <summary>All values [count], each parameter padded to 16 elements.</summary>
    public Tensor Values { get; }

    /// <summary>All gradients [count]; gone where parameters move one by one (<see cref="Optimizer.StepPerLayer"/>).</summary>
    public Tensor Gradients { get; }

    /// <summary>Elements that are trained, padding not counted.</summary>
    public long Count => Parameters.Sum(p => p.Value.Shape.Count);

    /// <summary>Names of the states made so far, in order.</summary>
    public IEnumerable<string> StateNames => states.Keys;

    /// <summary>A state block of the optimiser, zeros at first: [count], or as long as the parts that the optimiser names a shape for.</summary>
    public Tensor State(string name) => BlockOf(name).Values;

    /// <summary>The part of a state block that belongs to one parameter, in its shape there.</summary>
    /// <exception cref="ShapeException">The parameter is not in this pack or has no such state.</exception>
    public Tensor StateOf(string name, Parameter parameter)
    {
        int i = IndexOf(parameter);
        return View(State(name), StateStart(name, i), StateShape(name, parameter) ?? throw new ShapeException($"ParameterPack: {parameter.Name} has no {name}"));
    }

    /// <summary>Hands the values back to where they came from, so that a model outlives its optimiser.</summary>
    public void Dispose()
    {
        for (int i = 0; i < Parameters.Count && store.IsOpen; i++)
        {
            Parameters[i].MoveBack(View(Values, starts[i], Parameters[i].Value.Shape), origins[i]);
        }
        Array.ForEach(alone ?? [], own => own?.Dispose());
        gradients.Dispose();
        store.Dispose();
    }

    /// <summary>Runs of elements to update: trainable parameters that have a gradient, neighbours with equal hyper-parameters joined.</summary>
    /// <param name="weightDecay">Of parameters that name none.</param>
    /// <param name="paused">Steps that each parameter sat out so far.</param>
    internal Segment[] Segments(double weightDecay, ReadOnlySpan<long> paused)
    {
        List<Segment> runs = [];
        for (int i = 0; i < Parameters.Count; i++)
        {
            Parameter p = Parameters[i];
            if (!IsTrained(p))
            {
                continue;
            }
            var run = new Segment { Start = starts[i], State = starts[i], Count = starts[i + 1] - starts[i], Paused = paused[i], LrScale = p.LearningRateScale, WeightDecay = p.WeightDecay ?? weightDecay };
            if (runs.Count > 0 && runs[^1] is var last && last.Start + last.Count == run.Start && last.Paused == run.Paused && last.LrScale == run.LrScale && last.WeightDecay == run.WeightDecay)
            {
                (run.Start, run.State) = (last.Start, last.State);
                run.Count += last.Count;
                runs[^1] = run;
            }
            else
            {
                runs.Add(run);
            }
        }
        return [.. runs];
    }

    /// <summary>True where the next step moves the parameter.</summary>
    internal bool IsTrained(Parameter parameter) => !parameter.Frozen && parameter.Gradient is not null && (moving is not { } i || Parameters[i] == parameter);

    /// <summary>Address whose element <see cref="Start"/> is the first of the gradient of a parameter that moves.</summary>
    internal nint GradientData => moving is not { } i ? Gradients.Data : Parameters[i].Gradient!.Data - (nint)(starts[i] * Values.DType.Size());

    internal void ClearGradients()
    {
        for (int i = 0; i < Parameters.Count; i++)
        {
            Parameters[i].Value.ClearGradient();
            alone?[i]?.Dispose();
        }
    }

    /// <summary>Frees the block of gradients: each gets memory when a backward pass comes to it, and gives it back in <see cref="MoveAlone"/>.</summary>
    internal void FreeGradients(Func<int, LayerStep> layer)
    {
        alone = new Scope?[Parameters.Count];
        for (int i = 0; i < Parameters.Count; i++)
        {
            Parameters[i].Value.StepAlone(layer(i));
        }
        gradients.Dispose();
    }

    /// <summary>Memory for the gradient of parameter <paramref name="i"/>, its padding zeros as in a block.</summary>
    internal Tensor NewGradient(int i)
    {
        Scope own = alone![i] = Values.Device.NewStore();
        Shape shape = Parameters[i].Value.Shape;
        int padded = checked((int)Padded(shape)), count = (int)shape.Count;
        Tensor block = own.New([padded], Values.DType);
        block.Slice(count, padded - count).Fill(0);
        return View(block, 0, shape);
    }

    /// <summary>Does the step of one parameter and frees its gradient.</summary>
    internal void MoveAlone(int i, Action step)
    {
        moving = i;
        try
        {
            step();
        }
        finally
        {
            moving = null;
            Parameters[i].Value.ClearGradient();
            alone![i]!.Dispose();
        }
    }

    /// <summary>Memory beside the blocks that lives as long as they do.</summary>
    public Scope Store => store;

    /// <summary>Shape of a state of a parameter, or null; at first the parameter's own.</summary>
    internal Func<string, Parameter, Shape?> StateShape { get; init; } = (_, p) => p.Value.Shape;

    /// <summary>Type of a state, or null: that of the values.</summary>
    internal Func<string, DType?> StateType { get; init; } = _ => null;

    /// <summary>Where a parameter starts in the blocks of values and gradients, by its index.</summary>
    internal long Start(int i) => starts[i];

    /// <summary>Where a parameter's part of a state block starts, by its index.</summary>
    internal long StateStart(string name, int i) => BlockOf(name).Starts[i];

    private Block BlockOf(string name)
    {
        if (!states.TryGetValue(name, out Block? state))
        {
            Values.Device.RequireNotRecording($"new optimiser state ({name})");
            var places = new long[starts.Length];
            for (int i = 0; i < Parameters.Count; i++)
            {
                places[i + 1] = places[i] + (StateShape(name, Parameters[i]) is { } shape ? Padded(shape) : 0);
            }
            states.Add(name, state = new Block(NewBlock(places[^1], StateType(name)), places));
        }
        return state;
    }

    private int IndexOf(Parameter parameter)
    {
        for (int i = 0; i < Parameters.Count; i++)
        {
            if (Parameters[i] == parameter)
            {
                return i;
            }
        }
        throw new ShapeException($"ParameterPack: {parameter.Name} is not in this pack");
    }

    private Tensor NewBlock(long count, DType? type = null) => store.NewZeros([checked((int)count)], type ?? Parameters[0].Value.DType);

    private static long Padded(Shape shape) => (shape.Count + Align - 1) / Align * Align;

    private static Tensor View(Tensor block, long start, Shape shape) => block.Slice(checked((int)start), checked((int)shape.Count)).Detached(shape);

    /// <summary>A state of all parameters and where each one's part starts.</summary>
    private sealed record Block(Tensor Values, long[] Starts);
}
