using LowRank.Oracle;
using LowRank.Testing;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>One AdamW step over parameters of this many elements in one tensor; float32.</summary>
public sealed record AdamWRow(int Count) : Row("adamw")
{
    /// <summary>Moments in 8 bits, beside the peer's in 32.</summary>
    public bool Coded { get; init; }

    /// <inheritdoc/>
    public override string Shape => $"{Count / 1_000_000} M";

    /// <inheritdoc/>
    public override Case Make(Device device) => new AdamWCase(this, device);
}

internal sealed class AdamWCase : Case
{
    private const double LearningRate = 1e-3, WeightDecay = 0.01;
    private readonly AdamWRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Parameter parameter;
    private readonly Tensor gradient;
    private readonly Optimizer ours;
    private readonly TorchSharp.Modules.Parameter value;
    private readonly Torch.optim.Optimizer theirs;

    public AdamWCase(AdamWRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        float[] p = Draw("p", row.Count), g = Draw("g", row.Count);
        parameter = new Parameter("p", store.Of([row.Count], p));
        gradient = store.Of([row.Count], g);
        ours = row.Coded ? new AdamW8Bit([parameter]) : new AdamW([parameter]);
        (ours.LearningRate, ours.WeightDecay) = (LearningRate, WeightDecay);
        value = new TorchSharp.Modules.Parameter(TorchTensors.Of(p, [row.Count], DType.F32)) { grad = TorchTensors.Of(g, [row.Count], DType.F32) };
        theirs = Torch.optim.AdamW([value], LearningRate, weight_decay: WeightDecay);
    }

    public override Cost Cost => new(12L * row.Count, (row.Coded ? 16L : 28L) * row.Count);     // p, m, v read and written, g read

    public override double Bound => row.Coded ? Close.Model : Close.Layer;

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["optim.AdamW"] = (_, results) =>
        {
            using (Torch.NewDisposeScope())
            {
                theirs.step();
            }
            results?.Add(value);
        },
    };

    /// <summary>Puts the gradient where a backward pass would have left it.</summary>
    public override void Prepare(int set)
    {
        using Tape tape = device.BeginTape();
        tape.Backward(parameter.Value, gradient);
    }

    public override void Ours(int set, Results? results = null)
    {
        ours.Step();
        results?.Add(parameter.Value);
    }

    protected override void Dispose(bool disposing)
    {
        ours.Dispose();
        store.Dispose();
        theirs.Dispose();
        value.Dispose();
    }
}
