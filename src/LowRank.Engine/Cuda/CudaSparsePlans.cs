namespace LowRank;

/// <summary>Plans of values at places of a matrix.</summary>
internal static class CudaSparsePlans
{
    private const string File = "sparse.cu";
    private const int Threads = 256;

    public static bool Add(CudaStream on, in AddSparseArgs a)
    {
        if (a.X == 0)
        {
            on.Clear(a.Y, a.Count * a.DType.Size());
        }
        else
        {
            on.Run(File, "add_sparse_base", a.DType, Each(on, a.Count), Threads, 0, in a);
        }
        return on.Run(File, "add_sparse", a.DType, Each(on, a.Nnz), Threads, 0, in a);
    }

    public static bool Take(CudaStream on, in TakeSparseArgs a) => on.Run(File, "take_sparse", a.DType, Each(on, a.Nnz), Threads, 0, in a);

    public static bool Sample(CudaStream on, in SampleSparseArgs a) => on.Run(File, "sample_sparse", a.DType, ((a.Nnz + 3) / 4, 1, 1), 128, 0, in a);

    private static (long X, long Y, long Z) Each(CudaStream on, long count) => (Math.Min((count + Threads - 1) / Threads, 32L * on.Multiprocessors), 1, 1);
}
