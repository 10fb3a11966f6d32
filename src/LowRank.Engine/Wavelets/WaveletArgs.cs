using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that wavelets use.

[StructLayout(LayoutKind.Sequential)]
internal struct WaveletArgs : IKernelArgs
{
    public nint Rows, Cols, X, W, Ll, Lh, Hl, Hh;
    public int XRows, XCols, BandRows, BandCols, Ldx, Ldb;
    public double Scale;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
