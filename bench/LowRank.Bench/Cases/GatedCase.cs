using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>The first half of a gated feed-forward, silu(x·Wgᵀ) ⊙ (x·Wuᵀ), with LoRA on both layers or none: in one pass, or one layer after the other.</summary>
public sealed record GatedRow(int Tokens, int Outputs, int Inputs) : Row("gated feed-forward")
{
    /// <summary>Gradients of x and the factors too.</summary>
    public bool Backward { get; init; }

    /// <summary>One layer after the other, and the gate: what one pass saves is the difference.</summary>
    public bool Apart { get; init; }

    /// <summary>Rank of the adapters; 0: none.</summary>
    public int AdapterRank { get; init; }

    /// <inheritdoc/>
    public override int Rank => AdapterRank;

    /// <inheritdoc/>
    public override string Shape => $"{Tokens} x 2x{Outputs}x{Inputs}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new GatedCase(this, device);
}

internal sealed class GatedCase : Case
{
    private static readonly string[] Layers = ["gate", "up"];
    private readonly GatedRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Parameter x;
    private readonly Parameter[] factors;       // A and B of the gate, of up
    private readonly Sgd trained, input;
    private readonly Tensor[] w;
    private readonly Tensor dy;
    private readonly Torch.Tensor theirX, theirDy;
    private readonly Torch.Tensor[] theirW, theirFactors;

    public GatedCase(GatedRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        (int t, int n, int k, int r) = (row.Tokens, row.Outputs, row.Inputs, Math.Max(1, row.Rank));
        float[] xs = Draw("x", (long)t * k), up = Draw("dy", (long)t * n);
        float[][] ws = [.. Layers.Select(name => Draw(name, (long)n * k, 1 / Math.Sqrt(k)))];
        using (Scope scope = device.BeginScope())
        {
            w = [.. ws.Select(values => Packing.Pack(scope.Of([n, k], values, row.Type), store))];
        }
        (float[] Values, int Rows, int Cols)[] low = [.. Layers.SelectMany(name => new[] { (Draw(name + " a", (long)r * k), r, k), (Draw(name + " b", (long)n * r, 0.01), n, r) })];
        x = new Parameter("x", store.Of([t, k], xs, row.Type));
        factors = [.. low.Select((f, i) => new Parameter($"{i}", store.Of([f.Rows, f.Cols], f.Values)))];
        (trained, input) = (new Sgd(factors), new Sgd([x]));
        dy = store.Of([t, n], up, row.Type);
        (theirX, theirDy) = (TorchTensors.Of(xs, [t, k], row.Type), TorchTensors.Of(up, [t, n], row.Type));
        theirW = [.. ws.Select(values => TorchTensors.Of(values, [n, k], row.Type))];
        theirFactors = [.. low.Select(f => TorchTensors.Of(f.Values, [f.Rows, f.Cols], row.Type))];
        Array.ForEach([theirX, .. theirFactors], p => p.requires_grad = row.Backward);
    }

    public override double Bound => Close.Bound(DType.BF16) * (row.Type == DType.BF16 ? 10 : 1);

    public override Cost Cost
    {
        get
        {
            long t = row.Tokens, n = row.Outputs, k = row.Inputs, r = row.Rank, size = row.Type.Size(), passes = row.Backward ? 2 : 1;
            return new(passes * 4 * t * ((n * k) + (r * (n + k))), passes * size * ((2 * n * k) + (t * (n + k))));
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>> { ["torch"] = (_, results) => Theirs(results) };

    public override void Ours(int set, Results? results = null)
    {
        using (Scope scope = row.Backward ? device.BeginTape() : device.BeginScope())
        {
            Tensor y = Forward();
            results?.Add(y);
            if (scope is Tape tape)
            {
                tape.Backward(y, dy);
                Array.ForEach([x, .. row.Rank > 0 ? factors : []], p => results?.Add(p.Gradient));
            }
        }
        trained.ClearGradients();
        input.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        trained.Dispose();
        input.Dispose();
        store.Dispose();
        Array.ForEach([theirX, theirDy, .. theirW, .. theirFactors], t => t.Dispose());
    }

    private Tensor Forward()
    {
        if (!row.Apart)
        {
            return row.Rank > 0 ? new GatedLinear(GateFunction.Silu).Apply(x, w[0], w[1], factors[0], factors[1], factors[2], factors[3]) : new GatedLinear(GateFunction.Silu).Apply(x, w[0], w[1]);
        }
        Tensor Layer(int i) => row.Rank > 0 ? new LoraLinear(1).Apply(x, w[i], factors[2 * i], factors[(2 * i) + 1]) : new Linear().Apply(x, w[i]);
        return new SwiGlu().Apply(Layer(0), Layer(1));
    }

    private void Theirs(Results? results)
    {
        using var scope = Torch.NewDisposeScope();
        Torch.Tensor Layer(int i) => row.Rank > 0 ? F.linear(theirX, theirW[i]) + F.linear(F.linear(theirX, theirFactors[2 * i]), theirFactors[(2 * i) + 1]) : F.linear(theirX, theirW[i]);
        Torch.Tensor y = F.silu(Layer(0)) * Layer(1);
        results?.Add(y);
        if (row.Backward)
        {
            y.backward([theirDy]);
            foreach (Torch.Tensor t in (Torch.Tensor[])[theirX, .. row.Rank > 0 ? theirFactors : []])
            {
                results?.Add(t.grad);
                t.grad = null;
            }
        }
    }
}
