using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>Attention of Heads heads of width Dim over Tokens tokens, forward and backward; q, k and v as projections leave them: [batch, tokens, heads·dim].</summary>
public sealed record AttentionRow(int Batch, int Tokens, int Heads, int Dim) : Row("attention")
{
    /// <summary>Whether a token sees only those before it.</summary>
    public bool Causal { get; init; }

    /// <inheritdoc/>
    public override string Shape => $"{Batch} x {Tokens} x {Heads}x{Dim}{(Causal ? " causal" : "")}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new AttentionCase(this, device);
}

internal sealed class AttentionCase : Case
{
    private readonly AttentionRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Parameter[] ours;
    private readonly Sgd pack;
    private readonly Tensor dy;
    private readonly Torch.Tensor[] theirs;
    private readonly Torch.Tensor theirDy;

    public AttentionCase(AttentionRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        Shape shape = [row.Batch, row.Tokens, row.Heads * row.Dim];
        float[] up = Draw("dy", shape.Count);
        string[] names = ["q", "k", "v"];
        ours = [.. names.Select(name => new Parameter(name, store.Of(shape, Draw(name, shape.Count), row.Type)))];
        pack = new Sgd(ours);
        dy = store.Of(shape, up, row.Type);
        theirs = [.. names.Select(name => TorchTensors.Of(Draw(name, shape.Count), shape, row.Type))];
        theirDy = TorchTensors.Of(up, shape, row.Type);
        foreach (Torch.Tensor tensor in theirs)
        {
            tensor.requires_grad = true;
        }
    }

    public override Cost Cost
    {
        get
        {
            long values = (long)row.Batch * row.Tokens * row.Heads * row.Dim;
            return new((row.Causal ? 7 : 14) * values * row.Tokens, 12 * row.Type.Size() * values);     // two products forward, five backward
        }
    }

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["scaled_dot_product_attention"] = (_, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            Torch.Tensor[] heads = [.. theirs.Select(t => t.view(row.Batch, row.Tokens, row.Heads, row.Dim).transpose(1, 2))];
            Torch.Tensor y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_casual: row.Causal).transpose(1, 2).reshape(theirDy.shape);
            y.backward([theirDy]);
            results?.Add(y);
            foreach (Torch.Tensor tensor in theirs)
            {
                results?.Add(tensor.grad);
                tensor.grad = null;
            }
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using (Tape tape = device.BeginTape())
        {
            Tensor y = new Attention(row.Heads, row.Causal).Apply(ours[0], ours[1], ours[2]);
            tape.Backward(y, dy);
            results?.Add(y);
            foreach (Parameter parameter in results is null ? [] : ours)
            {
                results!.Add(parameter.Gradient);
            }
        }
        pack.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        pack.Dispose();
        store.Dispose();
        foreach (Torch.Tensor tensor in theirs)
        {
            tensor.Dispose();
        }
        theirDy.Dispose();
    }
}
