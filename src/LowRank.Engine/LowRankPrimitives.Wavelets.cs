namespace LowRank;

public static unsafe partial class LowRankPrimitives
{
    /// <summary>coefficients = the wavelet transform of x [rows, cols] in the order of <paramref name="layout"/>; PyWavelets' wavedec2 (Mallat 1989).</summary>
    /// <exception cref="ShapeException">x is not of the layout's size, or coefficients has another length or overlaps it.</exception>
    public static void WaveletForward(WaveletLayout layout, MatrixView<float> x, Span<float> coefficients)
    {
        Require("x", x, layout.Rows, layout.Cols);
        Require(layout, coefficients);
        RequireApart("x", x, new(coefficients, 1, coefficients.Length));
        using Scope scope = Cpu.Value.NewStore();
        fixed (float* px = x.Data, pc = coefficients)
        {
            layout.Down(scope, (nint)px, DType.F32, (nint)pc, scope.New([layout.ScratchCount], DType.F32).Data, adjoint: false);
        }
    }

    /// <summary>destination [rows, cols] = the matrix of wavelet coefficients in the order of <paramref name="layout"/>; PyWavelets' waverec2.</summary>
    /// <exception cref="ShapeException">destination is not of the layout's size, or coefficients has another length or overlaps it.</exception>
    public static void WaveletInverse(WaveletLayout layout, Span<float> coefficients, MatrixView<float> destination)
    {
        Require(layout, coefficients);
        Require("destination", destination, layout.Rows, layout.Cols);
        RequireApart("coefficients", new(coefficients, 1, coefficients.Length), destination);
        fixed (float* pc = coefficients, py = destination.Data)
        {
            Inverse(layout, (nint)pc, (nint)py, 1, 0);
        }
    }

    /// <summary>destination = w + scale·(the matrix of wavelet coefficients) in the last level's pass; w and destination [rows, cols].</summary>
    /// <exception cref="ShapeException">A matrix is not of the layout's size, coefficients has another length, or destination overlaps an input.</exception>
    public static void WaveletMerge(WaveletLayout layout, MatrixView<float> w, Span<float> coefficients, double scale, MatrixView<float> destination)
    {
        Require("w", w, layout.Rows, layout.Cols);
        Require(layout, coefficients);
        Require("destination", destination, layout.Rows, layout.Cols);
        RequireApart("w", w, destination);
        RequireApart("coefficients", new(coefficients, 1, coefficients.Length), destination);
        fixed (float* pw = w.Data, pc = coefficients, py = destination.Data)
        {
            Inverse(layout, (nint)pc, (nint)py, scale, (nint)pw);
        }
    }

    private static void Inverse(WaveletLayout layout, nint c, nint y, double scale, nint w)
    {
        using Scope scope = Cpu.Value.NewStore();
        layout.Up(scope, c, y, DType.F32, scope.New([layout.ScratchCount], DType.F32).Data, adjoint: false, scale, w);
    }

    private static void Require(WaveletLayout layout, Span<float> coefficients)
    {
        if (coefficients.Length != layout.Count)
        {
            throw new ShapeException($"LowRankPrimitives: coefficients has {coefficients.Length} elements, want {layout.Count}");
        }
    }
}
