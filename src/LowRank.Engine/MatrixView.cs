namespace LowRank;

/// <summary>A span seen as a row-major matrix.</summary>
public readonly ref struct MatrixView<T>
{
    /// <summary>Wraps exactly rows·cols elements.</summary>
    /// <exception cref="ShapeException">The span has another length.</exception>
    public MatrixView(Span<T> data, int rows, int cols)
    {
        if (rows < 0 || cols < 0 || data.Length != (long)rows * cols)
        {
            throw new ShapeException($"AsMatrix: span has {data.Length} elements, want {rows}x{cols}");
        }
        Data = data;
        Rows = rows;
        Cols = cols;
    }

    /// <summary>Elements, row by row.</summary>
    public Span<T> Data { get; }

    /// <summary>Number of rows.</summary>
    public int Rows { get; }

    /// <summary>Number of columns.</summary>
    public int Cols { get; }
}

/// <summary>Makes <see cref="MatrixView{T}"/>s.</summary>
public static class MatrixViews
{
    /// <summary>A span as a matrix [rows, cols].</summary>
    public static MatrixView<T> AsMatrix<T>(this Span<T> data, int rows, int cols) => new(data, rows, cols);

    /// <summary>An array as a matrix [rows, cols].</summary>
    public static MatrixView<T> AsMatrix<T>(this T[] data, int rows, int cols) => new(data, rows, cols);
}
