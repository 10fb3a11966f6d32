namespace LowRank.Subspaces;

/// <summary>Fills in a matrix of low rank from some of its entries by alternating least squares whose inner solves are inexact (arXiv 2302.11068 and
/// 1212.0467, without their split into fresh samples): V ← argmin ‖P(U·Vᵀ − M)‖² + ridge, V orthonormal with U turned along, then U likewise.</summary>
public static class MatrixCompletion
{
    private const string Name = "MatrixCompletion";

    /// <summary>Fits U [rows,k] and V [cols,k]. One sweep costs about n·k² a row of n entries by Cholesky factors and 4·n·k a step by conjugate gradients:
    /// below k of about 16 the direct solver is as fast or faster.</summary>
    /// <param name="data">The known entries.</param>
    /// <param name="options">Settings.</param>
    /// <param name="progress">Told of each sweep.</param>
    /// <param name="cancellation">Stops between two half sweeps; <see cref="CompletionOptions.Checkpoint"/> has the last whole one.</param>
    /// <exception cref="ShapeException">A setting, a place or the state to resume is out of range, or a place occurs twice: names it.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite: names its place.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public static Completion Fit(Observations data, CompletionOptions options, IProgress<CompletionSweep>? progress = null, CancellationToken cancellation = default)
    {
        Check(data, options);
        Entries entries = Entries.Of(data, options.AverageDuplicates);
        BiasModel? biases = options.Biases ? BiasModel.Fit(entries, options.BiasLambda) : null;
        using Device? own = options.Device is null ? Device.Cpu() : null;
        return Run(entries, biases, options, options.Device ?? own!, progress, cancellation);
    }

    private static Completion Run(Entries entries, BiasModel? biases, CompletionOptions options, Device device, IProgress<CompletionSweep>? progress, CancellationToken cancellation)
    {
        double[] values = biases?.Rest(entries) ?? entries.Values;
        double size = Math.Sqrt(values.Average(v => v * v)), tolerance = options.Tolerance ?? (options.Type == DType.F64 ? 1e-10 : 1e-6);
        double exact = size * (options.Type == DType.F64 ? 1e-13 : 1e-6);
        List<string> warnings = [];
        long unknowns = (long)options.Rank * (entries.Rows + entries.Cols - options.Rank);
        if (entries.Values.Length < unknowns && options.Lambda == 0)
        {
            warnings.Add($"fewer observations than degrees of freedom: {entries.Values.Length} for {unknowns}; a smaller rank or a ridge is wanted");
        }
        using var test = TestSet.Of(options, biases, device);
        using var factors = new Alternation(entries, values, options, device);
        List<CompletionSweep> history = [];
        CompletionState state = options.Resume ?? new([], [], 0, double.NaN, false);
        if (options.Resume is null)
        {
            factors.Start();
        }
        else
        {
            factors.U.Set(state.U);
            factors.V.Set(state.V);
        }
        bool converged = false, failed = false;
        int helped = 0;
        while (state.Sweep < options.Sweeps && !converged && !failed)
        {
            int sweep = state.Sweep;
            double rmse = double.NaN;
            try
            {
                if (options.Orthonormal && sweep > 0)
                {
                    factors.Orthonormalize(factors.U, factors.V);
                }
                cancellation.ThrowIfCancellationRequested();
                helped = Half(factors, overV: true, 2 * sweep, state.Tight, options);
                if (options.Orthonormal)
                {
                    factors.Orthonormalize(factors.V, factors.U);
                }
                cancellation.ThrowIfCancellationRequested();
                helped += Half(factors, overV: false, (2 * sweep) + 1, state.Tight, options);
                rmse = Math.Sqrt(factors.Loss() / values.Length);
            }
            catch (NumericException)        // a factor is no longer finite
            {
                failed = true;
            }
            failed |= !double.IsFinite(rmse);
            if (failed)
            {
                warnings.Add($"sweep {sweep + 1} is no longer finite: too few observations for the rank without a ridge");
            }
            converged = tolerance > 0 && (rmse <= exact || Math.Abs(state.Rmse - rmse) <= tolerance * rmse);
            state = new([], [], sweep + 1, rmse, state.Tight || rmse > 0.5 * state.Rmse);
            history.Add(new CompletionSweep(sweep + 1, rmse, failed ? null : test?.Rmse(factors)));
            progress?.Report(history[^1]);
            options.Checkpoint?.Report(state with { U = factors.U.ToDoubles(), V = factors.V.ToDoubles() });
        }
        if (!converged && !failed)
        {
            warnings.Add($"not converged after {state.Sweep} sweeps");
        }
        if (helped > 0)
        {
            warnings.Add($"{helped} systems of the last sweep were singular and got a ridge");
        }
        state = state with { U = factors.U.ToDoubles(), V = factors.V.ToDoubles() };
        return new Completion(state.U, state.V, options.Rank, biases, converged, history, Entries.CountEmpty(entries.Starts), Entries.CountEmpty(entries.TurnedStarts), helped, warnings, state);
    }

    private static int Half(Alternation factors, bool overV, int half, bool tight, CompletionOptions options)
    {
        int helped = factors.Half(overV, half, tight);
        if (options.AfterHalf?.Invoke(half, factors.U.ToDoubles(), factors.V.ToDoubles()) is { } other)
        {
            (overV ? factors.V : factors.U).Set(other);
        }
        return helped;
    }

    private static void Check(Observations data, CompletionOptions options)
    {
        int most = Math.Min(data.Rows, data.Cols);
        if (options.Rank < 1 || options.Rank > most)
        {
            throw new ShapeException($"{Name}: Rank is {options.Rank}, want 1 to {most} for [{data.Rows}, {data.Cols}]");
        }
        if (options.Sweeps < 1 || options.InnerSteps < 1)
        {
            throw new ShapeException($"{Name}: Sweeps is {options.Sweeps} and InnerSteps {options.InnerSteps}, want at least 1");
        }
        if (!(options.Lambda >= 0) || !double.IsFinite(options.Lambda))
        {
            throw new ShapeException($"{Name}: Lambda is {options.Lambda}, want 0 or more");
        }
        if (options.Type is not (DType.F32 or DType.F64))
        {
            throw new ShapeException($"{Name}: Type is {options.Type}, want F32 or F64");
        }
        if (options.Resume is { } state && (state.U.LongLength != (long)data.Rows * options.Rank || state.V.LongLength != (long)data.Cols * options.Rank))
        {
            throw new ShapeException($"{Name}: Resume holds {state.U.Length} and {state.V.Length} values, want U [{data.Rows}, {options.Rank}] and V [{data.Cols}, {options.Rank}]");
        }
        if (options.Test is { } test && (test.Rows != data.Rows || test.Cols != data.Cols || test.Count < 1 || test.RowOf.Length != test.Count || test.ColOf.Length != test.Count
            || test.RowOf.Any(i => i < -1 || i >= data.Rows) || test.ColOf.Any(j => j < -1 || j >= data.Cols)))
        {
            throw new ShapeException($"{Name}: Test is [{test.Rows}, {test.Cols}] with {test.Count} values, want entries of [{data.Rows}, {data.Cols}], a place of -1 where a row or column is unknown");
        }
    }

    /// <summary>Held-out entries on the device; those whose row or column is unknown keep their error.</summary>
    private sealed class TestSet : IDisposable
    {
        private readonly Scope store;
        private readonly SparseRows known;
        private readonly double unknown;
        private readonly int count;

        private TestSet(Observations test, BiasModel? biases, DType type, Device device)
        {
            int[] order = [.. Enumerable.Range(0, test.Count).Where(t => test.RowOf[t] >= 0 && test.ColOf[t] >= 0).OrderBy(t => test.RowOf[t])];
            double Rest(int t) => test.Values[t] - (biases?.Predict(test.RowOf[t], test.ColOf[t]) ?? 0);
            var starts = new long[test.Rows + 1];
            Array.ForEach(order, t => starts[test.RowOf[t] + 1]++);
            for (int i = 0; i < test.Rows; i++)
            {
                starts[i + 1] += starts[i];
            }
            unknown = Enumerable.Range(0, test.Count).Where(t => test.RowOf[t] < 0 || test.ColOf[t] < 0).Sum(t => Rest(t) * Rest(t));
            count = test.Count;
            store = device.NewStore();
            known = new SparseRows(store, test.Cols, starts, [.. order.Select(t => test.ColOf[t])], [.. order.Select(Rest)], type);
        }

        public static TestSet? Of(CompletionOptions options, BiasModel? biases, Device device) => options.Test is { } test ? new TestSet(test, biases, options.Type, device) : null;

        public double Rmse(Alternation factors) => Math.Sqrt((known.Loss(factors.V, factors.U) + unknown) / count);

        public void Dispose() => store.Dispose();
    }
}
