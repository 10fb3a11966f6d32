using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that optimisers use.

[StructLayout(LayoutKind.Sequential)]
internal struct Segment
{
    public long Start, Count, State, Paused;
    public double LrScale, WeightDecay;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SquareSumArgs : IKernelArgs
{
    public nint G, Segments, Norm2;
    public int SegmentCount;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct AdamWArgs : IKernelArgs
{
    public nint P, G, M, V, Segments, Norm2, Progress;
    public double Lr, Beta1, Beta2, Eps, MaxNorm;
    public long Step;
    public int SegmentCount, Coupled, Late, Uncorrected;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct Adam8BitArgs : IKernelArgs
{
    public nint P, G, M, V, Codes1, Codes2, Max1, Max2, Book1, Book2, Segments, Blocks, Norm2, Progress;
    public double Lr, Beta1, Beta2, Eps, MaxNorm;
    public long Step;
    public int SegmentCount;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SgdArgs : IKernelArgs
{
    public nint P, G, Buf, Segments, Norm2, Progress;
    public double Lr, Momentum, Dampening, MaxNorm;
    public long Step;
    public int SegmentCount, Nesterov;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct RmsPropArgs : IKernelArgs
{
    public nint P, G, V, Mean, Buf, Segments, Norm2, Progress;
    public double Lr, Alpha, Momentum, Eps, MaxNorm;
    public long Step;
    public int SegmentCount;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct Factored
{
    public long Start, Rows, Cols, RowState, ColState;
    public double LrScale, WeightDecay;
}

[StructLayout(LayoutKind.Sequential)]
internal struct AdafactorArgs : IKernelArgs
{
    public nint P, G, Row, Col, Tensors, Norm2, Progress;
    public double Lr, Decay, Eps1, Eps2, Threshold, MaxNorm;
    public long Step, TotalRows;
    public int TensorCount;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}
