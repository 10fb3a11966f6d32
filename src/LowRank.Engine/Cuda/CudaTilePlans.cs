namespace LowRank;

/// <summary>How a pass over dy [tokens, n] is cut: a block owns Subs stretches of 128 columns and Tiles tiles of 128 tokens. A function of the shape alone.</summary>
internal readonly record struct LoraDyGrid(int Subs, int Tiles)
{
    private const int Side = 128, Blocks = 128;

    /// <summary>As wide panels as leave enough blocks: parts of u are one a panel.</summary>
    public static LoraDyGrid For(int tokens, int n)
    {
        int tiles = Math.Max(1, Ceiling(tokens, Side));
        int subs = Ceiling(n, 4 * Side) * tiles >= Blocks ? 4 : Ceiling(n, 2 * Side) * tiles >= Blocks ? 2 : 1;
        int groups = Math.Clamp(Blocks / Math.Max(1, Ceiling(n, subs * Side)), 1, tiles);
        return new LoraDyGrid(subs, Ceiling(tiles, groups));
    }

    public int Panels(int n) => Ceiling(n, Subs * Side);

    public int Groups(int tokens) => Ceiling(tokens, Tiles * Side);

    /// <summary>Shared memory of a block at a rank of 16, 32 or 64.</summary>
    public int SharedBytes(int rank) => ((rank <= 32 ? 3 : 2) * (2 * Side) * (Side + rank)) + (Subs * 2 * Side * rank);

    internal static int Ceiling(int count, int of) => (count + of - 1) / of;
}

/// <summary>Plans on the tiled products of product.cu and skinny.cu, which want operands of one type whose lines start on 16 bytes. False, before anything was
/// launched, where they are not.</summary>
internal static class CudaTilePlans
{
    private const string ProductFile = "product.cu", SkinnyFile = "skinny.cu";
    private const int Line = 16, SkinnyRows = 128, MostSkinny = 128;

    /// <summary>The product where its operands fit; along or across their steps, both across, or the left one along and the right one across.</summary>
    public static bool TryMultiply(CudaStream on, in GemmArgs args)
    {
        GemmArgs a = args;
        DType type = a.A.DType;
        bool acrossA = a.A.StepStride != 1, acrossB = a.B.StepStride != 1;
        if (!Fits(a.A, type) || !Fits(a.B, type) || (acrossA && !acrossB))
        {
            return false;
        }
        if (a.R > 0 && (acrossA || a.Scale != 1 || !Fits(a.Ta, type) || !Fits(a.Tb, type) || a.Ta.StepStride != 1 || acrossB != (a.Tb.StepStride != 1)))
        {
            return false;
        }
        nint factor = a.A.Factor != 0 ? a.A.Factor : a.B.Factor;
        if (factor != 0 && (acrossA || !acrossB))
        {
            return false;
        }
        a.B.Factor = factor;
        // The larger tile where it keeps most of the device at work; either sums in the same order, so the bits do not depend on it.
        int side = 4L * Ceiling(a.M, 128) * Ceiling(a.N, 128) >= 3L * on.Multiprocessors ? 128 : 64;
        string name = (side, acrossA, acrossB, factor != 0) switch
        {
            (128, false, false, _) => "product_128_kk",
            (128, false, true, false) => "product_128_km",
            (128, false, true, true) => "product_128_kmc",
            (128, true, _, _) => "product_128_mm",
            (_, false, false, _) => "product_64_kk",
            (_, false, true, false) => "product_64_km",
            (_, false, true, true) => "product_64_kmc",
            _ => "product_64_mm",
        };
        return on.Run(ProductFile, name, type, ((long)Ceiling(a.M, side) * Ceiling(a.N, side), 1, 1), 2 * side, 4 * 2 * side * 64, in a);
    }

    /// <summary>The product by Hopper's kernels where they take it, by these where they do not.</summary>
    public static bool Multiply(CudaStream on, in GemmArgs a) => CudaHopperPlans.TryMultiply(on, in a) || TryMultiply(on, in a);

    /// <summary>F1: t by the skinny product, then y with the rank as more steps of its sum.</summary>
    public static bool TryForward(CudaStream on, in LoraArgs a)
    {
        DType type = a.DType;
        nint from = a.Xa != 0 ? a.Xa : a.X;
        var x = new GemmOperand(from, type, a.K, 1);
        if (a.R == 0 || a.WType != type || !Fits(x, type) || !Fits(new(a.X, type, a.K, 1), type) || !Fits(new(a.W, type, a.K, 1), type))
        {
            return false;
        }
        int rank = Padded(a.R), size = type.Size();
        long aBytes = Round((long)rank * a.K * size), bBytes = Round((long)a.N * rank * size), tBytes = Round((long)a.Tokens * rank * size), parts = PartBytes(a.Tokens, a.K, rank, size);
        on.Reserve(aBytes + bBytes + tBytes + parts);
        nint down = on.Workspace(aBytes), up = on.Workspace(bBytes), t = on.Workspace(tBytes), work = on.Workspace(parts);
        RoundTo(on, type, new(a.A, a.R, a.K, down, rank, a.K), new(a.B, a.N, a.R, up, a.N, rank));
        var end = new SkinnyEndArgs { Y = a.T, Rounded = t, YRowStride = a.R, YColStride = 1, Rows = a.Tokens, Cols = a.R, Pitch = rank, Scale = a.Scale };
        Reduce(on, type, x, new(down, type, a.K, 1), a.K, end, work);
        return Multiply(on, new GemmArgs
        {
            A = new(a.X, type, a.K, 1),
            B = new(a.W, type, a.K, 1),
            Ta = new(t, type, rank, 1),
            Tb = new(up, type, rank, 1),
            C = a.C,
            Bias = a.Bias,
            Y = a.Y,
            Y0 = a.Y0,
            YType = type,
            YRowStride = a.N,
            YColStride = 1,
            M = a.Tokens,
            N = a.N,
            K = a.K,
            R = rank,
            Scale = 1,
        });
    }

    /// <summary>One read of dy for u, db and dbias; dx with the rank in its sum; one read of x for da.</summary>
    public static bool TryBackward(CudaStream on, in LoraGradArgs a) => TryBackward(on, in a, LoraDyGrid.For(a.Tokens, a.N));

    /// <summary>The same with the pass over dy cut as given.</summary>
    internal static bool TryBackward(CudaStream on, in LoraGradArgs a, LoraDyGrid grid)
    {
        DType type = a.DType;
        GemmOperand dy = new(a.Dy, type, a.N, 1), xa = new(a.Xa != 0 ? a.Xa : a.X, type, 1, a.K), w = new(a.W, type, 1, a.K, a.C);
        if (a.R == 0 || a.WType != type || !Fits(dy, type) || (a.Da != 0 && !Fits(xa, type)) || (a.Dx != 0 && !Fits(w, type)))
        {
            return false;
        }
        int rank = Padded(a.R), size = type.Size();
        bool wantsA = (a.Dx != 0 && a.Xa == 0) || a.Dxa != 0, wantsU = wantsA || a.Da != 0;
        if (wantsA && !Fits(new(0, type, 1, a.K), type))
        {
            return false;
        }
        bool once = wantsU && a.Db != 0 && type != DType.F32 && rank <= 64 && grid.SharedBytes(rank) <= SharedLimit(on.Architecture), bias = a.Dbias != 0 && !once;
        int panels = grid.Panels(a.N), groups = grid.Groups(a.Tokens), sumParts = CudaMatrixPlans.Parts(a.Tokens);
        long aBytes = wantsA ? Round((long)rank * a.K * size) : 0, bBytes = wantsU ? Round((long)a.N * rank * size) : 0;
        long tBytes = a.Db != 0 ? Round((long)a.Tokens * rank * size) : 0, uBytes = wantsU ? Round((long)a.Tokens * rank * size) : 0;
        long uParts = once ? Round((long)panels * a.Tokens * rank * sizeof(float)) : 0, dbParts = once ? Round((long)groups * a.N * rank * sizeof(float)) : 0;
        long sums = once && a.Dbias != 0 ? Round((long)groups * a.N * sizeof(float)) : 0, columnSums = bias || a.Dc != 0 ? Round(2L * sumParts * a.N * sizeof(float)) : 0;
        long parts = Math.Max(Math.Max(PartBytes(a.Tokens, a.N, rank, size), PartBytes(a.N, a.Tokens, rank, size)), PartBytes(a.K, a.Tokens, rank, size));
        on.Reserve(aBytes + bBytes + tBytes + uBytes + uParts + dbParts + sums + columnSums + parts);
        nint down = on.Workspace(aBytes), up = on.Workspace(bBytes), t = on.Workspace(tBytes), u = on.Workspace(uBytes);
        nint uWork = on.Workspace(uParts), dbWork = on.Workspace(dbParts), sumWork = on.Workspace(sums), columnWork = on.Workspace(columnSums), work = on.Workspace(parts);
        RoundTo(on, type,
            wantsA ? new(a.A, a.R, a.K, down, rank, a.K) : default,
            wantsU ? new(a.B, a.N, a.R, up, a.N, rank, a.C) : default,
            a.Db != 0 ? new(a.T, a.Tokens, a.R, t, a.Tokens, rank) : default);

        var uEnd = new SkinnyEndArgs { Parts = uWork, Count = panels, Rounded = u, Rows = a.Tokens, Cols = a.R, Pitch = rank, Scale = a.Scale };
        var dbEnd = new SkinnyEndArgs { Parts = dbWork, Count = groups, Factor = a.C, Y = a.Db, YRowStride = a.R, YColStride = 1, Rows = a.N, Cols = a.R, Pitch = rank, Scale = 1, Add = (a.Add >> 3) & 1 };
        if (once)
        {
            string name = rank == 16 ? "lora_dy_16" : rank == 32 ? "lora_dy_32" : "lora_dy_64";
            on.Run(SkinnyFile, name, type, (panels, groups, 1), 256, grid.SharedBytes(rank), new LoraDyArgs
            {
                Dy = a.Dy,
                B = up,
                T = t,
                U = uWork,
                Db = dbWork,
                Sums = a.Dbias != 0 ? sumWork : 0,
                Tokens = a.Tokens,
                N = a.N,
                Subs = grid.Subs,
                Tiles = grid.Tiles,
            });
            var sumEnd = new SkinnyEndArgs { Parts = sumWork, Count = groups, Y = a.Dbias, YRowStride = 1, Rows = a.N, Cols = 1, Pitch = 1, Scale = 1, Add = (a.Add >> 4) & 1 };
            End(on, type, uEnd, dbEnd, a.Dbias != 0 ? sumEnd : default);
        }
        else
        {
            if (wantsU)
            {
                Reduce(on, type, dy, new(up, type, 1, rank), a.N, uEnd, work);
            }
            if (a.Db != 0)
            {
                Reduce(on, type, new(a.Dy, type, 1, a.N), new(t, type, 1, rank), a.Tokens, dbEnd, work);
            }
        }
        if (a.Dx != 0)
        {
            Multiply(on, new GemmArgs { A = dy, B = w, Ta = new(u, type, rank, 1), Tb = new(down, type, 1, a.K), Y = a.Dx, YType = type, YRowStride = a.K, YColStride = 1, M = a.Tokens, N = a.K, K = a.N, R = a.Xa == 0 ? rank : 0, Scale = 1, Add = a.Add & 1 });
        }
        if (a.Dxa != 0)
        {
            Multiply(on, new GemmArgs { A = new(u, type, rank, 1), B = new(down, type, 1, a.K), Y = a.Dxa, YType = type, YRowStride = a.K, YColStride = 1, M = a.Tokens, N = a.K, K = rank, Scale = 1, Add = (a.Add >> 1) & 1 });
        }
        if (a.Da != 0)
        {
            var daEnd = new SkinnyEndArgs { Y = a.Da, YRowStride = 1, YColStride = a.K, Rows = a.K, Cols = a.R, Pitch = rank, Scale = 1, Add = (a.Add >> 2) & 1 };
            Reduce(on, type, xa, new(u, type, 1, rank), a.Tokens, daEnd, work);
        }
        if (columnSums > 0)
        {
            CudaMatrixPlans.ColumnSums(on, in a, sumParts, columnWork, bias);
        }
        return true;
    }

    /// <summary>What row_norm's last launch needs: p[n, r] = w·aᵀ with a in w's type, and gram[r, r] = a·aᵀ in F32.</summary>
    public static bool TryRowNorm(CudaStream on, in RowNormArgs a, nint p, nint gram, nint work)
    {
        int rank = Padded(a.R);
        if (!RowNormFits(in a))
        {
            return false;
        }
        nint rows = work, exact = rows + (nint)Round((long)rank * a.K * a.WType.Size()), parts = exact + (nint)Round((long)rank * a.K * sizeof(float));
        RoundTo(on, a.WType, new RoundedMatrix(a.A, a.R, a.K, rows, rank, a.K));
        RoundTo(on, DType.F32, new RoundedMatrix(a.A, a.R, a.K, exact, rank, a.K));
        Reduce(on, a.WType, new(a.W, a.WType, a.K, 1), new(rows, a.WType, a.K, 1), a.K, new() { Y = p, YRowStride = a.R, YColStride = 1, Rows = a.N, Cols = a.R, Pitch = rank, Scale = 1 }, parts);
        Reduce(on, DType.F32, new(exact, DType.F32, a.K, 1), new(exact, DType.F32, a.K, 1), a.K, new() { Y = gram, YRowStride = a.R, YColStride = 1, Rows = a.R, Cols = a.R, Pitch = rank, Scale = 1 }, parts);
        return true;
    }

    /// <summary>Workspace of <see cref="TryRowNorm"/>; 0 where it does not take the arguments.</summary>
    public static long RowNormBytes(in RowNormArgs a)
    {
        int rank = Padded(a.R);
        return !RowNormFits(in a) ? 0
            : Round((long)rank * a.K * a.WType.Size()) + Round((long)rank * a.K * sizeof(float)) + Math.Max(PartBytes(a.N, a.K, rank, a.WType.Size()), PartBytes(a.R, a.K, rank, sizeof(float)));
    }

    private static bool RowNormFits(in RowNormArgs a) => Fits(new(a.W, a.WType, a.K, 1), a.WType);

    /// <summary>Columns of the kernels that take a rank; above the largest, whole lines.</summary>
    private static int Padded(int rank) => rank <= 16 ? 16 : rank <= 32 ? 32 : rank <= 64 ? 64 : Ceiling(rank, 128) * 128;

    // Lines start on 16 bytes; a factor is the caller's to judge.
    private static bool Fits(in GemmOperand o, DType type) => o.DType == type && type is DType.F32 or DType.BF16 or DType.F16 && o.Data % Line == 0
        && (o.StepStride == 1 || o.RowStride == 1) && (o.StepStride == 1 ? o.RowStride : o.StepStride) % (Line / type.Size()) == 0;

    /// <summary>end of a·bᵀ over k steps, b in `end.Pitch` rows: by the skinny kernels, in stretches of 128 columns above that.</summary>
    private static void Reduce(CudaStream on, DType type, GemmOperand a, GemmOperand b, int k, SkinnyEndArgs end, nint work)
    {
        bool acrossA = a.StepStride != 1, acrossB = b.StepStride != 1;
        (int parts, int depth) = Cut(end.Rows, k, type.Size());
        var args = new SkinnyArgs { A = a, B = b, End = end, K = k, Depth = depth, Parts = parts > 1 ? work : 0 };
        string name = (end.Pitch, acrossA, acrossB) switch
        {
            (16, false, false) => "skinny_16_kk",
            (16, false, true) => "skinny_16_km",
            (16, true, _) => "skinny_16_mm",
            (32, false, false) => "skinny_32_kk",
            (32, false, true) => "skinny_32_km",
            (32, true, _) => "skinny_32_mm",
            (64, false, false) => "skinny_64_kk",
            (64, false, true) => "skinny_64_km",
            (64, true, _) => "skinny_64_mm",
            (_, false, false) => "skinny_128_kk",
            (_, false, true) => "skinny_128_km",
            _ => "skinny_128_mm",
        };
        int columns = Math.Min(end.Pitch, MostSkinny);
        on.Run(SkinnyFile, name, type, (Ceiling(end.Rows, SkinnyRows), parts, end.Pitch / columns), 256, 3 * 128 * (SkinnyRows + columns), in args);
        if (parts > 1)
        {
            end.Parts = work;
            end.Count = parts;
            End(on, type, end);
        }
    }

    private static void End(CudaStream on, DType type, params ReadOnlySpan<SkinnyEndArgs> ends)
    {
        SkinnyEndsArgs args = default;
        int count = 0;
        long most = 0;
        foreach (SkinnyEndArgs end in ends)
        {
            if (end.Rows > 0)
            {
                args[count++] = end;
                most = Math.Max(most, (long)end.Rows * end.Pitch);
            }
        }
        on.Run(SkinnyFile, "skinny_end", type, (Math.Min((most + 255) / 256, 16L * on.Multiprocessors), count, 1), 256, 0, in args);
    }

    private static void RoundTo(CudaStream on, DType type, params ReadOnlySpan<RoundedMatrix> matrices)
    {
        SkinnyRoundArgs args = default;
        int count = 0;
        long most = 0;
        foreach (RoundedMatrix m in matrices)
        {
            if (m.To != 0)
            {
                args[count++] = m;
                most = Math.Max(most, (long)m.Rows * m.Cols);
            }
        }
        on.Run(SkinnyFile, "skinny_round", type, (Math.Min((most + 255) / 256, 16L * on.Multiprocessors), count, 1), 256, 0, in args);
    }

    /// <summary>Parts of a long sum and the steps of each, a function of the shape alone: enough blocks for a GPU, and no part under 4 stages.</summary>
    private static (int Parts, int Depth) Cut(int rows, int k, int size)
    {
        int depth = 128 / size, steps = Ceiling(k, depth), parts = Math.Clamp(256 / Math.Max(1, Ceiling(rows, SkinnyRows)), 1, Math.Max(1, steps / 4));
        int each = Math.Max(1, Ceiling(steps, parts));
        return (Math.Max(1, Ceiling(steps, each)), each * depth);
    }

    private static long PartBytes(int rows, int k, int rank, int size) => Cut(rows, k, size).Parts is > 1 and int parts ? Round((long)parts * rows * rank * sizeof(float)) : 0;

    private static int SharedLimit(int architecture) => 1024 * (architecture is 80 or 87 ? 163 : architecture is 86 or 89 || architecture >= 120 ? 99 : 227);

    private static int Ceiling(int count, int of) => LoraDyGrid.Ceiling(count, of);

    private static long Round(long bytes) => (bytes + 255) & ~255L;
}
