namespace LowRank;

/// <summary>Plans of the matrix kernels: which products make them up, and what each reads and writes. Formulas stand in lowrank.h.</summary>
internal static class CudaMatrixPlans
{
    private const string File = "gemm.cu";
    private const int Side = 64;

    public static bool MatMul(CudaStream on, in MatMulArgs a) => Multiply(on, a.DType, new GemmArgs
    {
        A = a.TransposeA != 0 ? new(a.A, a.DType, 1, a.M) : new(a.A, a.DType, a.K, 1),
        B = a.TransposeB != 0 ? new(a.B, a.DType, a.K, 1) : new(a.B, a.DType, 1, a.N),
        Y = a.C,
        YType = a.DType,
        M = a.M,
        N = a.N,
        K = a.K,
        Scale = a.Scale,
        Add = a.Add & 1,
    });

    public static bool Linear(CudaStream on, in LinearArgs a) => Forward(on, new LoraArgs
    {
        X = a.X,
        W = a.W,
        Bias = a.Bias,
        Y = a.Y,
        Tokens = a.Tokens,
        N = a.N,
        K = a.K,
        DType = a.DType,
        WType = a.WType,
        WLayout = a.WLayout,
    });

    public static bool LinearGrad(CudaStream on, in LinearGradArgs a)
    {
        bool done = Backward(on, new LoraGradArgs
        {
            X = a.X,
            W = a.W,
            Dy = a.Dy,
            Dx = a.Dx,
            Dbias = a.Dbias,
            Tokens = a.Tokens,
            N = a.N,
            K = a.K,
            DType = a.DType,
            WType = a.WType,
            WLayout = a.WLayout,
            Add = (a.Add & 1) | (((a.Add >> 2) & 1) << 4),
        });
        return done && (a.Dw == 0 || WeightGradient(on, a.DType, a.Dy, a.X, a.Dw, a.WType, a.Tokens, a.N, a.K, (a.Add >> 1) & 1));
    }

    /// <summary>dw [n,k] (+)= dyᵀ·x.</summary>
    public static bool WeightGradient(CudaStream on, DType type, nint dy, nint x, nint dw, DType wType, int tokens, int n, int k, uint add) => Multiply(on, type, new GemmArgs
    {
        A = new(dy, type, 1, n),
        B = new(x, type, 1, k),
        Y = dw,
        YType = wType,
        M = n,
        N = k,
        K = tokens,
        Scale = 1,
        Add = add,
    });

    public static bool Forward(CudaStream on, in LoraArgs a)
    {
        if (a.WLayout != Layout.Rows)
        {
            return a.WLayout != Layout.Panels && CudaQuantPlans.Forward(on, in a);
        }
        if (CudaHopperPlans.TryForward(on, in a) || CudaTilePlans.TryForward(on, in a))
        {
            return true;
        }
        if (a.R > 0)
        {
            Multiply(on, a.DType, new GemmArgs { A = new(a.Xa != 0 ? a.Xa : a.X, a.DType, a.K, 1), B = new(a.A, DType.F32, a.K, 1), Y = a.T, YType = DType.F32, M = a.Tokens, N = a.R, K = a.K, Scale = a.Scale });
        }
        return Multiply(on, a.DType, new GemmArgs
        {
            A = new(a.X, a.DType, a.K, 1),
            B = new(a.W, a.WType, a.K, 1),
            Ta = new(a.T, DType.F32, a.R, 1),
            Tb = new(a.B, DType.F32, a.R, 1),
            C = a.C,
            Bias = a.Bias,
            Y = a.Y,
            Y0 = a.Y0,
            YType = a.DType,
            M = a.Tokens,
            N = a.N,
            K = a.K,
            R = a.R,
            Scale = 1,
        });
    }

    /// <summary>Both layers, then the gate: g and u go through memory.</summary>
    public static bool GatedLinear(CudaStream on, in GatedLinearArgs a) => Forward(on, a.GateLayer) && Forward(on, a.UpLayer)
        && (a.Gate == GateFunction.Silu ? Kernels.SiluMulForward : Kernels.GeluTanhMulForward).Cuda!(on, a.Product);

    public static bool Backward(CudaStream on, in LoraGradArgs a)
    {
        if (a.WLayout != Layout.Rows)
        {
            return a.WLayout != Layout.Panels && CudaQuantPlans.Backward(on, in a);
        }
        if (CudaTilePlans.TryBackward(on, in a))
        {
            return true;
        }
        int parts = Parts(a.Tokens);
        bool sums = a.Dbias != 0 || a.Dc != 0, wantU = a.R > 0 && (a.Dx != 0 || a.Dxa != 0 || a.Da != 0);
        long uBytes = wantU ? (((long)a.Tokens * a.R * sizeof(float)) + 255) & ~255L : 0, sumBytes = sums ? 2L * parts * a.N * sizeof(float) : 0;
        on.Reserve(uBytes + sumBytes + 512);
        nint u = wantU ? on.Workspace(uBytes) : 0, work = sums ? on.Workspace(sumBytes) : 0;
        var e = new GemmOperand(a.Dy, a.DType, a.N, 1, a.C);
        var down = new GemmOperand(a.A, DType.F32, 1, a.K);     // A as [k, r]
        if (wantU)
        {
            Multiply(on, a.DType, new GemmArgs { A = e, B = new(a.B, DType.F32, 1, a.R), Y = u, YType = DType.F32, M = a.Tokens, N = a.R, K = a.N, Scale = a.Scale });
        }
        if (a.Dx != 0)
        {
            bool fused = a.R > 0 && a.Xa == 0;
            Multiply(on, a.DType, new GemmArgs { A = e, B = new(a.W, a.WType, 1, a.K), Ta = new(u, DType.F32, a.R, 1), Tb = down, Y = a.Dx, YType = a.DType, M = a.Tokens, N = a.K, K = a.N, R = fused ? a.R : 0, Scale = 1, Add = a.Add & 1 });
        }
        if (a.Dxa != 0)
        {
            Multiply(on, a.DType, new GemmArgs { A = new(u, DType.F32, a.R, 1), B = down, Y = a.Dxa, YType = a.DType, M = a.Tokens, N = a.K, K = a.R, Scale = 1, Add = (a.Add >> 1) & 1 });
        }
        if (a.Da != 0)
        {
            Multiply(on, a.DType, new GemmArgs { A = new(u, DType.F32, 1, a.R), B = new(a.Xa != 0 ? a.Xa : a.X, a.DType, 1, a.K), Y = a.Da, YType = DType.F32, M = a.R, N = a.K, K = a.Tokens, Scale = 1, Add = (a.Add >> 2) & 1 });
        }
        if (a.Db != 0)
        {
            // dBᵀ [r, n], so that c scales its columns
            Multiply(on, a.DType, new GemmArgs { A = new(a.T, DType.F32, 1, a.R), B = new(a.Dy, a.DType, 1, a.N), C = a.C, Y = a.Db, YType = DType.F32, YRowStride = 1, YColStride = a.R, M = a.R, N = a.N, K = a.Tokens, Scale = 1, Add = (a.Add >> 3) & 1 });
        }
        if (sums)
        {
            ColumnSums(on, in a, parts, work, bias: true);
        }
        return true;
    }

    /// <summary>dbias (where it is this function's to make) and dc from parts in work [2, parts, n].</summary>
    public static void ColumnSums(CudaStream on, in LoraGradArgs a, int parts, nint work, bool bias)
    {
        int cols = 8 * 16 / a.DType.Size();
        on.Run(File, "column_sums", a.DType, ((a.N + cols - 1) / cols, parts, 1), 256, 2 * 32 * cols * sizeof(float), new ColumnSumArgs { Dy = a.Dy, Y0 = a.Dc != 0 ? a.Y0 : 0, Work = work, Rows = a.Tokens, Cols = a.N, Parts = parts });
        AddUp(on, a.DType, work, parts, a.N, bias ? a.Dbias : 0, (a.Add >> 4) & 1);
        AddUp(on, a.DType, work + (nint)((long)parts * a.N * sizeof(float)), parts, a.N, a.Dc, (a.Add >> 5) & 1);
    }

    public static bool AddMatMul(CudaStream on, in AddMatMulArgs a) => Multiply(on, a.DType, new GemmArgs
    {
        A = a.Transpose != 0 ? new(a.A, DType.F32, 1, a.N) : new(a.B, DType.F32, a.R, 1),
        B = a.Transpose != 0 ? new(a.B, DType.F32, a.R, 1) : new(a.A, DType.F32, 1, a.K),
        W = a.W,
        WType = a.WType,
        Y = a.Y,
        YType = a.DType,
        M = a.N,
        N = a.K,
        K = a.R,
        Scale = a.Scale,
    });

    public static bool RowNorm(CudaStream on, in RowNormArgs a)
    {
        if (a.WLayout != Layout.Rows)
        {
            return a.WLayout != Layout.Panels && CudaQuantPlans.RowNorm(on, in a);
        }
        int r = a.A == 0 ? 0 : a.R;
        long product = (((long)a.N * r * sizeof(float)) + 255) & ~255L;
        long tiles = r > 0 ? CudaTilePlans.RowNormBytes(in a) : 0;
        on.Reserve(product + ((long)r * r * sizeof(float)) + tiles + 512);
        nint p = on.Workspace(product), gram = on.Workspace((long)r * r * sizeof(float)), work = on.Workspace(tiles);
        if (r > 0 && !CudaTilePlans.TryRowNorm(on, in a, p, gram, work))
        {
            var rows = new GemmOperand(a.A, DType.F32, a.K, 1);
            Multiply(on, DType.F32, new GemmArgs { A = new(a.W, a.WType, a.K, 1), B = rows, Y = p, YType = DType.F32, M = a.N, N = r, K = a.K, Scale = 1 });
            Multiply(on, DType.F32, new GemmArgs { A = rows, B = rows, Y = gram, YType = DType.F32, M = r, N = r, K = a.K, Scale = 1 });
        }
        return on.Run(File, "row_norm_end", DType.F32, ((a.N + 3) / 4, 1, 1), 128, 0, new RowNormEndArgs { Op = a, P = p, Gram = gram });
    }

    /// <summary>Parts of the rows that column sums are made by: a function of the shape alone.</summary>
    public static int Parts(long rows) => (int)Math.Clamp(rows / 256, 1, 64);

    /// <summary>y (+)= the sum of parts [parts, cols]; nothing where y is not wanted.</summary>
    public static void AddUp(CudaStream on, DType type, nint work, int parts, long cols, nint y, uint add)
    {
        if (y != 0)
        {
            on.Run("rows.cu", "sum_parts", type, ((cols + 255) / 256, 1, 1), 256, 0, new SumPartsArgs { Parts = work, Y = y, Cols = cols, Count = parts, DType = DType.F32, Scale = 1, Add = add });
        }
    }

    private static bool Multiply(CudaStream on, DType type, GemmArgs a)
    {
        if (a.YRowStride == 0)
        {
            (a.YRowStride, a.YColStride) = (a.N, 1);
        }
        if (CudaTilePlans.Multiply(on, in a))
        {
            return true;
        }
        int tiles = 2 * (type == DType.F32 ? Side * 33 * 4 : Side * 40 * 2), sums = Side * (Side + 1) * sizeof(float);
        return on.Run(File, "gemm", type, ((a.N + Side - 1) / Side, (a.M + Side - 1) / Side, 1), 128, Math.Max(tiles, sums), in a);
    }
}
