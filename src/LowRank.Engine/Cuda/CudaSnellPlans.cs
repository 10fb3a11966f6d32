namespace LowRank;

/// <summary>Plans of SNELL's kernels and of SoRA's threshold. W + Sᵀ, then the gradient of it, lie in the scratch that all plans share.</summary>
internal static class CudaSnellPlans
{
    private const string File = "snell.cu";
    private const int Threads = 256, Side = 32, Bins = 2048, Head = 256;
    private const int Tables = 2 * Side * Side * sizeof(float);       // a tile of each table in shared memory

    public static bool Select(CudaStream on, in SnellSelectArgs a)
    {
        int parts = (int)Math.Min(Tiles(a.K) * Tiles(a.N), 4L * on.Multiprocessors);
        var planned = new Planned<SnellSelectArgs> { Op = a, Work = on.Workspace(Head + ((long)parts * Bins * sizeof(int))), Parts = parts };
        for (planned.Extra = 0; planned.Extra < 3; planned.Extra++)
        {
            on.Run(File, "snell_count", a.DType, (parts, 1, 1), Threads, (Bins * sizeof(int)) + Tables, in planned);
            on.Run(File, "snell_pick", a.DType, (1, 1, 1), Threads, Threads * sizeof(long), in planned);
        }
        if (a.Fraction > 0)
        {
            on.Run(File, "snell_above", a.DType, (parts, 1, 1), Threads, (Threads * sizeof(int)) + Tables, in planned);
        }
        return on.Run(File, "snell_tau", a.DType, (1, 1, 1), 32, 0, in planned);
    }

    public static bool Forward(CudaStream on, in SnellArgs a)
    {
        if (!Takes(a.W, a.WLayout, a.WType, a.DType))
        {
            return false;
        }
        if (a.X == 0)
        {
            return Merge(on, in a);
        }
        nint w = EffectiveWeight(on, in a);
        return CudaMatrixPlans.Linear(on, new LinearArgs { X = a.X, W = w, Bias = a.Bias, Y = a.Y, Tokens = a.Tokens, N = a.N, K = a.K, DType = a.DType, WType = a.DType });
    }

    public static bool Backward(CudaStream on, in SnellGradArgs a)
    {
        if (!Takes(a.W, a.WLayout, a.WType, a.DType))
        {
            return false;
        }
        if (a.Dx != 0 || a.Dbias != 0)
        {
            nint w = a.Dx == 0 ? 0 : EffectiveWeight(on, new SnellArgs { W = a.W, P = a.P, Q = a.Q, Tau = a.Tau, Scale = a.Scale, Norm = a.Norm, N = a.N, K = a.K, R = a.R, Mode = a.Mode, DType = a.DType, WType = a.WType, WLayout = a.WLayout });
            CudaMatrixPlans.LinearGrad(on, new LinearGradArgs { W = w, Dy = a.Dy, Dx = a.Dx, Dbias = a.Dbias, Tokens = a.Tokens, N = a.N, K = a.K, DType = a.DType, WType = a.DType, Add = (a.Add & 1) | (((a.Add >> 3) & 1) << 2) });
            on.End();       // what the product used is free for what follows it
        }
        if (a.Dp == 0 && a.Dq == 0)
        {
            return true;
        }
        nint gradient = a.Dy;
        if (a.X != 0)
        {
            gradient = on.Scratch((long)a.N * a.K * sizeof(float));
            CudaMatrixPlans.WeightGradient(on, a.DType, a.Dy, a.X, gradient, DType.F32, a.Tokens, a.N, a.K, add: 0);
            on.End();
        }
        Table(on, in a, gradient, a.K, a.N, second: 0, a.Dp, (a.Add >> 1) & 1);
        Table(on, in a, gradient, a.N, a.K, second: 1, a.Dq, (a.Add >> 2) & 1);
        return true;
    }

    public static bool GateThreshold(CudaStream on, in GateThresholdArgs a) => a.DType == DType.F32 && on.Run("gates.cu", "gate_threshold", a.DType, (1, 1, 1), Threads, 0, in a);

    private static long Tiles(long rows) => (rows + Side - 1) / Side;

    private static bool Takes(nint w, Layout layout, DType type, DType activations) => w == 0 || (layout == Layout.Rows ? type == activations : layout != Layout.Panels);

    private static bool Merge(CudaStream on, in SnellArgs a) => on.Run(File, "snell_merge", a.DType, (Tiles(a.K), Tiles(a.N), 1), Threads, Tables, in a);

    /// <summary>W + Sᵀ in the activations' type, in scratch.</summary>
    private static nint EffectiveWeight(CudaStream on, in SnellArgs a)
    {
        nint scratch = on.Scratch((long)a.N * a.K * sizeof(float));       // also the size of what may follow it there
        SnellArgs merge = a with { Y = scratch };
        if (a.W != 0 && a.WLayout != Layout.Rows)
        {
            CudaQuantPlans.Dequantize(on, new DequantizeArgs { W = a.W, Y = scratch, N = a.N, K = a.K, DType = a.DType, WLayout = a.WLayout });
            merge.W = scratch;
        }
        Merge(on, in merge);
        return scratch;
    }

    private static void Table(CudaStream on, in SnellGradArgs a, nint gradient, int rows, int others, int second, nint to, uint add)
    {
        if (to == 0)
        {
            return;
        }
        int parts = (int)Math.Clamp(4L * 132 / Tiles(rows), 1, Tiles(others));      // a function of the shape alone
        parts = (int)((Tiles(others) + ((Tiles(others) + parts - 1) / parts) - 1) / ((Tiles(others) + parts - 1) / parts));
        long size = 2L * rows * a.R;
        nint work = on.Workspace(parts * size * sizeof(float));
        on.Run(File, "snell_tables", a.DType, (Tiles(rows), parts, 1), Threads, 2 * Tables, new Planned<SnellGradArgs> { Op = a with { Dy = gradient }, Work = work, Parts = parts, Extra = second });
        CudaMatrixPlans.AddUp(on, a.DType, work, parts, size, to, add);
        on.End();
    }
}
