using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>A step of one SNELL layer: forward, gradients of x and both tables. The peer takes the route of the official code: distances, quantile, mask, a
/// product of its own for the delta. The row <c>lora forward+backward</c> of the same shape is what the method costs more than LoRA.</summary>
public sealed record SnellRow(int Tokens, int Outputs, int Inputs) : Row("snell step")
{
    /// <summary>Share of the entries dropped.</summary>
    public double Sparsity { get; init; } = 0.9;

    /// <inheritdoc/>
    public override int Rank => 16;

    /// <inheritdoc/>
    public override string Shape => $"{Tokens} x {Outputs}x{Inputs}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new SnellCase(this, device);
}

internal sealed class SnellCase : Case
{
    private readonly SnellRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly SnellRule rule;
    private readonly Sgd tables, input;
    private readonly Parameter x, p, q;
    private readonly Tensor w, dy;
    private readonly Torch.Tensor theirX, theirW, theirP, theirQ, theirDy;

    public SnellCase(SnellRow row, Device device)
    {
        (this.row, this.device, rule) = (row, device, new SnellRule(row.Sparsity));
        store = device.NewStore();
        (int t, int n, int k, int r) = (row.Tokens, row.Outputs, row.Inputs, row.Rank / 2);
        float[] xs = Draw("x", (long)t * k), ws = Draw("w", (long)n * k, 1 / Math.Sqrt(k)), up = Draw("dy", (long)t * n), ps = Draw("p", 2L * k * r), qs = Draw("q", 2L * n * r);
        using (Scope scope = device.BeginScope())
        {
            w = Packing.Pack(scope.Of([n, k], ws, row.Type), store);
        }
        (x, p, q) = (new Parameter("x", store.Of([t, k], xs, row.Type)), new Parameter("p", store.Of([2, k, r], ps)), new Parameter("q", store.Of([2, n, r], qs)));
        (tables, input) = (new Sgd([p, q]), new Sgd([x]));
        dy = store.Of([t, n], up, row.Type);
        (theirX, theirW, theirDy) = (TorchTensors.Of(xs, [t, k], row.Type), TorchTensors.Of(ws, [n, k], row.Type), TorchTensors.Of(up, [t, n], row.Type));
        (theirP, theirQ) = (TorchTensors.Of(ps, [2, k, r], DType.F32), TorchTensors.Of(qs, [2, n, r], DType.F32));
        theirX.requires_grad = theirP.requires_grad = theirQ.requires_grad = true;
    }

    // The peer's distances are rounded another way, which moves a few entries across the threshold.
    public override double Bound => Close.Bound(DType.BF16);

    public override Cost Cost
    {
        get
        {
            long t = row.Tokens, n = row.Outputs, k = row.Inputs, size = row.Type.Size();
            return new((6 * t * n * k) + (5 * 3 * n * k * row.Rank), 3 * size * ((n * k) + (t * (n + k))));
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["cdist"] = (_, results) => Theirs(results, TorchSharp.compute_mode.use_mm_for_euclid_dist_if_necessary),
        ["cdist, direct"] = (_, results) => Theirs(results, TorchSharp.compute_mode.donot_use_mm_for_euclid_dist),
    };

    public override void Ours(int set, Results? results = null)
    {
        using (Tape tape = device.BeginTape())
        {
            Tensor y = new SnellLinear(rule).Apply(x, w, p, q);
            tape.Backward(y, dy);
            if (results is not null)
            {
                results.Add(y);
                Array.ForEach([x, p, q], t => results.Add(t.Gradient!));
            }
        }
        tables.ClearGradients();
        input.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        tables.Dispose();
        input.Dispose();
        store.Dispose();
        Array.ForEach([theirX, theirW, theirP, theirQ, theirDy], t => t.Dispose());
    }

    private void Theirs(Results? results, TorchSharp.compute_mode mode)
    {
        using var scope = Torch.NewDisposeScope();
        Torch.Tensor distances = Torch.cdist(theirP, theirQ, 2, mode), d = (distances.select(0, 0) - distances.select(0, 1)) * (float)rule.Scale, size = d.detach().abs();
        Torch.Tensor tau = Torch.quantile(size, Torch.tensor((float)rule.Sparsity));
        Torch.Tensor s = d * Torch.where(size > tau, size, Torch.zeros_like(size));
        Torch.Tensor y = F.linear(theirX, theirW) + theirX.mm(s.to_type(theirX.dtype));
        y.backward([theirDy]);
        results?.Add(y);
        foreach (Torch.Tensor t in (Torch.Tensor[])[theirX, theirP, theirQ])
        {
            results?.Add(t.grad);
            t.grad = null;
        }
    }
}
