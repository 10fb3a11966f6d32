using System.Runtime.InteropServices;

namespace LowRank;

// As KernelArgs.cs: the argument blocks of RandLoRA's scaled bases.

[StructLayout(LayoutKind.Sequential)]
internal struct ScaleBasesArgs : IKernelArgs
{
    public nint A, Lambda, Gamma, S;
    public int R, N, D, Pitch;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ScaleBasesGradArgs : IKernelArgs
{
    public nint A, Lambda, Gamma, Ds, Dlambda, Dgamma;
    public int R, N, D, Pitch;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
