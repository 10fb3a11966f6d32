using System.Runtime.InteropServices;

namespace LowRank;

// As KernelArgs.cs: the argument blocks of values at places of a matrix.

[StructLayout(LayoutKind.Sequential)]
internal struct AddSparseArgs : IKernelArgs
{
    public nint X, V, Idx, Y;
    public long Count;
    public int Nnz;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct TakeSparseArgs : IKernelArgs
{
    public nint X, Idx, V;
    public int Nnz;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SampleSparseArgs : IKernelArgs
{
    public nint A, B, Idx, V;
    public int Tokens, N, K, Nnz;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
