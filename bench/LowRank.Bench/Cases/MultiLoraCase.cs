using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>One layer with a frozen weight on a batch of Adapters sequences of TokensEach rows, each with an adapter of its own; forward.</summary>
public sealed record MultiLoraRow(int Adapters, int TokensEach) : Row("multi-adapter forward")
{
    /// <summary>Rows and columns of W.</summary>
    public int Width { get; init; } = 4096;

    /// <inheritdoc/>
    public override int Rank => 16;

    /// <inheritdoc/>
    public override string Shape => $"{Adapters} adapters, {TokensEach} x {Width}x{Width} each";

    /// <inheritdoc/>
    public override Case Make(Device device) => new MultiLoraCase(this, device);
}

internal sealed class MultiLoraCase : Case
{
    private const float Scale = 2;
    private readonly MultiLoraRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly AdapterChoice choice;
    private readonly (Tensor X, Tensor W, AdapterSet Set)[] ours;
    private readonly (Torch.Tensor X, Torch.Tensor W, Torch.Tensor A, Torch.Tensor B, Torch.Tensor[] Rows)[] theirs;

    public MultiLoraCase(MultiLoraRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        (int count, int width, int r, int tokens) = (row.Adapters, row.Width, row.Rank, row.Adapters * row.TokensEach);
        choice = AdapterChoice.PerRow([.. Enumerable.Range(0, count)], row.TokensEach);
        float[] x = Draw("x", (long)tokens * width), w = Draw("w", (long)width * width, 1 / Math.Sqrt(width));
        float[] a = Draw("a", (long)count * r * width, 1 / Math.Sqrt(width)), b = Draw("b", (long)count * width * r, 0.1);
        ours = new (Tensor, Tensor, AdapterSet)[SetsOf(Cost.Bytes)];
        theirs = new (Torch.Tensor, Torch.Tensor, Torch.Tensor, Torch.Tensor, Torch.Tensor[])[ours.Length];
        for (int i = 0; i < ours.Length; i++)
        {
            using (Scope load = device.NewStore())
            {
                AdapterFactors[] factors = [.. Enumerable.Range(0, count).Select(j => new AdapterFactors(
                    load.Of([r, width], a.AsSpan(j * r * width, r * width)), load.Of([width, r], b.AsSpan(j * r * width, r * width)), Scale))];
                ours[i] = (store.Of([tokens, width], x, row.Type), Packing.Pack(load.Of([width, width], w, row.Type), store), AdapterSet.Pack(store, row.Type, factors));
            }
            theirs[i] = (
                TorchTensors.Of(x, [tokens, width], row.Type), TorchTensors.Of(w, [width, width], row.Type), TorchTensors.Of(a, [count, r, width], row.Type), TorchTensors.Of(b, [count, width, r], row.Type),
                [.. Enumerable.Range(0, count).Select(j => Torch.arange((long)j * row.TokensEach, (long)(j + 1) * row.TokensEach))]);
        }
    }

    public override int Sets => ours.Length;

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);     // the peer rounds between its products

    public override Cost Cost
    {
        get
        {
            long tokens = row.Adapters * row.TokensEach, width = row.Width;
            return new(2 * tokens * ((width * width) + (2 * row.Rank * width)), row.Type.Size() * ((width * width) + (2 * tokens * width) + (2 * row.Adapters * row.Rank * width)));
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["one by one"] = Run(OneByOne),
        ["sub-batches"] = Run(SubBatches),      // the order of PEFT's mixed batches: the base for all, then gather, adapter, scatter
        ["baddbmm"] = Run(Batched),             // where all ranks and lengths are equal
    };

    public override void Ours(int set, Results? results = null)
    {
        (Tensor x, Tensor w, AdapterSet adapters) = ours[set];
        using Scope scope = device.BeginScope();
        Tensor y = adapters.Forward(x, w, choice);
        results?.Add(y);
    }

    protected override void Dispose(bool disposing)
    {
        store.Dispose();
        foreach (var set in theirs)
        {
            foreach (Torch.Tensor tensor in (Torch.Tensor[])[set.X, set.W, set.A, set.B, .. set.Rows])
            {
                tensor.Dispose();
            }
        }
    }

    private static Action<int, Results?> Run(Func<int, Torch.Tensor> forward) => (set, results) =>
    {
        using var scope = Torch.NewDisposeScope();
        using var inference = Torch.no_grad();
        Torch.Tensor y = forward(set);      // computed whether or not it is looked at
        results?.Add(y);
    };

    private Torch.Tensor OneByOne(int set)
    {
        var (x, w, a, b, _) = theirs[set];
        return Torch.cat([.. Enumerable.Range(0, row.Adapters).Select(i =>
        {
            Torch.Tensor own = x.narrow(0, (long)i * row.TokensEach, row.TokensEach);
            return Torch.addmm(F.linear(own, w), F.linear(own, a[i]), b[i].t(), 1, Scale);
        })]);
    }

    private Torch.Tensor SubBatches(int set)
    {
        var (x, w, a, b, rows) = theirs[set];
        Torch.Tensor y = F.linear(x, w);
        for (int i = 0; i < rows.Length; i++)
        {
            y.index_add_(0, rows[i], F.linear(F.linear(x.index_select(0, rows[i]), a[i]), b[i]), Scale);
        }
        return y;
    }

    private Torch.Tensor Batched(int set)
    {
        var (x, w, a, b, _) = theirs[set];
        Torch.Tensor each = x.view(row.Adapters, row.TokensEach, -1);
        return each.bmm(a.transpose(1, 2)).baddbmm(b.transpose(1, 2), F.linear(x, w).view(row.Adapters, row.TokensEach, -1), 1, Scale).view(x.shape[0], -1);      // TorchSharp's receiver is the first factor
    }
}
