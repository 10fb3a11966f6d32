using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>What a layer computes beside x·Wᵀ.</summary>
public enum Method
{
    /// <summary>Nothing.</summary>
    Linear,
    /// <summary>+ s·x·Aᵀ·Bᵀ.</summary>
    Lora,
    /// <summary>c ⊙ all of it, c = m/‖W + s·B·A‖ by row.</summary>
    Dora,
}

/// <summary>One layer with a frozen weight [Outputs, Inputs] on Tokens rows; backward gives dx and the adapter's gradients.</summary>
public sealed record LayerRow(string Group, Method Method) : Row(Group)
{
    /// <summary>Rows of x.</summary>
    public int Tokens { get; init; } = 512;

    /// <summary>Rows of W.</summary>
    public int Outputs { get; init; } = 1024;

    /// <summary>Columns of W.</summary>
    public int Inputs { get; init; } = 1024;

    /// <summary>Rank of A and B.</summary>
    public int AdapterRank { get; init; } = 16;

    /// <summary>Whether gradients are computed too.</summary>
    public bool Backward { get; init; }

    /// <inheritdoc/>
    public override int Rank => Method == Method.Linear ? 0 : AdapterRank;

    /// <inheritdoc/>
    public override string Shape => $"{Tokens} x {Outputs}x{Inputs}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new LayerCase(this, device);
}

internal sealed class LayerCase : Case
{
    private const float Scale = 2;
    private readonly LayerRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly OurSet[] ours;
    private readonly TorchSet[] theirs;

    public LayerCase(LayerRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        int t = row.Tokens, n = row.Outputs, k = row.Inputs, r = row.AdapterRank;
        long bytes = row.Type.Size() * ((long)n * k + (long)t * (n + k));
        float[] x = Draw("x", (long)t * k), w = Draw("w", (long)n * k, 1 / Math.Sqrt(k)), dy = Draw("dy", (long)t * n);
        float[] a = Draw("a", (long)r * k, 1 / Math.Sqrt(k)), b = Draw("b", (long)n * r, 0.1), m = [.. Draw("m", n).Select(v => 1 + (v / 4))];
        ours = new OurSet[SetsOf(bytes)];
        theirs = new TorchSet[ours.Length];
        for (int i = 0; i < ours.Length; i++)
        {
            ours[i] = new OurSet(store, row, x, w, dy, a, b, m);
            theirs[i] = new TorchSet(row, x, w, dy, a, b, m);
        }
    }

    public override int Sets => ours.Length;

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);     // the peer rounds between its products

    public override Cost Cost
    {
        get
        {
            long t = row.Tokens, n = row.Outputs, k = row.Inputs, r = row.Rank, size = row.Type.Size();
            long products = 2 * t * ((n * k) + (r * (n + k))), traffic = size * ((n * k) + (t * (n + k)));
            long norms = row.Method == Method.Dora ? 2 * n * k * r : 0;
            return row.Backward ? new((2 * products) + (2 * t * r * (n + k)) + norms, 2 * traffic) : new(products + norms, traffic);
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => row.Method switch
    {
        Method.Linear => new Dictionary<string, Action<int, Results?>> { ["linear"] = Run(s => F.linear(s.X, s.W)), ["mm"] = Run(s => s.X.mm(s.W.t())) },
        Method.Lora => new Dictionary<string, Action<int, Results?>> { ["module"] = Run(Module), ["addmm"] = Run(Fused) },
        _ => new Dictionary<string, Action<int, Results?>>
        {
            ["module"] = Run(s => (s.M / Norm(s)) * Module(s)),
            ["addmm"] = Run(s => (s.M / Norm(s)) * Fused(s)),
            ["addmm, Gram norm"] = Run(s => (s.M / GramNorm(s)) * Fused(s)),
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        OurSet s = ours[set];
        if (!row.Backward)
        {
            using Scope scope = device.BeginScope();
            Tensor y = Apply(s);
            results?.Add(y);
            return;
        }
        using (Tape tape = device.BeginTape())
        {
            Tensor y = Apply(s);
            tape.Backward(y, s.Dy);
            if (results is not null)
            {
                results.Add(y);
                s.Trained.ForEach(p => results.Add(p.Gradient));
            }
        }
        s.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        foreach (OurSet set in ours)
        {
            set.Dispose();
        }
        store.Dispose();
        foreach (TorchSet set in theirs)
        {
            set.Dispose();
        }
    }

    private Tensor Apply(OurSet s)
    {
        if (row.Method == Method.Linear)
        {
            return new Linear().Apply(s.X, s.W);
        }
        Tensor? c = s.M is null ? null : new DoraScale(Scale).Apply(s.M, s.W, s.A, s.B, s.Squares);
        return new LoraLinear(Scale).Apply(s.X, s.W, s.A, s.B, null, c);
    }

    private static Torch.Tensor Module(TorchSet s) => F.linear(s.X, s.W) + (F.linear(F.linear(s.X, s.A), s.B) * Scale);

    private static Torch.Tensor Fused(TorchSet s) => Torch.addmm(F.linear(s.X, s.W), F.linear(s.X, s.A), s.B.t(), 1, Scale);

    /// <summary>Row norms of W + s·B·A, formed: as the method's own code does.</summary>
    private static Torch.Tensor Norm(TorchSet s)
    {
        using var off = Torch.no_grad();
        return Torch.linalg.norm(Torch.addmm(s.W, s.B, s.A, 1, Scale), dims: [1]);
    }

    /// <summary>The same without forming it: ‖W_i‖² + 2s·(W·Aᵀ)_i·B_i + s²·B_i·(A·Aᵀ)·B_iᵀ.</summary>
    private static Torch.Tensor GramNorm(TorchSet s)
    {
        using var off = Torch.no_grad();
        Torch.Tensor cross = s.W.mm(s.A.t()) * (2 * Scale), square = s.B.mm(s.A.mm(s.A.t())) * (Scale * Scale);
        return Torch.sqrt(s.Squares + ((cross + square) * s.B).sum(1));
    }

    private Action<int, Results?> Run(Func<TorchSet, Torch.Tensor> layer) => (set, results) =>
    {
        TorchSet s = theirs[set];
        using var scope = Torch.NewDisposeScope();
        if (!row.Backward)
        {
            using var off = Torch.no_grad();
            Torch.Tensor result = layer(s);
            results?.Add(result);
            return;
        }
        Torch.Tensor y = layer(s);
        y.backward([s.Dy]);
        results?.Add(y);
        foreach (Torch.Tensor p in s.Trained)
        {
            results?.Add(p.grad);
            p.grad = null;
        }
    };

    /// <summary>Ours: W packed, everything trained in a pack of its type.</summary>
    private sealed class OurSet : IDisposable
    {
        private readonly List<Sgd> packs = [];

        public OurSet(Scope store, LayerRow row, float[] x, float[] w, float[] dy, float[] a, float[] b, float[] m)
        {
            int t = row.Tokens, n = row.Outputs, k = row.Inputs, r = row.AdapterRank;
            DType small = row.Type.ForParameters();
            using (Scope scope = store.Device.BeginScope())
            {
                W = Packing.Pack(scope.Of([n, k], w, row.Type), store);
            }
            Parameter Make(string name, Shape shape, float[] values, DType type)
            {
                var p = new Parameter(name, store.Of(shape, values, type), frozen: !row.Backward);
                Trained.Add(p);
                return p;
            }
            Parameter px = Make("x", [t, k], x, row.Type);
            if (row.Method != Method.Linear)
            {
                Parameter pa = Make("a", [r, k], a, small), pb = Make("b", [n, r], b, small);
                Parameter? pm = row.Method == Method.Dora ? Make("m", [n], m, small) : null;
                if (row.Backward)
                {
                    packs.Add(new Sgd([px]));
                    packs.Add(new Sgd(pm is null ? [pa, pb] : [pa, pb, pm]));
                    Dy = store.Of([t, n], dy, row.Type);
                }
                (A, B, M) = (pa.Value, pb.Value, pm?.Value);
            }
            X = px.Value;
            if (M is not null)
            {
                Squares = store.New([n], small);
                DoraScale.Norms(W, null, null, 0, Squares, store.New([n], small));
            }
        }

        public Tensor X { get; }

        public Tensor W { get; }

        public Tensor? A { get; }

        public Tensor? B { get; }

        public Tensor? M { get; }

        public Tensor? Squares { get; }

        public Tensor Dy { get; } = null!;

        public List<Parameter> Trained { get; } = [];

        public void ClearGradients() => packs.ForEach(pack => pack.ClearGradients());

        public void Dispose() => packs.ForEach(pack => pack.Dispose());
    }

    /// <summary>Theirs: everything in one type, no gradient for W.</summary>
    private sealed class TorchSet : IDisposable
    {
        public TorchSet(LayerRow row, float[] x, float[] w, float[] dy, float[] a, float[] b, float[] m)
        {
            int t = row.Tokens, n = row.Outputs, k = row.Inputs, r = row.AdapterRank;
            W = TorchTensors.Of(w, [n, k], row.Type);
            X = TorchTensors.Of(x, [t, k], row.Type);
            A = TorchTensors.Of(a, [r, k], row.Type);
            B = TorchTensors.Of(b, [n, r], row.Type);
            M = TorchTensors.Of(m, [n], row.Type);
            Dy = row.Backward ? TorchTensors.Of(dy, [t, n], row.Type) : Torch.empty(0);
            Squares = W.square().sum(1);
            Trained = row.Method switch { Method.Linear => [X], Method.Lora => [X, A, B], _ => [X, A, B, M] };
            foreach (Torch.Tensor p in Trained)
            {
                p.requires_grad = row.Backward;
            }
        }

        public Torch.Tensor X { get; }

        public Torch.Tensor W { get; }

        public Torch.Tensor A { get; }

        public Torch.Tensor B { get; }

        public Torch.Tensor M { get; }

        public Torch.Tensor Squares { get; }

        public Torch.Tensor Dy { get; }

        public Torch.Tensor[] Trained { get; }

        public void Dispose()
        {
            foreach (Torch.Tensor tensor in (ReadOnlySpan<Torch.Tensor>)[X, W, A, B, M, Squares, Dy])
            {
                tensor.Dispose();
            }
        }
    }
}
