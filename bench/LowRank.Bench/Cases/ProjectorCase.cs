using LowRank.Oracle;
using LowRank.Testing;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>New factors of GaLore's projection for a gradient [m,n] whose singular values fall off; float32. The peer decomposes the whole matrix.</summary>
public sealed record ProjectorRow(int Rows, int Cols, int Kept) : Row("galore factors")
{
    /// <summary>By the randomised range finder.</summary>
    public bool Randomised { get; init; }

    /// <inheritdoc/>
    public override string Shape => $"{Rows}x{Cols}{(Randomised ? " randomised" : "")}";

    /// <inheritdoc/>
    public override int Rank => Kept;

    /// <inheritdoc/>
    public override Case Make(Device device) => new ProjectorCase(this, device);
}

internal sealed class ProjectorCase : Case
{
    private const double Decay = 0.9;     // of a column beside the one before
    private readonly ProjectorRow row;
    private readonly Device device;
    private readonly Scope store;
    private readonly Tensor gradient;
    private readonly Torch.Tensor theirs;

    public ProjectorCase(ProjectorRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        store = device.NewStore();
        float[] g = Draw("g", (long)row.Rows * row.Cols);
        for (int i = 0; i < g.Length; i++)
        {
            g[i] *= (float)Math.Pow(Decay, i % row.Cols);
        }
        gradient = store.Of([row.Rows, row.Cols], g);
        theirs = TorchTensors.Of(g, [row.Rows, row.Cols], DType.F32);
    }

    public override Cost Cost => new(4L * row.Rows * row.Cols * row.Kept, 4L * row.Rows * row.Cols);     // a product with the factors, one pass over G

    public override double Bound => Close.Randomized;

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["linalg.svd"] = (_, results) =>
        {
            using (Torch.NewDisposeScope())
            {
                Torch.Tensor values = Torch.linalg.svd(theirs, fullMatrices: false).Item2;
                results?.Add(values.narrow(0, 0, row.Kept));
            }
        },
    };

    public override void Ours(int set, Results? results = null)
    {
        using Scope scope = device.BeginScope();
        SvdFactors factors = row.Randomised ? Svd.Top(gradient, row.Kept, scope, new Rng(1)) : Svd.Of(gradient, scope, row.Kept);
        results?.Add(factors.S);
    }

    protected override void Dispose(bool disposing)
    {
        store.Dispose();
        theirs.Dispose();
    }
}
