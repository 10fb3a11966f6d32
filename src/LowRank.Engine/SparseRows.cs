namespace LowRank;

/// <summary>A sparse matrix [rows, cols] on a device, row by row, and what alternating least squares need of it: a factor's rows from the other factor's,
/// products and errors. Every row is computed by itself in a fixed order, so the bits do not depend on the number of threads.</summary>
public sealed class SparseRows
{
    private readonly Tensor starts, columns, values, flags, losses;

    /// <summary>Copies the matrix to a device.</summary>
    /// <param name="scope">Where it lives.</param>
    /// <param name="cols">Columns of the matrix.</param>
    /// <param name="starts">Where each row's entries begin, and after the last row their number; [rows+1].</param>
    /// <param name="columns">Column of every entry.</param>
    /// <param name="values">Value of every entry.</param>
    /// <param name="type">F32 or F64.</param>
    /// <exception cref="ShapeException">The parts do not fit each other: names what is wrong.</exception>
    public SparseRows(Scope scope, int cols, ReadOnlySpan<long> starts, ReadOnlySpan<int> columns, ReadOnlySpan<double> values, DType type)
    {
        (Rows, Cols) = (starts.Length - 1, cols);
        bool ordered = Rows >= 0 && starts[0] == 0 && starts[^1] == columns.Length;
        for (int i = 0; ordered && i < Rows; i++)
        {
            ordered = starts[i] <= starts[i + 1];
        }
        if (!ordered || values.Length != columns.Length || type is not (DType.F32 or DType.F64))
        {
            throw new ShapeException($"SparseRows: {Rows} rows, {columns.Length} columns and {values.Length} values of {type}, want starts from 0 up to the number of entries, a column and a value of F32 or F64 for each");
        }
        foreach (int column in columns)
        {
            if ((uint)column >= (uint)cols)
            {
                throw new ShapeException($"SparseRows: a column is {column}, want 0 to {cols - 1}");
            }
        }
        Type = type;
        this.starts = scope.OfRaw([starts.Length], DType.I64, System.Runtime.InteropServices.MemoryMarshal.AsBytes(starts));
        this.columns = scope.Of([columns.Length], columns);
        this.values = scope.New([values.Length], type);
        this.values.Set(values);
        flags = scope.New([Rows], DType.I32);
        losses = scope.New([Rows], type);
    }

    /// <summary>Number of rows.</summary>
    public int Rows { get; }

    /// <summary>Number of columns.</summary>
    public int Cols { get; }

    /// <summary>F32 or F64, for values and factors alike.</summary>
    public DType Type { get; }

    /// <summary>x_i = argmin ‖A_i·x − b_i‖² + ridge·‖x‖² for every row i, where A_i [count,r] are the rows of y at the entries of row i and b_i their values;
    /// 0 for a row without entries. Rows of fewer than <see cref="RowSolve.DirectBelow"/> entries by Cholesky factors of the normal matrix, the others by
    /// conjugate gradients on A_i from what x holds (arXiv 2302.11068).</summary>
    /// <param name="y">The other factor [cols, r].</param>
    /// <param name="x">This one [rows, r]: read where gradients start from it, overwritten.</param>
    /// <param name="solve">How.</param>
    /// <returns>Rows whose normal matrix was not positive definite and got a ridge of 1e-6 or 1e-4 of its mean diagonal on top, or became 0.</returns>
    /// <exception cref="ShapeException">A factor does not fit.</exception>
    public int Solve(Tensor y, Tensor x, RowSolve solve)
    {
        Require(y, x);
        Launch(Kernels.AlsSolve, Args(y, x) with
        {
            Steps = solve.Steps,
            DirectBelow = solve.DirectBelow,
            Weighted = solve.Weighted ? 1 : 0,
            Ridge = solve.Ridge,
            Thin = Type == DType.F64 ? 1e-10 : 1e-6,
            Stop = Type == DType.F64 ? 1e-13 : 1e-7,
            Reduction = solve.Reduction,
        });
        return flags.ToInts().Count(flag => flag != 0);
    }

    /// <summary>x = S·y for this matrix S; y [cols, r], x [rows, r].</summary>
    /// <exception cref="ShapeException">A factor does not fit.</exception>
    public void Product(Tensor y, Tensor x)
    {
        Require(y, x);
        Launch(Kernels.AlsProduct, Args(y, x));
    }

    /// <summary>Σ over all entries of (x_i·y_j − value)², added up in float64.</summary>
    /// <exception cref="ShapeException">A factor does not fit.</exception>
    public double Loss(Tensor y, Tensor x)
    {
        Require(y, x);
        Launch(Kernels.AlsLoss, Args(y, x));
        double total = 0;
        foreach (double loss in losses.ToDoubles())
        {
            total += loss;
        }
        return total;
    }

    private void Launch(Kernel<AlsArgs> kernel, AlsArgs args)
    {
        if (Rows > 0)
        {
            values.Device.Launch(kernel, args);
        }
    }

    private AlsArgs Args(Tensor y, Tensor x) => new()
    {
        Y = y.Data,
        Starts = starts.Data,
        Columns = columns.Data,
        Values = values.Data,
        X = x.Data,
        Flags = flags.Data,
        Losses = losses.Data,
        Rows = Rows,
        R = y.Shape[1],
        DType = Type,
    };

    private void Require(Tensor y, Tensor x)
    {
        if (y.Shape.Rank != 2 || y.Shape[0] != Cols || y.DType != Type || y.Shape[1] < 1)
        {
            throw new ShapeException($"SparseRows: y is {y}, want {Type}[{Cols}, rank]");
        }
        if (x.Shape.Rank != 2 || x.Shape[0] != Rows || x.Shape[1] != y.Shape[1] || x.DType != Type)
        {
            throw new ShapeException($"SparseRows: x is {x}, want {Type}[{Rows}, {y.Shape[1]}]");
        }
    }
}

/// <summary>How <see cref="SparseRows.Solve"/> solves.</summary>
/// <param name="Ridge">Factor on ‖x‖².</param>
/// <param name="Weighted">The ridge counts once for every entry of the row.</param>
/// <param name="DirectBelow">Rows of fewer entries are solved by Cholesky factors, the others by gradients.</param>
/// <param name="Steps">The most steps of conjugate gradients.</param>
/// <param name="Reduction">A row's gradients end where the norm of its normal equations' rest is at most this share of what it was; 0: never.</param>
public sealed record RowSolve(double Ridge = 0, bool Weighted = false, int DirectBelow = int.MaxValue, int Steps = 0, double Reduction = 0);
