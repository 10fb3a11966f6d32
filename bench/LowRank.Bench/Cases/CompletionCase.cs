using System.Runtime.Intrinsics;

namespace LowRank.Bench.Cases;

/// <summary>Half a sweep of matrix completion: every row's ridge regression on the factor of the columns; float32. The peer does what benfred/implicit
/// publishes: normal equations summed up entry by entry and Cholesky, or three steps of conjugate gradients on them, rows handed out to all threads.
/// It is created anew here in vectors of 512 bits, because the package is Python's.</summary>
/// <param name="Users">Rows.</param>
/// <param name="Items">Columns.</param>
/// <param name="Entries">Observed entries, the same number in each row, at columns drawn at random.</param>
/// <param name="Factors">Rank.</param>
/// <param name="Gradients">Three conjugate gradient steps from zero on both sides, in the place of Cholesky.</param>
public sealed record CompletionRow(int Users, int Items, int Entries, int Factors, bool Gradients) : Row(Gradients ? "completion, 3-step CG" : "completion, Cholesky")
{
    /// <summary>Small and whole sizes of both solvers.</summary>
    public static IEnumerable<CompletionRow> All { get; } =
        from gradients in new[] { false, true }
        from size in new[] { (10_000, 5_000, 1_000_000), (100_000, 50_000, 20_000_000) }
        from factors in new[] { 16, 32, 64 }
        select new CompletionRow(size.Item1, size.Item2, size.Item3, factors, gradients);

    /// <inheritdoc/>
    public override string Shape => $"{Users}x{Items}, {Entries / 1e6:0.#} M entries";

    /// <inheritdoc/>
    public override int Rank => Factors;

    /// <inheritdoc/>
    public override Case Make(Device device) => new CompletionCase(this, device);
}

internal sealed class CompletionCase : Case
{
    private const float Ridge = 1;
    private const int Steps = 3;
    private readonly CompletionRow row;
    private readonly Scope store;
    private readonly SparseRows sparse;
    private readonly Tensor y, x;
    private readonly float[] factor, values, theirs;
    private readonly int[] columns;

    public CompletionCase(CompletionRow row, Device device)
    {
        this.row = row;
        store = device.NewStore();
        factor = Draw("factor", (long)row.Items * row.Factors);
        values = Draw("values", row.Entries);
        columns = new int[row.Entries];
        var rng = new Rng(1);
        for (int t = 0; t < columns.Length; t++)
        {
            columns[t] = rng.Below(row.Items);
        }
        int each = row.Entries / row.Users;
        sparse = new SparseRows(store, row.Items, [.. Enumerable.Range(0, row.Users + 1).Select(i => (long)i * each)], columns, [.. values.Select(v => (double)v)], DType.F32);
        y = store.Of([row.Items, row.Factors], factor);
        x = store.NewZeros([row.Users, row.Factors], DType.F32);
        theirs = new float[(long)row.Users * row.Factors];
    }

    /// <summary>Symmetric normal matrices and their factors; gradients: two passes a step and two before. Least bytes: entries, factors once.</summary>
    public override Cost Cost => new(
        row.Gradients ? (long)row.Entries * row.Factors * 4 * (Steps + 1) : ((long)row.Entries * row.Factors * (row.Factors + 3)) + ((long)row.Users * row.Factors * row.Factors * row.Factors / 3),
        (8L * row.Entries) + (4L * row.Factors * (row.Users + row.Items)));

    public override double Bound => Testing.Close.Model;

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => new Dictionary<string, Action<int, Results?>>
    {
        ["implicit's ALS, re-created"] = (_, results) =>
        {
            Parallel.For(0, row.Users, new ParallelOptions { MaxDegreeOfParallelism = row.Threads }, () => new float[row.Factors * (row.Factors + 3)], Solve, _ => { });
            results?.Values.Add([.. theirs.Select(v => (double)v)]);
        },
    };

    /// <summary>Gradients start from zero.</summary>
    public override void Prepare(int set)
    {
        x.Fill(0);
        Array.Clear(theirs);
    }

    public override void Ours(int set, Results? results = null)
    {
        sparse.Solve(y, x, new RowSolve(Ridge, DirectBelow: row.Gradients ? 0 : int.MaxValue, Steps: Steps));
        results?.Add(x);
    }

    protected override void Dispose(bool disposing) => store.Dispose();

    private float[] Solve(int user, ParallelLoopState state, float[] scratch)
    {
        int r = row.Factors, each = row.Entries / row.Users;
        Span<float> mine = theirs.AsSpan(user * r, r), b = scratch.AsSpan(r * r, r);
        ReadOnlySpan<int> items = columns.AsSpan(user * each, each);
        ReadOnlySpan<float> ratings = values.AsSpan(user * each, each);
        if (row.Gradients)
        {
            Conjugate(items, ratings, mine, b, scratch.AsSpan((r * r) + r, r), scratch.AsSpan((r * r) + (2 * r), r));
            return scratch;
        }
        Span<float> a = scratch.AsSpan(0, r * r);
        a.Clear();
        b.Clear();
        for (int j = 0; j < r; j++)
        {
            a[(j * r) + j] = Ridge;
        }
        for (int t = 0; t < items.Length; t++)
        {
            ReadOnlySpan<float> item = factor.AsSpan(items[t] * r, r);
            Add(ratings[t], item, b);
            for (int j = 0; j < r; j++)
            {
                Add(item[j], item, a.Slice(j * r, r));
            }
        }
        // UᵀU = A by rows, then the two triangles.
        for (int j = 0; j < r; j++)
        {
            float scale = 1 / MathF.Sqrt(a[(j * r) + j]);
            for (int c = j; c < r; c++)
            {
                a[(j * r) + c] *= scale;
            }
            for (int i = j + 1; i < r; i++)
            {
                Add(-a[(j * r) + i], a.Slice((j * r) + i, r - i), a.Slice((i * r) + i, r - i));
            }
            b[j] *= scale;
            Add(-b[j], a.Slice((j * r) + j + 1, r - j - 1), b[(j + 1)..]);
        }
        for (int j = r - 1; j >= 0; j--)
        {
            mine[j] = (b[j] - Dot(a.Slice((j * r) + j + 1, r - j - 1), mine[(j + 1)..])) / a[(j * r) + j];
        }
        return scratch;
    }

    private void Conjugate(ReadOnlySpan<int> items, ReadOnlySpan<float> ratings, Span<float> x, Span<float> rest, Span<float> move, Span<float> image)
    {
        int r = row.Factors;
        rest.Clear();
        Add(-Ridge, x, rest);
        for (int t = 0; t < items.Length; t++)
        {
            ReadOnlySpan<float> item = factor.AsSpan(items[t] * r, r);
            Add(ratings[t] - Dot(item, x), item, rest);
        }
        rest.CopyTo(move);
        float before = Dot(rest, rest);
        for (int step = 0; step < Steps; step++)
        {
            image.Clear();
            Add(Ridge, move, image);
            foreach (int i in items)
            {
                ReadOnlySpan<float> item = factor.AsSpan(i * r, r);
                Add(Dot(item, move), item, image);
            }
            float length = before / Dot(move, image);
            Add(length, move, x);
            Add(-length, image, rest);
            float after = Dot(rest, rest);
            for (int j = 0; j < r; j++)
            {
                move[j] = rest[j] + (after / before * move[j]);
            }
            before = after;
        }
    }

    private static void Add(float a, ReadOnlySpan<float> x, Span<float> y)
    {
        int i = 0;
        for (; i + 16 <= y.Length; i += 16)
        {
            Vector512.FusedMultiplyAdd(Vector512.Create(a), Vector512.Create(x[i..]), Vector512.Create<float>(y[i..])).CopyTo(y[i..]);
        }
        for (; i < y.Length; i++)
        {
            y[i] += a * x[i];
        }
    }

    private static float Dot(ReadOnlySpan<float> x, ReadOnlySpan<float> y)
    {
        Vector512<float> total = default;
        int i = 0;
        for (; i + 16 <= x.Length; i += 16)
        {
            total = Vector512.FusedMultiplyAdd(Vector512.Create(x[i..]), Vector512.Create(y[i..]), total);
        }
        float sum = Vector512.Sum(total);
        for (; i < x.Length; i++)
        {
            sum += x[i] * y[i];
        }
        return sum;
    }
}
