using LowRank.Adapters;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>Forward and backward of a layer with WaRA, mode shared with db2 and one level; gradients of x, A and B. The peer applies the sheet's activation
/// form: x to coefficients, both bands through A and B, back to samples. Beside LoRA's row of the same size it shows what the wavelets cost.</summary>
public sealed record WaraRow(int Tokens) : Row("wara forward+backward")
{
    /// <summary>Rows and columns of W.</summary>
    public const int Size = 1024;

    /// <inheritdoc/>
    public override int Rank => 16;

    /// <inheritdoc/>
    public override string Shape => $"{Tokens} x {Size}x{Size}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new WaraCase(this, device);
}

internal sealed class WaraCase : Case
{
    private const int Half = WaraRow.Size / 2;
    private readonly WaraRow row;
    private readonly Device device;
    private readonly OneLayer model;
    private readonly AdaptedModel adapted;
    private readonly Parameter x;
    private readonly Sgd pack, packX;
    private readonly Tensor dy;
    private readonly Torch.Tensor tx, tw, ta, tb, tdy;
    private readonly float[] taps;

    public WaraCase(WaraRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        float[] values = Draw("x", (long)row.Tokens * WaraRow.Size), w = Draw("w", WaraRow.Size * WaraRow.Size, 1 / Math.Sqrt(WaraRow.Size)), g = Draw("dy", (long)row.Tokens * WaraRow.Size);
        float[] a = Draw("a", row.Rank * Half, 1 / Math.Sqrt(Half)), b = Draw("b", Half * row.Rank, 0.1);
        model = new OneLayer(device, DType.F32, SiteKind.Linear, [WaraRow.Size, WaraRow.Size], Array.ConvertAll(w, v => (double)v), pack: true);
        adapted = model.Attach(new WaraConfig { Targets = ["layer"], Rank = row.Rank, Alpha = row.Rank });
        adapted.Parameters[0].Value.Set(a);
        adapted.Parameters[1].Value.Set(b);
        x = new Parameter("x", model.Store.Of([row.Tokens, WaraRow.Size], values));
        dy = model.Store.Of([row.Tokens, WaraRow.Size], g);
        (pack, packX) = (new Sgd(adapted.Parameters), new Sgd([x]));
        Torch.Tensor Trained(float[] from, Shape shape) => TorchTensors.Of(from, shape, DType.F32).requires_grad_();
        (tx, ta, tb) = (Trained(values, [row.Tokens, WaraRow.Size]), Trained(a, [row.Rank, Half]), Trained(b, [Half, row.Rank]));
        (tw, tdy) = (TorchTensors.Of(w, [WaraRow.Size, WaraRow.Size], DType.F32), TorchTensors.Of(g, [row.Tokens, WaraRow.Size], DType.F32));
        taps = [.. Wavelet.Of("db2").RecLow.ToArray().Concat(Wavelet.Of("db2").RecHigh.ToArray()).Select(v => (float)v)];
    }

    public override double Bound => Close.Layer;

    public override Cost Cost
    {
        get
        {
            long t = row.Tokens, n = WaraRow.Size, r = row.Rank;
            return new((4 * t * n * n) + (12 * t * r * n), 2 * sizeof(float) * ((n * n) + (2 * t * n)));
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["activation form"] = (_, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            Torch.Tensor y = F.linear(tx, tw) + Back(Down(tx));
            y.backward([tdy]);
            results?.Add(y);
            foreach (Torch.Tensor p in new[] { tx, ta, tb })
            {
                results?.Add(p.grad);
                p.grad = null;
            }
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Site.Forward(x.Value);
            tape.Backward(y, dy);
            if (results is not null)
            {
                results.Add(y);
                results.Add(x.Gradient);
                results.Add(adapted.Parameters[0].Gradient);
                results.Add(adapted.Parameters[1].Gradient);
            }
        }
        pack.ClearGradients();
        packX.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        pack.Dispose();
        packX.Dispose();
        adapted.Dispose();
        model.Dispose();
        Array.ForEach([tx, tw, ta, tb, tdy], t => t.Dispose());
    }

    /// <summary>Low and high coefficients through A and B: a_i = Σ_k f[k]·x[2i+k].</summary>
    private (Torch.Tensor Low, Torch.Tensor High) Down(Torch.Tensor samples)
    {
        Torch.Tensor pairs = samples.view(-1, Half, 2), next = pairs.roll(-1, 1);
        Torch.Tensor Band(int at) => (pairs.select(2, 0) * taps[at]) + (pairs.select(2, 1) * taps[at + 1]) + (next.select(2, 0) * taps[at + 2]) + (next.select(2, 1) * taps[at + 3]);
        Torch.Tensor Pair(Torch.Tensor band) => F.linear(F.linear(band, ta), tb);
        return (Pair(Band(0)), Pair(Band(4)));
    }

    /// <summary>Samples of two bands: y[2i+p] = Σ_j f[2j+p]·a_{i-j}.</summary>
    private Torch.Tensor Back((Torch.Tensor Low, Torch.Tensor High) bands)
    {
        Torch.Tensor low = bands.Low.roll(1, 1), high = bands.High.roll(1, 1);
        Torch.Tensor Phase(int p) => (bands.Low * taps[p]) + (low * taps[2 + p]) + (bands.High * taps[4 + p]) + (high * taps[6 + p]);
        return Torch.stack([Phase(0), Phase(1)], 2).flatten(1);
    }
}
