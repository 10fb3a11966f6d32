namespace LowRank;

/// <summary>Plans of alternating least squares: a block a row for systems, those with most entries first, a warp a row for products and losses.</summary>
internal static class CudaAlsPlans
{
    private const string File = "als.cu";
    private const int Threads = 128, Warps = Threads / 32, Segments = 16, MostLong = 64;        // as in als.cu
    private const int Queue = 256, MostShared = 96 << 10, MostStaged = 32 << 10;        // bytes; every device from compute capability 8.0 has 99 KiB of shared memory a block

    public static bool Solve(CudaStream on, in AlsArgs a)
    {
        int chunk = Math.Clamp(MostStaged / sizeof(float) / a.R, 1, 32), vectors = ((3 * a.R) + Warps + chunk + (chunk * a.R)) * sizeof(float);
        long matrix = (long)a.R * (a.R + 1) * sizeof(float), order = (a.Rows + 63L) / 64 * 64 * sizeof(int);
        if (vectors > MostShared)
        {
            return false;
        }
        bool inShared = vectors + matrix <= MostShared;
        int blocks = inShared ? a.Rows : Math.Min(a.Rows, 8 * on.Multiprocessors), longRows = inShared ? Math.Min(a.Rows, MostLong) : 0;
        long parts = (long)longRows * Segments * a.R * (a.R + 3) / 2 * sizeof(float);
        nint work = on.Workspace(Queue + order + Math.Max(parts, inShared ? 0 : blocks * matrix));
        var planned = new Planned<AlsArgs> { Op = a, Work = work, Parts = inShared ? 0 : blocks, Extra = chunk };
        on.Clear(work, Queue);
        (long, long, long) few = (Math.Min((a.Rows + Threads - 1) / Threads, 4 * on.Multiprocessors), 1, 1);
        on.Run(File, "als_count", a.DType, few, Threads, 0, in planned);
        on.Run(File, "als_order", a.DType, few, Threads, 0, in planned);
        int shared = vectors + (inShared ? (int)matrix : 0);
        on.Run(File, "als_parts", a.DType, (Segments, longRows, 1), Threads, shared, in planned);
        return on.Run(File, "als_solve", a.DType, (blocks, 1, 1), Threads, shared, in planned);
    }

    public static bool Product(CudaStream on, in AlsArgs a) => on.Run(File, "als_product", a.DType, ((a.Rows + Warps - 1) / Warps, 1, 1), Threads, 0, in a);

    public static bool Loss(CudaStream on, in AlsArgs a) => on.Run(File, "als_loss", a.DType, ((a.Rows + Warps - 1) / Warps, 1, 1), Threads, 0, in a);
}
