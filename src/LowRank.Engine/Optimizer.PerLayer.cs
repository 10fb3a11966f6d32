namespace LowRank;

public abstract partial class Optimizer
{
    private bool[] moved = [];      // in the step that is under way; empty: parameters move together

    /// <summary>True after <see cref="StepPerLayer"/>.</summary>
    public bool PerLayer { get; private set; }

    /// <summary>From now on a parameter moves within the backward pass, as soon as its gradient is complete, and the gradient's memory is free again: there is
    /// never more than that of a few layers (arXiv 2403.03507, section 4.3). Values and states have the bits that they have without it. A step is one backward
    /// pass and then <see cref="Step"/>, which counts it; settings are those at the backward pass. Where that throws, some parameters have moved.</summary>
    /// <exception cref="InvalidOperationException">The rule needs gradients of several parameters at a time.</exception>
    public void StepPerLayer()
    {
        if (WhyNotPerLayer is { } reason)
        {
            throw new InvalidOperationException($"{GetType().Name}: it cannot step per layer, since {reason}; want all gradients at once");
        }
        if (!PerLayer)
        {
            PerLayer = true;
            (moved, norm2) = (new bool[paused.Length], Pack.Store.NewZeros([paused.Length], DType.F64));
            Pack.FreeGradients(i => new LayerStep(() => Begin(i), () => End(i)));
        }
    }

    /// <summary>Why parameters cannot move one by one; null: they can.</summary>
    protected virtual string? WhyNotPerLayer => null;

    private Tensor Begin(int i)
    {
        Pack.Values.Device.RequireNotRecording("a step per layer");
        Require(MaxGradientNorm != 0, $"MaxGradientNorm is {MaxGradientNorm}, want 0 where it steps per layer: the norm of all gradients is known too late");
        return !moved[i] ? Pack.NewGradient(i)
            : throw new InvalidOperationException($"{GetType().Name}: {Pack.Parameters[i].Name} has moved already in this step, want one backward pass before each Step where it steps per layer");
    }

    private void End(int i)
    {
        if (!Pack.IsTrained(Pack.Parameters[i]))
        {
            return;
        }
        if (Array.TrueForAll(moved, m => !m))
        {
            Steps++;
            norm = null;
            norm2.Fill(0);
        }
        moved[i] = true;
        Pack.MoveAlone(i, () =>
        {
            Segment[] segments = Pack.Segments(WeightDecay, paused);
            nint rows = table.Of(segments);
            Measure(rows, segments.Length, i);
            Update(new StepData(rows, segments.Length, norm2, 0));
        });
    }

    private void EndStep()
    {
        int[] idle = [.. Enumerable.Range(0, moved.Length).Where(i => !moved[i])];
        if (idle.Length == moved.Length)
        {
            throw new InvalidOperationException("Optimizer: no parameter has moved; run Backward first");
        }
        Array.ForEach(idle, i => paused[i]++);
        Array.Clear(moved);
        Pack.ClearGradients();
    }
}
