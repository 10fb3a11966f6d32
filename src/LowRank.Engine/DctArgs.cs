using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that cosine transforms use.

[StructLayout(LayoutKind.Sequential)]
internal struct Dct2Args : IKernelArgs
{
    public nint X, Y;
    public int Rows, Cols, Inverse;
    public DType DType;
    public double Scale;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SparseDctArgs : IKernelArgs
{
    public nint W, A, U, Loc, Y;
    public int Rows, Cols, Count;
    public DctRoute Route;
    public double Scale;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SparseDctGradArgs : IKernelArgs
{
    public nint X, Dy, A, U, Loc, Da, Du;
    public int Tokens, Rows, Cols, Count;
    public double Scale;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
