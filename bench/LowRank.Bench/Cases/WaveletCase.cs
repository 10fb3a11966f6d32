using System.Text.Json.Nodes;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>A transform of several levels of a square matrix, with zeros outside; float32. The peer does it as PyTorch's wavelet packages do, a strided
/// convolution with the four products of the filters a level, or is PyWavelets.</summary>
public sealed record WaveletRow(string Wavelet, int Size, bool Inverse, bool PyWavelets = false) : Row((Inverse ? "wavelets, inverse" : "wavelets") + (PyWavelets ? ", against PyWavelets" : ""))
{
    /// <summary>How often the approximation is taken apart.</summary>
    public int Levels { get; init; } = 3;

    /// <inheritdoc/>
    public override string Shape => $"{Size}x{Size} {Wavelet} J{Levels}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new WaveletCase(this, device);
}

internal sealed class WaveletCase : Case
{
    private readonly WaveletRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly WaveletLayout layout;
    private readonly Op op;
    private readonly Tensor input;
    private readonly PythonTransform? python;
    private readonly Torch.Tensor theirs, down, up;
    private readonly Torch.Tensor[] bands;      // LL of the deepest level, then [1, 3, rows, cols] of each level from there on

    public WaveletCase(WaveletRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        Wavelet wavelet = Wavelet.Of(row.Wavelet);
        layout = new(wavelet, WaveletMode.Zero, row.Levels, row.Size, row.Size);
        op = row.Inverse ? new InverseWavelet2(wavelet, WaveletMode.Zero, row.Levels, row.Size, row.Size) : new Wavelet2(wavelet, WaveletMode.Zero, row.Levels);
        float[] values = Draw("x", row.Inverse ? layout.Count : (long)row.Size * row.Size);
        input = store.Of(row.Inverse ? [layout.Count] : [row.Size, row.Size], values);
        (down, up) = (Products(wavelet.DecLow, wavelet.DecHigh, reversed: true), Products(wavelet.RecLow, wavelet.RecHigh, reversed: false));
        theirs = row.Inverse ? Torch.zeros(1) : TorchTensors.Of(values, [1, 1, row.Size, row.Size], DType.F32);
        bands = row.Inverse ? [.. Places().Select(p => TorchTensors.Of(values.AsSpan(p.Offset, p.Bands * p.Rows * p.Cols).ToArray(), [1, p.Bands, p.Rows, p.Cols], DType.F32))] : [];
        var options = new JsonObject { ["rows"] = row.Size, ["cols"] = row.Size, ["levels"] = row.Levels, ["wavelet"] = row.Wavelet, ["mode"] = "zero" };
        python = row.PyWavelets ? new PythonTransform(row.Inverse ? "synthesis" : "analysis", options, values) : null;
    }

    public override string Library => python is null ? base.Library : "";

    public override Cost Cost => op.Cost(new Tensor?[] { input });

    public override double Bound => Close.Layer;

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => python?.Ways ?? new Dictionary<string, Action<int, Results?>>
    {
        [row.Inverse ? "conv_transpose2d" : "conv2d"] = (_, results) =>
        {
            using var scope = Torch.NewDisposeScope();
            using var off = Torch.no_grad();
            Torch.Tensor y = row.Inverse ? Synthesis() : Analysis();
            results?.Add(y);
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using Scope scope = device.BeginScope();
        Tensor y = op.Apply(input);
        results?.Add(y);
    }

    protected override void Dispose(bool disposing)
    {
        python?.Dispose();
        store.Dispose();
        Array.ForEach([theirs, down, up, .. bands], t => t.Dispose());
    }

    private IEnumerable<(int Offset, int Bands, int Rows, int Cols)> Places()
    {
        WaveletPlace coarse = layout[row.Levels, WaveletBand.Approximation];
        yield return (coarse.Offset, 1, coarse.Rows, coarse.Cols);
        for (int level = row.Levels; level >= 1; level--)
        {
            WaveletPlace first = layout[level, WaveletBand.Horizontal];
            yield return (first.Offset, 3, first.Rows, first.Cols);
        }
    }

    /// <summary>LL, HL, LH, HH: products of a filter along axis 0 and one along axis 1, [4, 1, L, L].</summary>
    private static Torch.Tensor Products(ReadOnlySpan<double> low, ReadOnlySpan<double> high, bool reversed)
    {
        int taps = low.Length;
        double[] l = low.ToArray(), h = high.ToArray();
        float[] all = [.. ((double[] Rows, double[] Cols)[])[(l, l), (h, l), (l, h), (h, h)] is var pairs ? pairs.SelectMany(p => Enumerable.Range(0, taps * taps)
            .Select(i => (float)(p.Rows[Place(i / taps)] * p.Cols[Place(i % taps)]))) : []];
        return TorchTensors.Of(all, [4, 1, taps, taps], DType.F32);

        int Place(int k) => reversed ? taps - 1 - k : k;
    }

    private Torch.Tensor Analysis()
    {
        int taps = layout.Wavelet.Length;
        Torch.Tensor x = theirs;
        List<Torch.Tensor> details = [];
        for (int level = 1; level <= row.Levels; level++)
        {
            long Right(long n) => (2 * ((n + taps - 1) / 2)) - n;
            Torch.Tensor all = F.conv2d(F.pad(x, [taps - 2, Right(x.shape[3]), taps - 2, Right(x.shape[2])]), down, strides: [2, 2]);
            details.Insert(0, all.narrow(1, 1, 3).flatten());
            x = all.narrow(1, 0, 1);
        }
        return Torch.cat([x.flatten(), .. details]);
    }

    private Torch.Tensor Synthesis()
    {
        int taps = layout.Wavelet.Length;
        Torch.Tensor x = bands[0];
        for (int level = row.Levels; level >= 1; level--)
        {
            Torch.Tensor details = bands[row.Levels - level + 1];
            Torch.Tensor all = F.conv_transpose2d(Torch.cat([x, details], 1), up, strides: [2, 2]);
            WaveletPlace wanted = level == 1 ? new(0, row.Size, row.Size) : layout[level - 1, WaveletBand.Horizontal];
            x = all.narrow(2, taps - 2, wanted.Rows).narrow(3, taps - 2, wanted.Cols);
        }
        return x.contiguous();
    }
}
