namespace LowRank;

/// <summary>Plans of RandLoRA's scaled bases: parameters and their gradients, so F32.</summary>
internal static class CudaBasesPlans
{
    private const string File = "bases.cu";
    private const int Threads = 256;

    public static bool Forward(CudaStream on, in ScaleBasesArgs a) => a.DType == DType.F32 && on.Run(File, "scale_bases_forward", a.DType, ((long)a.R * a.N, 1, 1), Threads, 0, in a);

    public static bool Backward(CudaStream on, in ScaleBasesGradArgs a)
    {
        if (a.DType != DType.F32)
        {
            return false;
        }
        if (a.Dlambda != 0)
        {
            on.Run(File, "scale_bases_backward_lambda", a.DType, ((long)a.R * a.N, 1, 1), Threads, Threads / 32 * sizeof(float), in a);
        }
        if (a.Dgamma != 0)
        {
            on.Run(File, "scale_bases_backward_gamma", a.DType, ((a.D + Threads - 1) / Threads, a.N, 1), Threads, 0, in a);
        }
        return true;
    }
}
