namespace LowRank.Adapters;

/// <summary>A row-major matrix of float64 in host memory.</summary>
internal readonly record struct HostMatrix(double[] Values, int Rows, int Cols)
{
    public static HostMatrix Zeros(int rows, int cols) => new(new double[checked(rows * cols)], rows, cols);

    /// <summary>A tensor of two dimensions.</summary>
    public static HostMatrix Of(Tensor tensor) => new(tensor.ToDoubles(), tensor.Shape[0], tensor.Shape[1]);

    public Span<double> Row(int i) => Values.AsSpan(i * Cols, Cols);

    /// <summary>This [m,k] times <paramref name="right"/> [k,n].</summary>
    public HostMatrix Times(HostMatrix right)
    {
        HostMatrix product = Zeros(Rows, right.Cols);
        for (int i = 0; i < Rows; i++)
        {
            for (int j = 0; j < Cols; j++)
            {
                product.AddRow(i, Values[(i * Cols) + j], right.Row(j));
            }
        }
        return product;
    }

    public HostMatrix Transposed()
    {
        HostMatrix turned = Zeros(Cols, Rows);
        for (int i = 0; i < Values.Length; i++)
        {
            turned.Values[((i % Cols) * Rows) + (i / Cols)] = Values[i];
        }
        return turned;
    }

    public HostMatrix Scaled(double factor) => this with { Values = [.. Values.Select(v => factor * v)] };

    /// <summary>The largest <paramref name="rank"/> singular values: (Vᵀ [rank, cols], U·S [rows, rank]), zeros where there are fewer.</summary>
    public (HostMatrix A, HostMatrix B) Truncated(int rank)
    {
        int most = Math.Min(Rows, Cols), kept = Math.Min(rank, most);
        HostMatrix u = Zeros(Rows, most), vt = Zeros(most, Cols), a = Zeros(rank, Cols), b = Zeros(Rows, rank);
        var s = new double[most];
        Svd.Of(Values.AsMatrix(Rows, Cols), u.Values.AsMatrix(Rows, most), s, vt.Values.AsMatrix(most, Cols));
        vt.Values.AsSpan(0, kept * Cols).CopyTo(a.Values);
        for (int i = 0; i < Rows; i++)
        {
            for (int j = 0; j < kept; j++)
            {
                b.Values[(i * rank) + j] = u.Values[(i * most) + j] * s[j];
            }
        }
        return (a, b);
    }

    /// <summary>The same of b·a, by way of their QR factors where b·a is much larger than both.</summary>
    public static (HostMatrix A, HostMatrix B) Truncated(HostMatrix a, HostMatrix b, int rank)
    {
        if (a.Rows >= Math.Min(a.Cols, b.Rows))
        {
            return b.Times(a).Truncated(rank);
        }
        (HostMatrix qb, HostMatrix rb) = b.Factored();
        (HostMatrix qa, HostMatrix ra) = a.Transposed().Factored();
        (HostMatrix v, HostMatrix u) = rb.Times(ra.Transposed()).Truncated(rank);
        return (v.Times(qa.Transposed()), qb.Times(u));
    }

    private (HostMatrix Q, HostMatrix R) Factored()
    {
        HostMatrix q = Zeros(Rows, Cols), r = Zeros(Cols, Cols);     // of no fewer rows than columns
        Qr.Of(Values.AsMatrix(Rows, Cols), q.Values.AsMatrix(Rows, Cols), r.Values.AsMatrix(Cols, Cols));
        return (q, r);
    }

    private void AddRow(int i, double factor, ReadOnlySpan<double> row)
    {
        Span<double> mine = Row(i);
        for (int j = 0; j < mine.Length; j++)
        {
            mine[j] += factor * row[j];
        }
    }
}
