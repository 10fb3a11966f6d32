namespace LowRank.Models.Blocks;

/// <summary>Bicubic interpolation (Keys, a = -0.75) with half-pixel centres, edges clamped, no antialiasing.</summary>
internal static class Bicubic
{
    private const double A = -0.75;

    /// <summary>Weights [1 + rows·cols, 1 + side·side] that make a grid of positions from one of another size; the class token's position, the first, stays.</summary>
    public static double[] Grid(int side, int rows, int cols)
    {
        double[,] down = Axis(side, rows), across = Axis(side, cols);
        int width = 1 + (side * side);
        var weights = new double[(1 + (rows * cols)) * width];
        weights[0] = 1;
        for (int r = 0; r < rows; r++)
        {
            for (int c = 0; c < cols; c++)
            {
                for (int i = 0; i < side; i++)
                {
                    for (int j = 0; j < side; j++)
                    {
                        weights[((1 + (r * cols) + c) * width) + 1 + (i * side) + j] = down[r, i] * across[c, j];
                    }
                }
            }
        }
        return weights;
    }

    /// <summary>Weights [to, from] along one axis: point o lies at (o + ½)·from/to − ½ of the old one.</summary>
    private static double[,] Axis(int from, int to)
    {
        var weights = new double[to, from];
        for (int o = 0; o < to; o++)
        {
            double at = ((o + 0.5) * from / to) - 0.5;
            int below = (int)Math.Floor(at);
            for (int i = below - 1; i <= below + 2; i++)
            {
                weights[o, Math.Clamp(i, 0, from - 1)] += Kernel(Math.Abs(at - i));
            }
        }
        return weights;
    }

    private static double Kernel(double x) => x <= 1 ? (((((A + 2) * x) - (A + 3)) * x) * x) + 1
        : x < 2 ? (((((A * x) - (5 * A)) * x) + (8 * A)) * x) - (4 * A)
        : 0;
}
