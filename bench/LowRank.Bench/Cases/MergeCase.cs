using LowRank.Oracle;
using LowRank.Testing;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>How models are merged.</summary>
public enum MergeWork
{
    /// <summary>θ₀ + λ Σ τ.</summary>
    Linear,
    /// <summary>The largest fifth of every τ, signs elected.</summary>
    Ties,
    /// <summary>Half of every τ dropped; the peer is given what the engine draws.</summary>
    Dare,
}

/// <summary>One pass over <paramref name="Models"/> checkpoints [Size, Size] and their base.</summary>
public sealed record MergeRow(MergeWork Work, int Size, int Models) : Row($"merge, {Work.ToString().ToLowerInvariant()}")
{
    /// <inheritdoc/>
    public override string Shape => $"{Models} of {Size}x{Size}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new MergeCase(this, device);
}

internal sealed class MergeCase : Case
{
    private const double Lambda = 0.3, Drop = 0.5;
    private const int Keep = 20;
    private readonly MergeRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Tensor start;
    private readonly Tensor[] models;
    private readonly Torch.Tensor theirStart;
    private readonly Torch.Tensor[] theirs, masks;

    public MergeCase(MergeRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        Shape shape = [row.Size, row.Size];
        float[] origin = Draw("start", shape.Count);
        start = store.Of(shape, origin, row.Type);
        theirStart = TorchTensors.Of(origin, shape, row.Type);
        (models, theirs, masks) = (new Tensor[row.Models], new Torch.Tensor[row.Models], new Torch.Tensor[row.Models]);
        Rng rng = new Rng(0).Fork("dare");
        for (int t = 0; t < row.Models; t++)
        {
            float[] moved = Draw($"model {t}", shape.Count, 0.1);
            for (int i = 0; i < moved.Length; i++)
            {
                moved[i] += origin[i];
            }
            models[t] = store.Of(shape, moved, row.Type);
            theirs[t] = TorchTensors.Of(moved, shape, row.Type);
            Rng draws = rng.Fork($"{t}");
            masks[t] = row.Work == MergeWork.Dare ? Torch.tensor([.. Enumerable.Range(0, moved.Length).Select(i => draws.Uniform(i) > Drop)]).reshape(row.Size, row.Size) : Torch.empty(0);
        }
    }

    public override Cost Cost => new((row.Work == MergeWork.Ties ? 12L : 4L) * row.Models * row.Size * row.Size, (row.Models + 2L) * row.Type.Size() * row.Size * row.Size);

    public override double Bound => row.Type == DType.F32 ? Close.Layer : 2 * Close.Bound(row.Type);

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["tensor ops"] = (_, results) =>
        {
            using (Torch.no_grad())
            using (Torch.NewDisposeScope())
            {
                Torch.Tensor origin = theirStart.to(Torch.ScalarType.Float32);
                Torch.Tensor[] vectors = [.. theirs.Select(x => x.to(Torch.ScalarType.Float32) - origin)];
                Torch.Tensor sum = row.Work switch
                {
                    MergeWork.Ties => Elected([.. vectors.Select(Trimmed)]),
                    MergeWork.Dare => vectors.Zip(masks, (v, m) => v * m / (1 - Drop)).Aggregate((a, b) => a + b),
                    _ => vectors.Aggregate((a, b) => a + b),
                };
                results?.Add((origin + (sum * Lambda)).to(theirStart.dtype));
            }
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using Scope scope = device.BeginScope();
        Tensor merged = row.Work switch
        {
            MergeWork.Ties => TensorMerge.Ties(start, models, Keep, lambda: Lambda),
            MergeWork.Dare => TensorMerge.Dare(start, models, Drop, Lambda),
            _ => TensorMerge.TaskArithmetic(start, models, Lambda),
        };
        results?.Add(merged);
    }

    protected override void Dispose(bool disposing)
    {
        store.Dispose();
        theirStart.Dispose();
        Array.ForEach([.. theirs, .. masks], t => t.Dispose());
    }

    private static Torch.Tensor Trimmed(Torch.Tensor vector)
    {
        Torch.Tensor magnitudes = vector.abs();
        long d = vector.numel();
        return Torch.where(magnitudes >= magnitudes.flatten().kthvalue(d - (long)(d * (Keep / 100.0)), 0).values, vector, 0);
    }

    private static Torch.Tensor Elected(Torch.Tensor[] vectors)
    {
        Torch.Tensor signs = vectors.Aggregate((a, b) => a + b).sign();
        signs = Torch.where(signs == 0, signs.sum().sign(), signs);
        return vectors.Select(v => v * (v.sign() == signs)).Aggregate((a, b) => a + b);
    }
}
