using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>Mean cross-entropy of logits [Rows, Classes], forward and backward.</summary>
public sealed record CrossEntropyRow(int Count, int Classes) : Row("cross-entropy")
{
    /// <inheritdoc/>
    public override string Shape => $"{Count} x {Classes}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new CrossEntropyCase(this, device);
}

internal sealed class CrossEntropyCase : Case
{
    private readonly CrossEntropyRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly (Parameter Logits, Sgd Pack)[] ours;
    private readonly Torch.Tensor[] theirs;
    private readonly Tensor labels;
    private readonly Torch.Tensor ids;

    public CrossEntropyCase(CrossEntropyRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        Shape shape = [row.Count, row.Classes];
        float[] logits = Draw("logits", shape.Count, 4);
        int[] wanted = [.. Enumerable.Range(0, row.Count).Select(i => i * 7919 % row.Classes)];
        labels = store.Of([row.Count], wanted);
        ids = Torch.tensor(wanted).to(Torch.ScalarType.Int64);
        ours = new (Parameter, Sgd)[SetsOf(2 * row.Type.Size() * shape.Count)];
        theirs = new Torch.Tensor[ours.Length];
        for (int i = 0; i < ours.Length; i++)
        {
            var parameter = new Parameter("logits", store.Of(shape, logits, row.Type));
            ours[i] = (parameter, new Sgd([parameter]));
            theirs[i] = TorchTensors.Of(logits, shape, row.Type);
            theirs[i].requires_grad = true;
        }
    }

    public override int Sets => ours.Length;

    public override Cost Cost => new(9L * row.Count * row.Classes, 3L * row.Type.Size() * row.Count * row.Classes);

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["cross_entropy"] = (set, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            Torch.Tensor loss = F.cross_entropy(theirs[set], ids);
            loss.backward();
            results?.Add(loss);
            results?.Add(theirs[set].grad);
            theirs[set].grad = null;
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        (Parameter logits, Sgd pack) = ours[set];
        using (Tape tape = device.BeginTape())
        {
            Tensor loss = new CrossEntropy().Apply(logits, labels);
            tape.Backward(loss);
            results?.Add(loss);
            results?.Add(logits.Gradient);
        }
        pack.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        foreach ((_, Sgd pack) in ours)
        {
            pack.Dispose();
        }
        store.Dispose();
        foreach (Torch.Tensor tensor in theirs)
        {
            tensor.Dispose();
        }
        ids.Dispose();
    }
}
