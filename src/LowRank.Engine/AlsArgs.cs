using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that alternating least squares use.

[StructLayout(LayoutKind.Sequential)]
internal struct AlsArgs : IKernelArgs
{
    public nint Y, Starts, Columns, Values, X, Flags, Losses;
    public int Rows, R, Steps, DirectBelow, Weighted;
    public double Ridge, Thin, Stop, Reduction;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}
