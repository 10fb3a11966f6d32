namespace LowRank;

/// <summary>Plans of alternating least squares: a block a row for systems, a warp a row for products and losses.</summary>
internal static class CudaAlsPlans
{
    private const string File = "als.cu";
    private const int Threads = 128, Warps = Threads / 32, Chunk = 32;
    private const int MostUnknowns = 64;        // of a normal matrix in shared memory

    public static bool Solve(CudaStream on, in AlsArgs a) => a.R <= MostUnknowns
        && on.Run(File, "als_solve", a.DType, (a.Rows, 1, 1), Threads, ((a.R * (a.R + 1)) + (2 * a.R) + Warps + Chunk + (Chunk * a.R)) * sizeof(float), in a);

    public static bool Product(CudaStream on, in AlsArgs a) => on.Run(File, "als_product", a.DType, ((a.Rows + Warps - 1) / Warps, 1, 1), Threads, 0, in a);

    public static bool Loss(CudaStream on, in AlsArgs a) => on.Run(File, "als_loss", a.DType, ((a.Rows + Warps - 1) / Warps, 1, 1), Threads, 0, in a);
}
