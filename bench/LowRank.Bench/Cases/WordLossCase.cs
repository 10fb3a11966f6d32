using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>Mean cross-entropy of words behind a frozen head: hidden states [Count, Inputs], head [Words, Inputs], forward and backward to the hidden states.</summary>
public sealed record WordLossRow(int Count, int Inputs, int Words) : Row("loss of words")
{
    /// <summary>All logits are in memory at a time.</summary>
    public bool Whole { get; init; }

    /// <inheritdoc/>
    public override string Shape => $"{Count} x {Inputs}, {Words} words";

    /// <inheritdoc/>
    public override Case Make(Device device) => new WordLossCase(this, device);

    /// <summary>Bytes that tensors have at most during one call, beside weights and hidden states.</summary>
    public static double PeakBytes(Device device, WordLossRow row)
    {
        using var work = new WordLossCase(row, device);
        work.Ours(0);
        device.ResetPeak();
        long before = device.Bytes;
        work.Ours(0);
        return device.PeakBytes - before;
    }
}

internal sealed class WordLossCase : Case
{
    private readonly WordLossRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Parameter hidden;
    private readonly Sgd pack;
    private readonly Tensor head, labels;
    private readonly Torch.Tensor theirHidden, theirHead, ids;

    public WordLossCase(WordLossRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        Shape x = [row.Count, row.Inputs], w = [row.Words, row.Inputs];
        float[] states = Draw("hidden", x.Count), weights = Draw("head", w.Count, 0.2);
        int[] wanted = [.. Enumerable.Range(0, row.Count).Select(i => i * 7919 % row.Words)];
        hidden = new Parameter("hidden", store.Of(x, states, row.Type));
        pack = new Sgd([hidden]);
        using (Scope rows = device.NewStore())
        {
            head = Packing.Pack(rows.Of(w, weights, row.Type), store);
        }
        labels = store.Of([row.Count], wanted);
        theirHidden = TorchTensors.Of(states, x, row.Type);
        theirHidden.requires_grad = true;
        theirHead = TorchTensors.Of(weights, w, row.Type);
        ids = Torch.tensor(wanted).to(Torch.ScalarType.Int64);
    }

    public override Cost Cost => new(4L * row.Count * row.Words * row.Inputs, row.Type.Size() * (long)row.Words * row.Inputs);

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["cross_entropy(linear)"] = (_, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            Torch.Tensor loss = F.cross_entropy(F.linear(theirHidden, theirHead), ids);
            loss.backward();
            results?.Add(loss);
            results?.Add(theirHidden.grad);
            theirHidden.grad = null;
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using (Tape tape = device.BeginTape())
        {
            Tensor loss = row.Whole ? new CrossEntropy().Apply(new Linear().Apply(hidden, head), labels) : new LinearCrossEntropy().Apply(hidden, head, labels);
            tape.Backward(loss);
            results?.Add(loss);
            results?.Add(hidden.Gradient);
        }
        pack.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        pack.Dispose();
        store.Dispose();
        theirHidden.Dispose();
        theirHead.Dispose();
        ids.Dispose();
    }
}
