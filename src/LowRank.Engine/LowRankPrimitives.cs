namespace LowRank;

/// <summary>The fused kernels on plain spans, for applications that have no model: a sister of System.Numerics.Tensors.TensorPrimitives.
/// Safe to call from one thread at a time; each call uses the native thread pool.</summary>
public static unsafe partial class LowRankPrimitives
{
    private static readonly Lazy<Device> Cpu = new(Device.Cpu);

    /// <summary>destination = x·Wᵀ; x [tokens, in], w [out, in] → [tokens, out].</summary>
    /// <exception cref="ShapeException">A matrix does not fit, or destination overlaps an input.</exception>
    public static void Linear(MatrixView<float> x, MatrixView<float> w, MatrixView<float> destination)
    {
        Require("w", w, w.Rows, x.Cols);
        Require("destination", destination, x.Rows, w.Rows);
        RequireApart("x", x, destination);
        RequireApart("w", w, destination);
        fixed (float* px = x.Data, pw = w.Data, py = destination.Data)
        {
            Cpu.Value.Launch(Kernels.LinearForward, new LinearArgs { X = (nint)px, W = (nint)pw, Y = (nint)py, Tokens = x.Rows, N = w.Rows, K = x.Cols, DType = DType.F32, WType = DType.F32 });
        }
    }

    /// <summary>destination = x·Wᵀ + scale·(x·Aᵀ)·Bᵀ in one pass over x; x [tokens, in], w [out, in], a [r, in], b [out, r] → [tokens, out] (arXiv 2106.09685).</summary>
    /// <exception cref="ShapeException">A matrix does not fit, or destination overlaps an input.</exception>
    public static void LoraForward(MatrixView<float> x, MatrixView<float> w, MatrixView<float> a, MatrixView<float> b, double scale, MatrixView<float> destination)
    {
        Require("w", w, w.Rows, x.Cols);
        Require("a", a, a.Rows, x.Cols);
        Require("b", b, w.Rows, a.Rows);
        Require("destination", destination, x.Rows, w.Rows);
        RequireApart("x", x, destination);
        RequireApart("w", w, destination);
        RequireApart("a", a, destination);
        RequireApart("b", b, destination);
        fixed (float* px = x.Data, pw = w.Data, pa = a.Data, pb = b.Data, py = destination.Data, pt = new float[Math.Max(1, (long)x.Rows * a.Rows)])
        {
            Cpu.Value.Launch(Kernels.LoraForward, new LoraArgs
            {
                X = (nint)px,
                W = (nint)pw,
                A = (nint)pa,
                B = (nint)pb,
                Y = (nint)py,
                T = (nint)pt,
                Tokens = x.Rows,
                N = w.Rows,
                K = x.Cols,
                R = a.Rows,
                Scale = scale,
                DType = DType.F32,
                WType = DType.F32,
            });
        }
    }

    /// <summary>destination = w + scale·b·a: a low-rank adapter merged into its weight; w [out, in], b [out, r], a [r, in].</summary>
    /// <exception cref="ShapeException">A matrix does not fit, or destination overlaps an input.</exception>
    public static void LoraMerge(MatrixView<float> w, MatrixView<float> a, MatrixView<float> b, double scale, MatrixView<float> destination)
    {
        Require("a", a, a.Rows, w.Cols);
        Require("b", b, w.Rows, a.Rows);
        Require("destination", destination, w.Rows, w.Cols);
        RequireApart("w", w, destination);
        RequireApart("a", a, destination);
        RequireApart("b", b, destination);
        fixed (float* pw = w.Data, pa = a.Data, pb = b.Data, py = destination.Data)
        {
            Cpu.Value.Launch(Kernels.AddMatMul, new AddMatMulArgs { W = (nint)pw, A = (nint)pa, B = (nint)pb, Y = (nint)py, N = w.Rows, K = w.Cols, R = a.Rows, Scale = scale, DType = DType.F32, WType = DType.F32 });
        }
    }

    private static void Require(string operand, MatrixView<float> matrix, int rows, int cols)
    {
        if (matrix.Rows != rows || matrix.Cols != cols)
        {
            throw new ShapeException($"LowRankPrimitives: {operand} is [{matrix.Rows}, {matrix.Cols}], want [{rows}, {cols}]");
        }
    }

    private static void RequireApart(string operand, MatrixView<float> input, MatrixView<float> destination)
    {
        if (input.Data.Overlaps(destination.Data))
        {
            throw new ShapeException($"LowRankPrimitives: destination overlaps {operand}, want memory of its own");
        }
    }
}
