namespace LowRank;

/// <summary>Plans of merges, of Concrete's mask, and of the entropy that it is learned by.</summary>
internal static class CudaMergePlans
{
    private const string File = "merge.cu", Mask = "concrete.cu", Loss = "loss.cu";
    private const int Threads = 256, MostOfWarp = 1024;

    public static bool Merge(CudaStream on, in MergeArgs a) =>
        a.DType == DType.F32 && on.Run(File, "merge_models", a.DType, ((a.Count + MergeArgs.Block - 1) / MergeArgs.Block, 1, 1), Threads, Threads * sizeof(double), in a);

    public static bool Count(CudaStream on, in MergeCountArgs a)
    {
        int parts = (int)Math.Min((a.Count + MergeArgs.Block - 1) / MergeArgs.Block, 4L * on.Multiprocessors);
        long bins = (long)a.InputCount * MergeCountArgs.Bins;
        var planned = new Planned<MergeCountArgs> { Op = a, Work = on.Workspace(parts * bins * sizeof(int)), Parts = parts };
        on.Run(File, "merge_count", a.DType, (parts, 1, 1), Threads, MergeCountArgs.Bins * sizeof(int), in planned);
        return on.Run(File, "merge_counted", a.DType, (parts == 0 ? 0 : (bins + Threads - 1) / Threads, 1, 1), Threads, 0, in planned);
    }

    public static bool MaskForward(CudaStream on, in ConcreteMaskArgs a)
    {
        int parts = Parts(on, (a.Count + 3) / 4);
        var planned = new Planned<ConcreteMaskArgs> { Op = a, Work = on.Workspace(parts * sizeof(double)), Parts = parts };
        on.Run(Mask, "concrete_mask_draw", a.DType, (parts, 1, 1), Threads, Threads * sizeof(double), in planned);
        on.Run(Mask, "concrete_mask_mean", a.DType, (1, 1, 1), 32, 0, in planned);
        return on.Run(Mask, "concrete_mask_scale", a.DType, (Parts(on, a.Count), 1, 1), Threads, 0, in a);
    }

    public static bool MaskBackward(CudaStream on, in ConcreteMaskGradArgs a)
    {
        int parts = Parts(on, a.Count);
        var planned = new Planned<ConcreteMaskGradArgs> { Op = a, Work = on.Workspace((parts + 1) * sizeof(double)), Parts = parts };
        on.Run(Mask, "concrete_mask_product", a.DType, (parts, 1, 1), Threads, Threads * sizeof(double), in planned);
        on.Run(Mask, "concrete_mask_level", a.DType, (1, 1, 1), 32, 0, in planned);
        return on.Run(Mask, "concrete_mask_backward", a.DType, (parts, 1, 1), Threads, 0, in planned);
    }

    public static bool MeanEntropy(CudaStream on, in MeanEntropyArgs a)
    {
        if (a.Cols <= MostOfWarp)
        {
            on.Run(Loss, "mean_entropy_rows", a.DType, ((a.Rows + 3) / 4, 1, 1), 128, 0, in a);
        }
        else
        {
            on.Run(Loss, "mean_entropy_rows_wide", a.DType, (a.Rows, 1, 1), Threads, Threads / 32 * sizeof(float), in a);
        }
        return on.Run(Loss, "mean_entropy_mean", a.DType, (1, 1, 1), Threads, Threads * sizeof(double), in a);
    }

    public static bool MeanEntropyGrad(CudaStream on, in MeanEntropyGradArgs a) => on.Run(Loss, "mean_entropy_backward", a.DType, (Parts(on, (long)a.Rows * a.Cols), 1, 1), Threads, 0, in a);

    private static int Parts(CudaStream on, long threads) => (int)Math.Min((threads + Threads - 1) / Threads, 32L * on.Multiprocessors);
}
