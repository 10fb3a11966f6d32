namespace LowRank;

/// <summary>The two optimisers of SoRA (arXiv 2311.11696, official code) in one step and under one clip: AdamW in its late form for everything but the gates, and
/// for these Adam in the same form, without decay, with an ε and perhaps a rate of its own, and then a threshold that makes small gates exactly 0.</summary>
public sealed class GatedAdamW : Optimizer
{
    private readonly HashSet<Parameter> gates;
    private readonly StepTable<Segment> plainTable, gateTable;

    /// <summary>Packs the parameters.</summary>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="gates">Those of them that are gates.</param>
    /// <exception cref="ShapeException">A gate is not among the parameters.</exception>
    public GatedAdamW(IReadOnlyList<Parameter> parameters, IEnumerable<Parameter> gates)
        : base(parameters)
    {
        this.gates = [.. gates];
        if (this.gates.FirstOrDefault(g => !parameters.Contains(g)) is { } stranger)
        {
            Dispose();
            throw new ShapeException($"GatedAdamW: gate {stranger.Name} is not among the parameters, want gates that are trained");
        }
        WeightDecay = 0.1;
        plainTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
        gateTable = new StepTable<Segment>(Pack.Store, Pack.Parameters.Count);
    }

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to √v before its bias is corrected.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>The same for gates.</summary>
    public double GateEpsilon { get; init; } = 1e-6;

    /// <summary>Learning rate of the gates at a step, from 0; null: that of everything else.</summary>
    public Func<long, double>? GateRate { get; init; }

    /// <summary>λ₂: what a step takes off every |gate|, whatever the learning rate. A schedule (<see cref="SparsityLadder"/>) may raise it; 0: nothing.</summary>
    /// <exception cref="ShapeException">It is negative or not finite.</exception>
    public double Threshold
    {
        get;
        set => field = value >= 0 && double.IsFinite(value) ? value : throw new ShapeException($"GatedAdamW: Threshold is {value}, want 0 or more");
    } = 3e-4;

    /// <summary>True: g becomes sign(g)·max(|g| - λ₂, 0), the paper's proximal step. False: as the official code does, in whose three passes a gate is 0 below
    /// 2λ₂ already (but for |g| = λ₂ exactly).</summary>
    public bool Proximal { get; init; }

    /// <inheritdoc/>
    private protected override bool CountsPauses => true;

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        Pack.Values.Device.RequireNotRecording("a step of GatedAdamW");
        Segment[] plain = [.. Segments(gate: false)], gated = [.. Segments(gate: true)];
        Move(step, plainTable, plain, LearningRate, Epsilon);
        Move(step, gateTable, gated, GateRate?.Invoke(Steps - 1) ?? LearningRate, GateEpsilon);
        if (Threshold > 0 && gated.Length > 0)
        {
            Pack.Values.Device.Launch(Kernels.GateThreshold, new GateThresholdArgs
            {
                G = Pack.Values.Data,
                Segments = gateTable.Of(gated),
                Level = Threshold,
                SegmentCount = gated.Length,
                Paper = Proximal ? 1 : 0,
                DType = Pack.Values.DType,
            });
        }
    }

    private IEnumerable<Segment> Segments(bool gate)
    {
        for (int i = 0; i < Pack.Parameters.Count; i++)
        {
            Parameter p = Pack.Parameters[i];
            if (Pack.IsTrained(p) && gates.Contains(p) == gate)
            {
                yield return new Segment { Start = Pack.Start(i), State = Pack.Start(i), Count = p.Value.Shape.Count, Paused = PausedOf(i), LrScale = p.LearningRateScale, WeightDecay = gate ? 0 : p.WeightDecay ?? WeightDecay };
            }
        }
    }

    private void Move(StepData step, StepTable<Segment> table, Segment[] segments, double rate, double epsilon)
    {
        if (segments.Length == 0)
        {
            return;
        }
        Pack.Values.Device.Launch(Kernels.AdamW, new AdamWArgs
        {
            P = Pack.Values.Data,
            G = Pack.GradientData,
            M = Pack.State("exp_avg").Data,
            V = Pack.State("exp_avg_sq").Data,
            Segments = table.Of(segments),
            Norm2 = step.Norm2.Data,
            Lr = rate,
            Beta1 = Beta1,
            Beta2 = Beta2,
            Eps = epsilon,
            MaxNorm = MaxGradientNorm,
            Step = Steps,
            SegmentCount = segments.Length,
            Late = 1,
            DType = Pack.Values.DType,
        });
    }
}
