namespace LowRank.Subspaces;

/// <summary>The two factors of a completion on a device, and half a sweep over either.</summary>
internal sealed class Alternation : IDisposable
{
    private const int PowerSteps = 15, ManyUnknowns = 16;
    private const int SketchAt = 8, SketchFactor = 4, SketchNonZeros = 8;      // entries an unknown, rows an unknown, per column
    private const double Incoherent = 20;
    private const double RandomScale = 0.1;
    private readonly Entries entries;
    private readonly CompletionOptions options;
    private readonly Device device;
    private readonly Scope store;
    private readonly SparseRows byRow, byCol;
    private readonly double[] values, turned;

    /// <param name="entries">The places.</param>
    /// <param name="values">What is fitted there, in the order of rows.</param>
    /// <param name="options">Settings.</param>
    /// <param name="device">Where.</param>
    public Alternation(Entries entries, double[] values, CompletionOptions options, Device device)
    {
        (this.entries, this.values, this.options, this.device) = (entries, values, options, device);
        turned = entries.Turned(values);
        store = device.NewStore();
        byRow = new SparseRows(store, entries.Cols, entries.Starts, entries.Columns, values, options.Type);
        byCol = new SparseRows(store, entries.Rows, entries.TurnedStarts, entries.TurnedRows, turned, options.Type);
        U = store.NewZeros([entries.Rows, options.Rank], options.Type);
        V = store.NewZeros([entries.Cols, options.Rank], options.Type);
    }

    /// <summary>[rows, k].</summary>
    public Tensor U { get; }

    /// <summary>[cols, k].</summary>
    public Tensor V { get; }

    public void Dispose() => store.Dispose();

    /// <summary>First factors: U orthonormal and V = Pᵀ·U/p for the matrix P of the observed entries, a share p of all; or small random ones.</summary>
    public void Start()
    {
        var rng = new Rng(options.Seed);
        var first = new double[(long)entries.Rows * options.Rank];
        rng.Fork("first basis").FillNormal(first, 0, 1);
        if (options.Start == CompletionStart.Random)
        {
            double scale = RandomScale * Math.Sqrt(Math.Sqrt(values.Average(v => v * v)) / options.Rank);
            U.Set([.. first.Select(v => scale * v)]);
            return;
        }
        U.Set(options.FirstBasis ?? first);
        Orthonormalize(U, null);
        for (int step = 0; step < PowerSteps; step++)
        {
            byCol.Product(U, V);
            byRow.Product(V, U);
            Orthonormalize(U, null);
        }
        byCol.Product(U, V);
        using Scope scope = device.BeginScope();
        double share = (double)values.Length / ((double)entries.Rows * entries.Cols);
        V.CopyFrom(new MatMul(Scale: 1 / share).Apply(V, Diagonal(scope, new double[options.Rank])));
    }

    /// <summary>x becomes orthonormal, x = Q·R with a positive diagonal, and the other factor is turned with it, other ← other·Rᵀ, so that their product stays.</summary>
    public void Orthonormalize(Tensor x, Tensor? other)
    {
        using Scope scope = device.BeginScope();
        (Tensor q, Tensor r) = Qr.Of(x, scope);
        double[] diagonal = r.ToDoubles();
        Tensor signs = Diagonal(scope, [.. Enumerable.Range(0, options.Rank).Select(j => diagonal[(j * options.Rank) + j])]);
        x.CopyFrom(new MatMul().Apply(q, signs));
        other?.CopyFrom(new MatMul(TransposeB: true).Apply(other, new MatMul().Apply(signs, r)));
    }

    /// <summary>Half a sweep over V or U: the number of rows whose normal matrix needed help.</summary>
    /// <param name="overV">V from U; else U from V.</param>
    /// <param name="half">Number of the half sweep, for the draws of sketches.</param>
    /// <param name="tight">Conjugate gradients of <see cref="CompletionSolver.Auto"/> end at the smaller share.</param>
    public int Half(bool overV, int half, bool tight)
    {
        int k = options.Rank;
        (SparseRows sparse, Tensor other, Tensor mine) = overV ? (byCol, U, V) : (byRow, V, U);
        CompletionSolver solver = options.Solver;
        double reduction = 0;
        int directBelow = solver == CompletionSolver.Direct || (solver == CompletionSolver.Auto && k < ManyUnknowns) ? int.MaxValue : 0;
        if (solver == CompletionSolver.Auto && directBelow == 0)
        {
            (directBelow, reduction) = (2 * k, tight ? 0.01 : 0.1);
            solver = options.Orthonormal && MostOfMean(other) > Incoherent ? CompletionSolver.Sketched : CompletionSolver.Gradients;
        }
        bool sketched = solver == CompletionSolver.Sketched;
        int helped = sparse.Solve(other, mine, new RowSolve(options.Lambda, options.WeightedLambda, sketched ? SketchAt * k : directBelow, sketched ? 0 : options.InnerSteps, reduction));
        if (sketched)
        {
            Sketch(overV, half, other.ToDoubles(), mine);
        }
        return helped;
    }

    /// <summary>Σ over the observed entries of (U·Vᵀ − value)².</summary>
    public double Loss() => byRow.Loss(V, U);

    /// <summary>The largest squared length of a row of an orthonormal factor in units of the mean.</summary>
    private double MostOfMean(Tensor q)
    {
        int k = options.Rank;
        double[] all = q.ToDoubles();
        double most = 0;
        for (int i = 0; i < all.Length; i += k)
        {
            double squares = 0;
            foreach (double v in all.AsSpan(i, k))
            {
                squares += v * v;
            }
            most = Math.Max(most, squares);
        }
        return most * q.Shape[0] / k;
    }

    private void Sketch(bool overV, int half, double[] other, Tensor mine)
    {
        int k = options.Rank;
        (long[] starts, int[] columns, double[] all) = overV ? (entries.TurnedStarts, entries.TurnedRows, turned) : (entries.Starts, entries.Columns, values);
        double[] found = mine.ToDoubles();
        Parallel.For(0, starts.Length - 1, i =>
        {
            int first = (int)starts[i], count = (int)starts[i + 1] - first;
            if (count < SketchAt * k)
            {
                return;
            }
            var a = new double[count * k];
            for (int t = 0; t < count; t++)
            {
                other.AsSpan(columns[first + t] * k, k).CopyTo(a.AsSpan(t * k, k));
            }
            var sketch = SparseSketch.Draw(count, SketchFactor * k, Math.Min(SketchNonZeros, SketchFactor * k), new Rng(options.Seed).Fork($"sketch {half} {i}"));
            double ridge = options.Lambda * (options.WeightedLambda ? count : 1);
            var system = new SketchedLeastSquares(a, all[first..(first + count)], k, sketch, ridge);
            system.Gradients(options.InnerSteps, found[(i * k)..((i + 1) * k)]).CopyTo(found, i * k);
        });
        mine.Set(found);
    }

    /// <summary>The signs of some values on a diagonal; 1 for 0.</summary>
    private Tensor Diagonal(Scope scope, double[] signs)
    {
        var diagonal = new double[signs.Length * signs.Length];
        for (int j = 0; j < signs.Length; j++)
        {
            diagonal[(j * signs.Length) + j] = signs[j] < 0 ? -1 : 1;
        }
        return scope.Of([signs.Length, signs.Length], diagonal, options.Type);
    }
}
