namespace LowRank.Engine.Tests;

/// <summary>Matrices that factorisations must take: name, shape, values.</summary>
internal static class LinalgRows
{
    private static readonly (int Rows, int Cols)[] Shapes =
        [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (33, 33), (32, 64), (31, 130), (100, 64), (200, 40), (97, 97), (160, 140), (0, 4), (4, 0), (0, 0)];

    private static readonly string[] Kinds = ["rank 2", "graded", "repeated", "zero", "huge", "tiny", "diagonal", "last column"];

    private static readonly (int Rows, int Cols)[] KindShapes = [(70, 70), (40, 90)];

    /// <summary>Every shape with full-rank values, and every other kind in a shape of several blocks and one wider than it is high.</summary>
    public static IEnumerable<(string Kind, int Rows, int Cols)> All =>
        Shapes.Select(s => ("full", s.Rows, s.Cols)).Concat(Kinds.SelectMany(kind => KindShapes.Select(s => (kind, s.Rows, s.Cols))));

    public static double[] Values(string kind, int rows, int cols)
    {
        double[] a = Draw(rows * cols, (ulong)((rows * 1000) + cols));
        switch (kind)
        {
            case "rank 2":
                double[] u = Draw(rows * 2, 5), v = Draw(2 * cols, 6);
                return Product(u, v, rows, 2, cols);
            case "graded":          // rows from 1 down to far below the rounding of the first
                return [.. a.Select((x, i) => x * Math.ScaleB(1, -(i / cols)))];
            case "repeated":        // a reflection: all singular values 1
                double length = a.Take(cols).Sum(x => x * x);
                return [.. a.Select((_, i) => (i / cols == i % cols ? 1 : 0) - (i / cols < cols ? 2 * a[i / cols] * a[i % cols] / length : 0))];
            case "zero":
                return new double[rows * cols];
            case "huge":            // squares overflow in float32
                return [.. a.Select(x => x * 1e30)];
            case "tiny":            // squares vanish in float32
                return [.. a.Select(x => x * 1e-30)];
            case "diagonal":
                return [.. a.Select((_, i) => i / cols == i % cols ? (i / cols) - 3.0 : 0)];
            case "last column":     // all of the weight where the reflections have not begun
                return [.. a.Select((x, i) => i % cols == cols - 1 ? x : 1e-25 * x)];
            default:
                return a;
        }
    }

    public static double[] Draw(int count, ulong seed)
    {
        var values = new double[count];
        new Rng(seed).FillNormal(values, 0, 1);
        return values;
    }

    /// <summary>a [m,k] · b [k,n].</summary>
    public static double[] Product(double[] a, double[] b, int m, int k, int n)
    {
        var c = new double[m * n];
        for (int i = 0; i < m; i++)
        {
            for (int p = 0; p < k; p++)
            {
                for (int j = 0; j < n; j++)
                {
                    c[(i * n) + j] += a[(i * k) + p] * b[(p * n) + j];
                }
            }
        }
        return c;
    }

    public static double[] Turn(double[] a, int rows, int cols) => [.. Enumerable.Range(0, rows * cols).Select(i => a[(i % rows * cols) + (i / rows)])];

    /// <summary>Columns of a [rows, cols] times factors.</summary>
    public static double[] ScaleColumns(double[] a, double[] factors) => [.. a.Select((x, i) => x * factors[i % factors.Length])];
}
