using System.Runtime.InteropServices;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>A layer whose frozen weight [Outputs, Inputs] is quantised, on Tokens rows; with an adapter where it has a rank.</summary>
public sealed record QuantizedRow(string Group, Quantization Kind) : Row(Group)
{
    /// <summary>Rows of x.</summary>
    public int Tokens { get; init; } = 1;

    /// <summary>Rows and columns of W.</summary>
    public int Width { get; init; } = 4096;

    /// <summary>Rank of A and B, or 0.</summary>
    public int AdapterRank { get; init; }

    /// <summary>True where the peer holds codes too and spells them out at each call; else it holds the weight in the type of the activations.</summary>
    public bool PeerHasCodes { get; init; }

    /// <inheritdoc/>
    public override int Rank => AdapterRank;

    /// <inheritdoc/>
    public override string Shape => $"{Kind} {Tokens} x {Width}x{Width}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new QuantizedCase(this, device);
}

internal sealed class QuantizedCase : Case
{
    private const float Scale = 2;
    private readonly QuantizedRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Tensor x;
    private readonly Tensor? a, b;
    private readonly Tensor[] ours;
    private readonly TorchSet shared;
    private readonly Torch.Tensor[] codes, weights;

    public QuantizedCase(QuantizedRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        int t = row.Tokens, n = row.Width, r = row.AdapterRank;
        QuantizedMatrix matrix = QuantizedMatrix.Quantize(Draw("w", (long)n * n, 1 / Math.Sqrt(n)), [n, n], row.Kind);
        float[] xs = Draw("x", (long)t * n), ups = Draw("b", (long)n * r, 0.1), downs = Draw("a", (long)r * n, 1 / Math.Sqrt(n));
        x = store.Of([t, n], xs, row.Type);
        (a, b) = r > 0 ? (store.Of([r, n], downs), store.Of([n, r], ups)) : (null, null);
        ours = [.. Enumerable.Range(0, SetsOf(matrix.Bytes)).Select(_ => matrix.ToTensor(store))];
        shared = new TorchSet(row, matrix, xs, downs, ups);
        codes = [.. Enumerable.Range(0, row.PeerHasCodes ? Sets : 0).Select(_ => TorchSet.CodesOf(matrix))];
        float[] values = row.PeerHasCodes ? [] : ours[0].ToArray();
        weights = [.. Enumerable.Range(0, row.PeerHasCodes ? 0 : Sets).Select(_ => TorchTensors.Of(values, [n, n], row.Type))];
    }

    public override int Sets => ours.Length;

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);

    public override Cost Cost => row.AdapterRank > 0 ? new LoraLinear(Scale).Cost((Tensor?[])[x, ours[0], a, b]) : new Linear().Cost((Tensor?[])[x, ours[0]]);

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        [row.PeerHasCodes ? "dequantise, linear" : "linear"] = (set, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            using var off = Torch.no_grad();
            Torch.Tensor y = F.linear(shared.X, row.PeerHasCodes ? shared.SpellOut(codes[set]) : weights[set]);
            if (row.AdapterRank > 0)
            {
                y = Torch.addmm(y, F.linear(shared.X, shared.A), shared.B.t(), 1, Scale);
            }
            results?.Add(y);
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using Scope scope = device.BeginScope();
        Tensor y = row.AdapterRank > 0 ? new LoraLinear(Scale).Apply(x, ours[set], a, b) : new Linear().Apply(x, ours[set]);
        results?.Add(y);
    }

    protected override void Dispose(bool disposing)
    {
        store.Dispose();
        shared.Dispose();
        foreach (Torch.Tensor tensor in codes.Concat(weights))
        {
            tensor.Dispose();
        }
    }

    /// <summary>What torch needs beside the codes or the weight.</summary>
    private sealed class TorchSet(QuantizedRow row, QuantizedMatrix matrix, float[] x, float[] a, float[] b) : IDisposable
    {
        private readonly Torch.Tensor scales = TorchTensors.Of(matrix.Scales, [matrix.Scales.Length, 1], DType.F32);
        private readonly Torch.Tensor pairs = TorchTensors.Of(PairsOf(matrix), [256, 2], DType.F32);

        public Torch.Tensor X { get; } = TorchTensors.Of(x, [row.Tokens, row.Width], row.Type);

        public Torch.Tensor A { get; } = TorchTensors.Of(a, [row.AdapterRank, row.Width], row.Type);

        public Torch.Tensor B { get; } = TorchTensors.Of(b, [row.Width, row.AdapterRank], row.Type);

        public static Torch.Tensor CodesOf(QuantizedMatrix matrix) => matrix.Kind == Quantization.Int8Rows
            ? Torch.tensor(MemoryMarshal.Cast<byte, sbyte>(matrix.Codes).ToArray(), [matrix.Shape[0], matrix.Shape[1]], Torch.ScalarType.Int8)
            : Torch.tensor(matrix.Codes.ToArray(), [matrix.Codes.Length], Torch.ScalarType.Byte);

        /// <summary>The weight: bytes times their row's scale; or both values of each byte from a table of 256 pairs, the fastest way torch has, times their block's.</summary>
        public Torch.Tensor SpellOut(Torch.Tensor codes) => (row.Kind == Quantization.Int8Rows
            ? codes.to(Torch.ScalarType.Float32).mul_(scales / 127)
            : pairs.index_select(0, codes.to(Torch.ScalarType.Int32)).view(-1, matrix.BlockSize).mul_(scales).view(row.Width, row.Width)).to(X.dtype);

        public void Dispose()
        {
            foreach (Torch.Tensor tensor in (ReadOnlySpan<Torch.Tensor>)[scales, pairs, X, A, B])
            {
                tensor.Dispose();
            }
        }

        private static float[] PairsOf(QuantizedMatrix matrix)
        {
            float[] map = matrix.Map.ToArray();
            return [.. Enumerable.Range(0, 512).Select(i => map.Length == 0 ? 0 : map[(i % 2 == 0 ? i / 2 >> 4 : i / 2) & 15])];
        }
    }
}
