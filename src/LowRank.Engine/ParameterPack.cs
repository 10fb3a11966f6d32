namespace LowRank;

/// <summary>All trainable parameters in one block for values and one for gradients, so that an optimiser step is one launch.
/// Each state of an optimiser (moments) is one more block of the same layout.</summary>
public sealed class ParameterPack : IDisposable
{
    private const int Align = 16;     // elements: every parameter starts on a cache line
    private readonly Scope store;
    private readonly SortedDictionary<string, Tensor> states = new(StringComparer.Ordinal);
    private readonly long[] starts;
    private readonly Tensor[] origins;

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
            starts[i + 1] = starts[i] + ((value.Shape.Count + Align - 1) / Align * Align);
        }
        origins = [.. Parameters.Select(p => p.Value)];
        store = first.Device.NewStore();
        Values = Block();
        Gradients = Block();
        for (int i = 0; i < Parameters.Count; i++)
        {
            Tensor place = View(Values, i);
            place.CopyFrom(Parameters[i].Value);
            Parameters[i].MoveTo(place, View(Gradients, i));
        }
    }

    /// <summary>The parameters in their order.</summary>
    public IReadOnlyList<Parameter> Parameters { get; }

    /// <summary>All values [count], each parameter padded to 16 elements.</summary>
    public Tensor Values { get; }

    /// <summary>All gradients [count].</summary>
    public Tensor Gradients { get; }

    /// <summary>Elements that are trained, padding not counted.</summary>
    public long Count => Parameters.Sum(p => p.Value.Shape.Count);

    /// <summary>Names of the states made so far, in order.</summary>
    public IEnumerable<string> StateNames => states.Keys;

    /// <summary>A state block [count] of the optimiser, zeros at first.</summary>
    public Tensor State(string name)
    {
        if (!states.TryGetValue(name, out Tensor? state))
        {
            Values.Device.RequireNotRecording($"new optimiser state ({name})");
            states.Add(name, state = Block());
        }
        return state;
    }

    /// <summary>The part of a state block that belongs to one parameter, in the parameter's shape.</summary>
    /// <exception cref="ShapeException">The parameter is not in this pack.</exception>
    public Tensor StateOf(string name, Parameter parameter)
    {
        for (int i = 0; i < Parameters.Count; i++)
        {
            if (Parameters[i] == parameter)
            {
                return View(State(name), i);
            }
        }
        throw new ShapeException($"ParameterPack: {parameter.Name} is not in this pack");
    }

    /// <summary>Hands the values back to where they came from, so that a model outlives its optimiser.</summary>
    public void Dispose()
    {
        for (int i = 0; i < Parameters.Count && store.IsOpen; i++)
        {
            Parameters[i].MoveBack(View(Values, i), origins[i]);
        }
        store.Dispose();
    }

    /// <summary>Runs of elements to update: trainable parameters that have a gradient, neighbours with equal hyper-parameters joined.</summary>
    internal Segment[] Segments(double weightDecay)
    {
        List<Segment> runs = [];
        for (int i = 0; i < Parameters.Count; i++)
        {
            Parameter p = Parameters[i];
            if (p.Frozen || p.Gradient is null)
            {
                continue;
            }
            var run = new Segment { Start = starts[i], Count = starts[i + 1] - starts[i], LrScale = p.LearningRateScale, WeightDecay = p.WeightDecay ?? weightDecay };
            if (runs.Count > 0 && runs[^1] is var last && last.Start + last.Count == run.Start && last.LrScale == run.LrScale && last.WeightDecay == run.WeightDecay)
            {
                run.Start = last.Start;
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

    internal void ClearGradients()
    {
        foreach (Parameter p in Parameters)
        {
            p.Value.ClearGradient();
        }
    }

    /// <summary>Memory beside the blocks that lives as long as they do.</summary>
    internal Scope Store => store;

    private Tensor Block() => store.NewZeros([checked((int)starts[^1])], Parameters[0].Value.DType);

    private Tensor View(Tensor block, int i) => block.Slice(checked((int)starts[i]), checked((int)Parameters[i].Value.Shape.Count)).Detached(Parameters[i].Value.Shape);
}
