using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that SNELL and the gates of SoRA use.

[StructLayout(LayoutKind.Sequential)]
internal struct SnellSelectArgs : IKernelArgs
{
    public nint P, Q, Tau;
    public long Rank;
    public double Fraction, Scale, Norm;
    public int N, K, R;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SnellArgs : IKernelArgs
{
    public nint X, W, P, Q, Tau, Bias, Y;
    public double Scale, Norm;
    public int Tokens, N, K, R;
    public SnellMode Mode;
    public DType DType, WType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SnellGradArgs : IKernelArgs
{
    public nint X, W, P, Q, Tau, Dy, Dx, Dp, Dq, Dbias;
    public double Scale, Norm;
    public int Tokens, N, K, R;
    public SnellMode Mode;
    public DType DType, WType;
    public Layout WLayout;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct GateThresholdArgs : IKernelArgs
{
    public nint G, Segments;
    public double Level;
    public int SegmentCount, Paper;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}
