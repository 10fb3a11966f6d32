namespace LowRank;

/// <summary>Plans of the CUDA kernels: what each row of <see cref="Kernels"/> launches. One function a shape of kernel.</summary>
internal static class CudaPlans
{
    private const int Threads = 256;
    private const int MostOfWarp = 1024;        // columns of a row that a warp owns; a block owns longer ones
    private const string Pointwise = "pointwise.cu", Norm = "norm.cu", Rows = "rows.cu", Loss = "loss.cu", Adam = "adam.cu";

    /// <summary>An elementwise function, 16 bytes a thread and operand.</summary>
    public static CudaPlan<UnaryArgs> Unary(string name) => (CudaStream on, in UnaryArgs a) => on.Run(Pointwise, name, a.DType, Each(on, a.Count, 16 / a.DType.Size()), Threads, 0, in a);

    public static CudaPlan<UnaryGradArgs> UnaryGrad(string name) => (CudaStream on, in UnaryGradArgs a) => on.Run(Pointwise, name, a.DType, Each(on, a.Count, 16 / a.DType.Size()), Threads, 0, in a);

    public static CudaPlan<BinaryArgs> Binary(string name) => (CudaStream on, in BinaryArgs a) => on.Run(Pointwise, name, a.DType, Each(on, a.Count, 16 / a.DType.Size()), Threads, 0, in a);

    public static CudaPlan<BinaryGradArgs> GatedGrad(string name) => (CudaStream on, in BinaryGradArgs a) => on.Run(Pointwise, name, a.DType, Each(on, a.Count, 16 / a.DType.Size()), Threads, 0, in a);

    public static CudaPlan<BinaryGradArgs> BinaryGrad(string name)
    {
        string x = name + "_x", z = name + "_z";     // made once: a launch allocates nothing
        return (CudaStream on, in BinaryGradArgs a) =>
        {
            if (a.Dx != 0)
            {
                on.Run(Pointwise, x, a.DType, Each(on, a.Count, 16 / a.DType.Size()), Threads, 0, in a);
            }
            if (a.Dz != 0)
            {
                on.Run(Pointwise, z, a.DType, ((a.Period + 31) / 32, 1, 1), Threads, 8 * 32 * sizeof(float), in a);
            }
            return true;
        };
    }

    public static bool ScaleRows(CudaStream on, in ScaleRowsArgs a) => on.Run(Pointwise, "scale_rows_forward", a.DType, (a.Rows, 1, 1), Threads, 0, in a);

    public static bool ScaleRowsGrad(CudaStream on, in ScaleRowsGradArgs a) => on.Run(Pointwise, "scale_rows_backward", a.DType, (a.Rows, 1, 1), Threads, Threads / 32 * sizeof(float), in a);

    public static bool Dropout(CudaStream on, in DropoutArgs a) => on.Run(Pointwise, "dropout", a.DType, Each(on, a.Count, 4), Threads, 0, in a);

    public static bool Convert(CudaStream on, in ConvertArgs a) =>
        IsComputed(a.From) && IsComputed(a.To) && on.Run(Pointwise, "convert", a.To, Each(on, a.Count, 4), Threads, 0, in a);

    public static bool Fill(CudaStream on, in FillArgs a)
    {
        if (IsComputed(a.DType))
        {
            return on.Run(Pointwise, "fill", a.DType, Each(on, a.Count, 4), Threads, 0, in a);
        }
        return a.Value == 0 && on.Clear(a.Y, a.Count * a.DType.Size());
    }

    public static bool LayerNorm(CudaStream on, in LayerNormArgs a) => a.Cols <= MostOfWarp
        ? on.Run(Norm, "layer_norm_forward", a.DType, ((a.Rows + 3) / 4, 1, 1), 128, 0, in a)
        : on.Run(Norm, "layer_norm_forward_wide", a.DType, (a.Rows, 1, 1), Threads, Threads / 32 * sizeof(float), in a);

    public static bool LayerNormGrad(CudaStream on, in LayerNormGradArgs a)
    {
        if (a.Dx != 0 && a.Cols <= MostOfWarp)
        {
            on.Run(Norm, "layer_norm_backward_x", a.DType, ((a.Rows + 3) / 4, 1, 1), 128, 0, in a);
        }
        else if (a.Dx != 0)
        {
            on.Run(Norm, "layer_norm_backward_x_wide", a.DType, (a.Rows, 1, 1), Threads, Threads / 32 * sizeof(float), in a);
        }
        if (a.Dweight != 0 || a.Dbias != 0)
        {
            int parts = CudaMatrixPlans.Parts(a.Rows);
            nint work = on.Workspace(2L * parts * a.Cols * sizeof(float));
            on.Run(Norm, "layer_norm_backward_w", a.DType, ((a.Cols + 31) / 32, parts, 1), Threads, 512 * sizeof(float), new Planned<LayerNormGradArgs> { Op = a, Work = work, Parts = parts });
            CudaMatrixPlans.AddUp(on, a.DType, work, parts, a.Cols, a.Dweight, (a.Add >> 1) & 1);
            CudaMatrixPlans.AddUp(on, a.DType, work + (nint)((long)parts * a.Cols * sizeof(float)), parts, a.Cols, a.Dbias, (a.Add >> 2) & 1);
        }
        return true;
    }

    public static bool Gather(CudaStream on, in GatherArgs a) => a.DType == a.WType && on.Run(Rows, "gather_forward", a.DType, (a.Rows, 1, 1), 128, 0, in a);

    public static bool GatherGrad(CudaStream on, in GatherGradArgs a)
    {
        if ((a.Add & 1) == 0)
        {
            on.Clear(a.Dtable, (long)a.TableRows * a.Cols * a.DType.Size());
        }
        return on.Run(Rows, "gather_backward", a.DType, (a.Rows, 1, 1), 128, 129 * sizeof(int), in a);
    }

    public static bool Rope(CudaStream on, in RopeArgs a) => on.Run(Rows, "rope", a.DType, (a.Rows, 1, 1), 128, 0, in a);

    public static bool Columns(CudaStream on, in ColumnsArgs a) => on.Run(Rows, "columns", a.DType, (a.Rows, 1, 1), 128, 0, in a);

    public static bool Prepend(CudaStream on, in PrependArgs a) => on.Run(Rows, "prepend_forward", a.DType, (a.Tokens + 1, a.Batch, 1), 128, 0, in a);

    public static bool PrependGrad(CudaStream on, in PrependGradArgs a) => on.Run(Rows, "prepend_backward", a.DType, (a.Tokens + 1, a.Batch, 1), 128, 0, in a);

    public static bool Transpose(CudaStream on, in TransposeArgs a) => on.Run(Rows, "transpose", a.DType, ((a.Cols + 31) / 32, (a.Rows + 31) / 32, a.Batch), Threads, 32 * 33 * a.DType.Size(), in a);

    public static bool Unfold(CudaStream on, in UnfoldArgs a) => on.Run(Rows, "unfold", a.DType, Each(on, (long)a.Batch * a.OutH * a.OutW * a.Channels * a.KernelH * a.KernelW, 1), Threads, 0, in a);

    public static bool Fold(CudaStream on, in UnfoldArgs a) => on.Run(Rows, "fold", a.DType, Each(on, (long)a.Batch * a.Channels * a.Height * a.Width, 1), Threads, 0, in a);

    public static bool CrossEntropy(CudaStream on, in CrossEntropyArgs a)
    {
        if (a.First == 0 && a.Dlogits != 0)
        {
            on.Run(Loss, "cross_entropy_count", a.DType, (1, 1, 1), Threads, Threads * sizeof(double), in a);
        }
        if (a.Cols <= MostOfWarp)
        {
            on.Run(Loss, "cross_entropy_rows", a.DType, ((a.Rows + 3) / 4, 1, 1), 128, 0, in a);
        }
        else
        {
            on.Run(Loss, "cross_entropy_rows_wide", a.DType, (a.Rows, 1, 1), Threads, Threads / 32 * sizeof(float), in a);
        }
        return a.First + a.Rows < a.Total || on.Run(Loss, "cross_entropy_mean", a.DType, (1, 1, 1), Threads, Threads * sizeof(double), in a);
    }

    public static bool CrossEntropyGrad(CudaStream on, in CrossEntropyGradArgs a) => a.Cols <= MostOfWarp
        ? on.Run(Loss, "cross_entropy_backward", a.DType, ((a.Rows + 3) / 4, 1, 1), 128, 0, in a)
        : on.Run(Loss, "cross_entropy_backward_wide", a.DType, (a.Rows, 1, 1), Threads, 0, in a);

    /// <summary>A mean over elements of y and target, by the partial sums of a function.</summary>
    public static CudaPlan<SquaredErrorArgs> Error(string partial) => (CudaStream on, in SquaredErrorArgs a) =>
    {
        int parts = (int)Each(on, a.Count, 1).X;
        var planned = new Planned<SquaredErrorArgs> { Op = a, Work = on.Workspace((long)parts * sizeof(double)), Parts = parts };
        on.Run(Loss, partial, a.DType, (parts, 1, 1), Threads, Threads * sizeof(double), in planned);
        return on.Run(Loss, "error_mean", a.DType, (1, 1, 1), 32, 0, in planned);
    };

    public static CudaPlan<SquaredErrorGradArgs> ErrorGrad(string name) => (CudaStream on, in SquaredErrorGradArgs a) => on.Run(Loss, name, a.DType, Each(on, a.Count, 1), Threads, 0, in a);

    // Optimisers keep parameters, gradients and moments in F32.
    public static bool SquareSum(CudaStream on, in SquareSumArgs a)
    {
        if (a.DType != DType.F32)
        {
            return false;
        }
        int parts = 2 * on.Multiprocessors;
        var planned = new Planned<SquareSumArgs> { Op = a, Work = on.Workspace((long)parts * sizeof(double)), Parts = parts };
        on.Run(Adam, "square_sum_parts", a.DType, (parts, 1, 1), Threads, Threads * sizeof(double), in planned);
        return on.Run(Adam, "square_sum_total", a.DType, (1, 1, 1), 32, 0, in planned);
    }

    public static bool AdamW(CudaStream on, in AdamWArgs a) => a.DType == DType.F32 && on.Run(Adam, "adamw", a.DType, (8 * on.Multiprocessors, 1, 1), Threads, 0, in a);

    public static bool Adam8Bit(CudaStream on, in Adam8BitArgs a) => a.DType == DType.F32 && on.Run(Adam, "adam_8bit", a.DType, (8 * on.Multiprocessors, 1, 1), Threads, Threads / 32 * sizeof(float), in a);

    public static bool Sgd(CudaStream on, in SgdArgs a) => a.DType == DType.F32 && on.Run(Adam, "sgd", a.DType, (8 * on.Multiprocessors, 1, 1), Threads, 0, in a);

    public static bool RmsProp(CudaStream on, in RmsPropArgs a) => a.DType == DType.F32 && on.Run(Adam, "rmsprop", a.DType, (8 * on.Multiprocessors, 1, 1), Threads, 0, in a);

    public static bool Adafactor(CudaStream on, in AdafactorArgs a)
    {
        if (a.DType != DType.F32)
        {
            return false;
        }
        (long, long, long) all = (8 * on.Multiprocessors, 1, 1), tensors = (Math.Min(a.TensorCount, 8 * on.Multiprocessors), 1, 1);
        int shared = Threads * sizeof(double);
        var planned = new Planned<AdafactorArgs> { Op = a, Work = on.Workspace((a.TotalRows + (2L * a.TensorCount)) * sizeof(double)) };
        on.Run(Adam, "adafactor_rows", a.DType, all, Threads, shared, in planned);
        on.Run(Adam, "adafactor_columns", a.DType, all, Threads, shared, in planned);
        on.Run(Adam, "adafactor_totals", a.DType, tensors, Threads, shared, in planned);
        on.Run(Adam, "adafactor_norms", a.DType, all, Threads, shared, in planned);
        planned.Parts = 1;
        on.Run(Adam, "adafactor_totals", a.DType, tensors, Threads, shared, in planned);
        return on.Run(Adam, "adafactor", a.DType, all, Threads, 0, in planned);
    }

    private static bool IsComputed(DType type) => type is DType.F32 or DType.BF16 or DType.F16;

    // Enough blocks to fill the device eight times over, no more: the kernels stride over what is left.
    private static (long X, long Y, long Z) Each(CudaStream on, long count, int perThread) =>
        (Math.Min((count + ((long)Threads * perThread) - 1) / ((long)Threads * perThread), 8L * 4 * on.Multiprocessors), 1, 1);
}
