using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LowRank;

// The C# mirror of native/abi/launch.h: argument structs of single CUDA launches that are no op of their own.

/// <summary>An op's arguments with a workspace.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Planned<TArgs> where TArgs : unmanaged
{
    public TArgs Op;
    public nint Work;
    public int Parts, Extra;
}

/// <summary>y[c] (+)= Scale·Σ_i parts[i, c].</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SumPartsArgs
{
    public nint Parts, Y;
    public long Cols;
    public int Count;
    public DType DType;
    public double Scale;
    public uint Add;
}

/// <summary>A matrix as a product reads it: element (row, step) at data[row·RowStride + step·StepStride], times factor[step] where given.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct GemmOperand(nint data, DType type, long rowStride, long stepStride, nint factor = 0)
{
    public nint Data = data, Factor = factor;
    public long RowStride = rowStride, StepStride = stepStride;
    public DType DType = type;
    public int Reserved;
}

/// <summary>y[m,n] (+)= c ⊙ (Scale·a·bᵀ + ta·tbᵀ + w) + bias.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct GemmArgs
{
    public GemmOperand A, B, Ta, Tb;
    public nint C, Bias, W, Y, Y0;
    public long YRowStride, YColStride;
    public int M, N, K, R;
    public DType YType, WType;
    public double Scale;
    public uint Add, Reserved;
}

/// <summary>Parts of column sums of dy, and of dy ⊙ y0 where given.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ColumnSumArgs
{
    public nint Dy, Y0, Work;
    public int Rows, Cols, Parts, Reserved;
}

/// <summary>The last launch of row_norm: p = w·aᵀ [n,r], gram = a·aᵀ [r,r].</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct RowNormEndArgs
{
    public RowNormArgs Op;
    public nint P, Gram;
}

/// <summary>An F32 matrix in the activations' type and a larger shape.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PadArgs
{
    public nint From, To;
    public int FromRows, FromCols, Rows, Cols;
}

/// <summary>What a bulk copy knows of a matrix in memory: 128 bytes as the driver, or the emulator, encodes them.</summary>
[InlineArray(16)]
internal struct TensorMap
{
    private ulong first;
}

/// <summary>A product of mainloop_sm90.cuh; its size is a multiple of the maps' alignment, as in C++.</summary>
[StructLayout(LayoutKind.Sequential, Size = 640)]
internal struct Sm90Args
{
    public TensorMap X, W, Down, Tail;
    public nint C, Bias, Y, Y0, T32, T16, Counters;
    public int M, N, K, R, TPitch, RowTiles, ColTiles, Group;
    public DType YType;
    public float Scale;
    public uint Add;
}
