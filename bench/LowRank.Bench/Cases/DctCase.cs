using System.Text.Json.Nodes;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>What is done with a matrix [Rows, Cols] and cosine transforms.</summary>
public enum DctWork
{
    /// <summary>The inverse transform of a whole matrix.</summary>
    Inverse,
    /// <summary>W + dW from coefficients.</summary>
    Merge,
    /// <summary>A LoCA layer with its gradients, those of the places too.</summary>
    Layer,
}

/// <summary>Cosine transforms. The peer's are made of torch's FFT and products, or are SciPy's.</summary>
public sealed record DctRow(string Group, DctWork Work, int Rows, int Cols, int Coefficients = 0) : Row(Group)
{
    /// <summary>Rows of x in a layer.</summary>
    public int Tokens { get; init; }

    /// <summary>True where the peer is SciPy.</summary>
    public bool SciPy { get; init; }

    /// <inheritdoc/>
    public override string Shape => $"{(Tokens > 0 ? $"{Tokens} x " : "")}{Rows}x{Cols}{(Coefficients > 0 ? $" k {Coefficients}" : "")}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new DctCase(this, device);
}

internal sealed class DctCase : Case
{
    private readonly DctRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Tensor w, dy;
    private readonly Parameter x, a, u;
    private readonly Sgd[] packs;
    private readonly PythonTransform? python;
    private readonly Torch.Tensor tw, tx, tdy, ta, rows, cols, left, right;

    public DctCase(DctRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        (int m, int n, int k, int t) = (row.Rows, row.Cols, Math.Max(1, row.Coefficients), Math.Max(1, row.Tokens));
        float[] values = Draw("w", (long)m * n, 0.05), inputs = Draw("x", (long)t * n), upstream = Draw("dy", (long)t * m), spectrum = Draw("a", k, 0.1), places = Draw("u", 2L * k);
        places = [.. places.Select(v => Math.Min((v + 1) / 2, 0.99f))];      // beyond 0.999 a place has no gradient, which the peer does not spell out
        (w, dy) = (store.Of([m, n], values), store.Of([t, m], upstream));
        (x, a, u) = (new Parameter("x", store.Of([t, n], inputs)), new Parameter("a", store.Of([k], spectrum)), new Parameter("u", store.Of([2, k], places)));
        packs = [new Sgd([x]), new Sgd([a, u])];
        (tw, tx, tdy, ta) = (TorchTensors.Of(values, [m, n], DType.F32), TorchTensors.Of(inputs, [t, n], DType.F32), TorchTensors.Of(upstream, [t, m], DType.F32), TorchTensors.Of(spectrum, [k], DType.F32));
        long On(int i, int size) => (long)Math.Round(Math.Clamp((double)places[i], 0, 0.999f) * (size - 1), MidpointRounding.ToEven);
        rows = Torch.tensor([.. Enumerable.Range(0, k).Select(j => On(j, m))]);
        cols = Torch.tensor([.. Enumerable.Range(k, k).Select(j => On(j, n))]);
        (left, right) = row.SciPy ? (Torch.zeros(1), Torch.zeros(1)) : (Matrix(m), Matrix(n));
        var options = new JsonObject { ["rows"] = m, ["cols"] = n, ["threads"] = row.Threads };
        python = !row.SciPy ? null : row.Work == DctWork.Inverse ? new PythonTransform("inverse", options, values) : new PythonTransform("merge", options, values, places, spectrum);
    }

    public override string Library => python is null ? base.Library : "";

    public override double Bound => Close.Layer;

    public override Cost Cost
    {
        get
        {
            Cost transform = new Dct2(Inverse: true).Cost((Tensor?[])[w]);
            Cost merge = new SparseDct(row.Rows, row.Cols, 1).Cost((Tensor?[])[a.Value, u.Value]);
            long products = 4L * row.Tokens * row.Rows * row.Cols;
            return row.Work switch
            {
                DctWork.Inverse => transform,
                DctWork.Merge => merge,
                _ => new(merge.Flops + products, merge.Bytes + (2L * sizeof(float) * row.Tokens * ((long)row.Rows + row.Cols))),
            };
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => python?.Ways ?? row.Work switch
    {
        DctWork.Inverse => new Dictionary<string, Action<int, Results?>> { ["irfft"] = Run(() => Inverse(tw)), ["products"] = Run(() => left.t().mm(tw).mm(right)) },
        DctWork.Merge => new Dictionary<string, Action<int, Results?>> { ["irfft"] = Run(() => tw + Inverse(Spelled())), ["products"] = Run(() => tw + left.t().mm(Spelled()).mm(right)), ["cosines"] = Run(() => tw + Cosines()) },
        _ => new Dictionary<string, Action<int, Results?>> { ["products"] = Layer(() => left.t().mm(Spelled()).mm(right)), ["cosines"] = Layer(Cosines) },
    };

    public override void Ours(int set, Results? results = null)
    {
        if (row.Work != DctWork.Layer)
        {
            using Scope scope = device.BeginScope();
            Tensor made = row.Work == DctWork.Inverse ? new Dct2(Inverse: true).Apply(w) : new SparseDct(row.Rows, row.Cols, 1).Apply(a, u, w);
            results?.Add(made);
            return;
        }
        using (Tape tape = device.BeginTape())
        {
            Tensor y = new SparseDctLinear(row.Rows, row.Cols, 1).Apply(x, a, u, w);
            tape.Backward(y, dy);
            if (results is not null)
            {
                results.Add(y);
                results.Add(x.Gradient);
                results.Add(a.Gradient);
                results.Add(u.Gradient);
            }
        }
        Array.ForEach(packs, pack => pack.ClearGradients());
    }

    protected override void Dispose(bool disposing)
    {
        python?.Dispose();
        Array.ForEach(packs, pack => pack.Dispose());
        store.Dispose();
        foreach (Torch.Tensor tensor in (ReadOnlySpan<Torch.Tensor>)[tw, tx, tdy, ta, rows, cols, left, right])
        {
            tensor.Dispose();
        }
    }

    private static Torch.Tensor Matrix(int n)
    {
        using var scope = Torch.NewDisposeScope();
        Torch.Tensor i = Torch.arange(n, Torch.float64).unsqueeze(1), j = Torch.arange(n, Torch.float64).unsqueeze(0);
        Torch.Tensor c = Torch.cos(i * (2 * j + 1) * (Math.PI / (2 * n))) * Math.Sqrt(2.0 / n);
        c.narrow(0, 0, 1).div_(Math.Sqrt(2));
        return c.to(Torch.float32).MoveToOuterDisposeScope();
    }

    // Both sides by Makhoul's order of an inverse real transform
    private static Torch.Tensor Inverse(Torch.Tensor s) => Lines(Lines(s).t().contiguous()).t();

    private static Torch.Tensor Lines(Torch.Tensor s)
    {
        long lines = s.shape[0], n = s.shape[1];
        Torch.Tensor k = Torch.arange(n, Torch.float32) * (Math.PI / (2 * n)), y = s * Math.Sqrt(n / 2.0);
        y.narrow(1, 0, 1).mul_(Math.Sqrt(2));
        Torch.Tensor other = Torch.cat([Torch.zeros(lines, 1), y.narrow(1, 1, n - 1).flip(1)], 1);
        Torch.Tensor v = Torch.complex((y * Torch.cos(k)) + (other * Torch.sin(k)), (y * Torch.sin(k)) - (other * Torch.cos(k)));
        Torch.Tensor line = Torch.fft.irfft(v.narrow(1, 0, (n / 2) + 1), n, 1);      // n is even here
        return Torch.stack([line.narrow(1, 0, n / 2), line.narrow(1, n / 2, n / 2).flip(1)], 2).reshape(lines, n);
    }

    private Torch.Tensor Spelled() => Torch.zeros(row.Rows, row.Cols).index_put_(ta, [rows, cols], accumulate: true);

    private Torch.Tensor Cosines() => (left.index_select(0, rows) * ta.unsqueeze(1)).t().mm(right.index_select(0, cols));

    private static Action<int, Results?> Run(Func<Torch.Tensor> work) => (_, results) =>
    {
        using var scope = Torch.NewDisposeScope();
        using var off = Torch.no_grad();
        Torch.Tensor made = work();
        results?.Add(made);
    };

    // As the official layer does: dW formed, its gradient formed and transformed, five cells of that for each coefficient
    private Action<int, Results?> Layer(Func<Torch.Tensor> delta) => (_, results) =>
    {
        using var scope = Torch.NewDisposeScope();
        using var off = Torch.no_grad();
        Torch.Tensor d = delta(), y = F.linear(tx, tw) + F.linear(tx, d), dx = tdy.mm(tw) + tdy.mm(d);
        Torch.Tensor spectrum = left.mm(tdy.t().mm(tx)).mm(right.t());
        Torch.Tensor At(long down, long across) => spectrum.index([(rows + down).clamp(0, row.Rows - 1), (cols + across).clamp(0, row.Cols - 1)]);
        Torch.Tensor Step(Torch.Tensor further, Torch.Tensor before, int n) => (0.5 * ta * (further - before)).clamp(-1, 1) * (n - 1);
        Torch.Tensor du = Torch.stack([Step(At(1, 0), At(-1, 0), row.Rows), Step(At(0, 1), At(0, -1), row.Cols)]);
        Torch.Tensor da = At(0, 0);
        results?.Add(y);
        results?.Add(dx);
        results?.Add(da);
        results?.Add(du);
    };
}
