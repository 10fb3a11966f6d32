namespace LowRank;

/// <summary>Base of every optimiser: packs the parameters, clips by the global norm, keeps named state that can be saved and restored.</summary>
public abstract partial class Optimizer : IDisposable
{
    private const string PausedState = "paused";
    private Tensor norm2;                  // [1]; of every parameter where they move one by one
    private readonly long[] paused;        // steps that each parameter sat out: frozen, or without a gradient
    private readonly StepTable<Segment> table;
    private double? norm = double.NaN;     // null: still to be read from the device

    /// <summary>Packs the parameters; their values move into one block.</summary>
    /// <exception cref="ShapeException">As <see cref="ParameterPack(IReadOnlyList{Parameter})"/>.</exception>
    protected Optimizer(IReadOnlyList<Parameter> parameters)
    {
        Pack = new ParameterPack(parameters) { StateShape = SavedShape, StateType = StateType };
        paused = new long[Pack.Parameters.Count];
        table = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
        norm2 = Pack.Store.NewZeros([1], DType.F64);
    }

    /// <summary>The block of values, gradients and state.</summary>
    public ParameterPack Pack { get; }

    /// <summary>Learning rate of the next step; a schedule sets it.</summary>
    public double LearningRate { get; set; } = 1e-3;

    /// <summary>Weight decay of parameters that name none of their own.</summary>
    public double WeightDecay { get; set; }

    /// <summary>Gradients are scaled by min(1, this / (norm + 1e-6)) over all trainables before the update; 0 switches clipping off.</summary>
    public double MaxGradientNorm { get; set; }

    /// <summary>Steps taken.</summary>
    public long Steps { get; private set; }

    /// <summary>Global gradient norm before clipping of the last step; NaN where none was taken. Reading it waits for the device.</summary>
    public double GradientNorm => norm ??= Math.Sqrt(norm2.ToDoubles().Sum());

    /// <summary>Global norm over the gradients that the next step would use.</summary>
    /// <exception cref="InvalidOperationException">Parameters move one by one.</exception>
    public double MeasureGradientNorm()
    {
        if (PerLayer)
        {
            throw new InvalidOperationException($"{GetType().Name}: MeasureGradientNorm is called, want parameters that do not move per layer: there are never all gradients");
        }
        Segment[] segments = Pack.Segments(WeightDecay, paused);
        _ = GradientNorm;     // its place is about to be written
        Measure(table.Of(segments), segments.Length);
        return Math.Sqrt(norm2.Item());
    }

    /// <summary>Updates the parameters from their gradients and forgets the gradients. Frozen parameters and those without a gradient stay as they are; in
    /// the bias correction of <see cref="AdamW"/> the step does not count for them, as in torch.</summary>
    /// <exception cref="InvalidOperationException">No parameter has a gradient.</exception>
    public void Step()
    {
        if (PerLayer)
        {
            EndStep();
            return;
        }
        Segment[] segments = Pack.Segments(WeightDecay, paused);
        if (segments.Length == 0)
        {
            throw new InvalidOperationException("Optimizer: no parameter has a gradient; run Backward first");
        }
        nint rows = table.Of(segments);
        Measure(rows, segments.Length);
        nint progress = 0;
        int[] idle = [.. Enumerable.Range(0, paused.Length).Where(i => !Pack.IsTrained(Pack.Parameters[i]))];
        if (Pack.Values.Device.Recording is { } graph)
        {
            Tensor memory = Pack.Store.New([2], DType.F64);     // what a recorded step reads: the learning rate and the number of the step
            progress = memory.Data;
            graph.BeforeReplay(() =>
            {
                Count(idle);
                memory.Set([LearningRate, Steps]);
            });
        }
        else
        {
            Count(idle);
        }
        Update(new StepData(rows, segments.Length, norm2, progress));
        Pack.ClearGradients();
    }

    /// <summary>Forgets the gradients without a step.</summary>
    public void ClearGradients() => Pack.ClearGradients();

    /// <summary>Shape of a state of a parameter; null where the parameter has none of that name.</summary>
    public virtual Shape? StateShape(string state, Parameter parameter) => parameter.Value.Shape;

    /// <summary>Type of a state; null: that of the parameters.</summary>
    public virtual DType? StateType(string state) => null;

    /// <summary>Shape in which a state of a parameter is saved: <see cref="StateShape"/>, or one number for the steps that it sat out.</summary>
    public Shape? SavedShape(string state, Parameter parameter) => state == PausedState ? [1] : StateShape(state, parameter);

    /// <summary>Every state tensor by name: <c>{state}.{parameter}</c> in the state's shape.</summary>
    public IEnumerable<(string Name, Tensor Value)> State()
    {
        if (CountsPauses && paused.Any(count => count > 0))
        {
            _ = Pack.State(PausedState);
        }
        if (Pack.StateNames.Contains(PausedState))
        {
            for (int i = 0; i < paused.Length; i++)
            {
                Pack.StateOf(PausedState, Pack.Parameters[i]).Set([(double)paused[i]]);
            }
        }
        return from state in Pack.StateNames.ToArray() from p in Pack.Parameters where SavedShape(state, p) is not null select ($"{state}.{p.Name}", Pack.StateOf(state, p));
    }

    /// <summary>Continues at a saved place: sets the number of steps and lets <paramref name="read"/> fill each state tensor.</summary>
    public void Restore(long steps, IEnumerable<string> states, Action<string, Tensor> read)
    {
        Steps = steps;
        Array.Clear(moved);
        foreach (string state in states)
        {
            Pack.State(state);
        }
        foreach ((string name, Tensor value) in State())
        {
            read(name, value);
        }
        bool counted = Pack.StateNames.Contains(PausedState);
        for (int i = 0; i < paused.Length; i++)
        {
            paused[i] = counted ? (long)Pack.StateOf(PausedState, Pack.Parameters[i]).Item() : 0;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Pack.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Steps of parameter <paramref name="i"/> that it sat out.</summary>
    private protected long PausedOf(int i) => paused[i];

    /// <summary>True where the update that runs moves the parameter.</summary>
    protected bool Moves(Parameter parameter) => Pack.IsTrained(parameter);

    /// <summary>True where an update depends on how many steps a parameter has taken itself: what it sat out is saved then.</summary>
    private protected virtual bool CountsPauses => false;

    /// <summary>Moves the parameters of <see cref="Pack"/>; <see cref="Steps"/> counts this step already.</summary>
    protected abstract void Update(StepData step);

    /// <summary>Throws where a setting is out of range.</summary>
    private protected void Require(bool wrong, string what)
    {
        if (wrong)
        {
            throw new ShapeException($"{GetType().Name}: {what}");
        }
    }

    /// <summary>The same for the numbers of Adam.</summary>
    private protected void RequireAdam(double beta1, double beta2, double epsilon)
    {
        Require(!(LearningRate >= 0), $"LearningRate is {LearningRate}, want 0 or more");
        Require(!(beta1 is >= 0 and < 1 && beta2 is >= 0 and < 1), $"Beta1 is {beta1} and Beta2 {beta2}, want 0 or more and less than 1");
        Require(!(epsilon >= 0), $"Epsilon is {epsilon}, want 0 or more");
    }

    private void Count(int[] idle)
    {
        Steps++;
        norm = null;
        Array.ForEach(idle, i => paused[i]++);
    }

    private void Measure(nint rows, int count, int place = 0) => Pack.Values.Device.Launch(
        Kernels.SquareSum,
        new SquareSumArgs { G = Pack.GradientData, Segments = rows, Norm2 = norm2.Data + (place * sizeof(double)), SegmentCount = count, DType = Pack.Values.DType });

    /// <summary>What an update reads beside the pack: the table of segments and the squared gradient norm, both in device memory.</summary>
    protected sealed class StepData
    {
        internal StepData(nint segments, int count, Tensor norm2, nint progress) => (Segments, SegmentCount, Norm2, Progress) = (segments, count, norm2, progress);

        internal nint Segments { get; }

        internal int SegmentCount { get; }

        internal Tensor Norm2 { get; }

        internal nint Progress { get; }
    }
}
