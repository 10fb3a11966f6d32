using System.Runtime.InteropServices;

namespace LowRank;

// The C# mirror of native/abi/lowrank.h, struct for struct and field for field; that file holds the formulas and shapes.
// LowRank.Repo.Tests compares sizes and offsets with the table the native library exports.

/// <summary>An argument block of a kernel; <see cref="Type"/> decides between native code and the float64 reference.</summary>
internal interface IKernelArgs
{
    DType Type { get; }
}

[StructLayout(LayoutKind.Sequential)]
internal struct PackArgs : IKernelArgs
{
    public nint Src, Dst;
    public int N, K, Unpack;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LinearArgs : IKernelArgs
{
    public nint X, W, Bias, Y;
    public int Tokens, N, K;
    public DType DType, WType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LinearGradArgs : IKernelArgs
{
    public nint X, W, Dy, Dx, Dw, Dbias;
    public int Tokens, N, K;
    public DType DType, WType;
    public Layout WLayout;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct MatMulArgs : IKernelArgs
{
    public nint A, B, C;
    public int M, N, K, TransposeA, TransposeB;
    public double Scale;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LoraArgs : IKernelArgs
{
    public nint X, Xa, W, A, B, Bias, C, Y, Y0, T;
    public int Tokens, N, K, R;
    public double Scale;
    public DType DType, WType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LoraGradArgs : IKernelArgs
{
    public nint X, Xa, W, A, B, C, T, Y0, Dy, Dx, Dxa, Da, Db, Dbias, Dc;
    public int Tokens, N, K, R;
    public double Scale;
    public DType DType, WType;
    public Layout WLayout;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LoraRange
{
    public double Scale;
    public int First, Rank;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LoraPiece
{
    public int First, Tokens, Adapter, Reserved;
}

[StructLayout(LayoutKind.Sequential)]
internal struct MultiLoraArgs : IKernelArgs
{
    public nint X, W, A, B, Bias, Y, Ranges, Pieces;
    public int Tokens, N, K, MostRank, PieceCount;
    public DType DType, WType;
    public Layout WLayout;
    public DType AbType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct AddMatMulArgs : IKernelArgs
{
    public nint W, B, A, Y;
    public int N, K, R, Transpose;
    public double Scale;
    public DType DType, WType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct RowNormArgs : IKernelArgs
{
    public nint W, A, B, W2, Norm, Inverse;
    public int N, K, R, WantW2;
    public double Scale;
    public DType DType, WType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LayerNormArgs : IKernelArgs
{
    public nint X, Weight, Bias, Y, Stats;
    public int Rows, Cols;
    public double Eps;
    public DType DType;
    public int Rms;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct LayerNormGradArgs : IKernelArgs
{
    public nint X, Weight, Stats, Dy, Dx, Dweight, Dbias;
    public int Rows, Cols;
    public DType DType;
    public int Rms;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct UnaryArgs : IKernelArgs
{
    public nint X, Y;
    public long Count;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct UnaryGradArgs : IKernelArgs
{
    public nint X, Dy, Dx;
    public long Count;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct BinaryArgs : IKernelArgs
{
    public nint X, Z, Y;
    public long Count, Period;
    public double Alpha;
    public DType DType, ZType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct BinaryGradArgs : IKernelArgs
{
    public nint X, Z, Dy, Dx, Dz;
    public long Count, Period;
    public double Alpha;
    public DType DType, ZType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ScaleRowsArgs : IKernelArgs
{
    public nint X, C, Y;
    public int Rows, Cols;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ScaleRowsGradArgs : IKernelArgs
{
    public nint X, C, Dy, Dx, Dc;
    public int Rows, Cols;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct DropoutArgs : IKernelArgs
{
    public nint X, Y;
    public long Count;
    public ulong Seed, Stream;
    public double P;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ConvertArgs : IKernelArgs
{
    public nint X, Y;
    public long Count;
    public DType From, To;
    readonly DType IKernelArgs.Type => To == DType.F64 ? DType.F64 : From;
}

[StructLayout(LayoutKind.Sequential)]
internal struct FillArgs : IKernelArgs
{
    public nint Y;
    public long Count;
    public double Value;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct GatherArgs : IKernelArgs
{
    public nint Table, Ids, Y;
    public int Rows, Cols, TableRows;
    public DType DType, WType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct GatherGradArgs : IKernelArgs
{
    public nint Ids, Dy, Dtable;
    public int Rows, Cols, TableRows;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct RopeArgs : IKernelArgs
{
    public nint X, Table, Positions, Y;
    public int Rows, Heads, Dim, Rotary, Inverse;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ColumnsArgs : IKernelArgs
{
    public nint X, Y;
    public int Rows, Cols, Start, Count, Inverse;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct PrependArgs : IKernelArgs
{
    public nint X, First, Y;
    public int Batch, Tokens, Cols;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct PrependGradArgs : IKernelArgs
{
    public nint Dy, Dx, Dfirst;
    public int Batch, Tokens, Cols;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct TransposeArgs : IKernelArgs
{
    public nint X, Y;
    public int Batch, Rows, Cols;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct UnfoldArgs : IKernelArgs
{
    public nint X, Y;
    public int Batch, Channels, Height, Width, KernelH, KernelW, Stride, Pad, Dilation, OutH, OutW;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct CrossEntropyArgs : IKernelArgs
{
    public nint Logits, Labels, Loss, Losses, Lse, Valid, Dlogits;
    public int Rows, Cols, First, Total, Ignore;
    public double Smoothing, Cap;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct CrossEntropyGradArgs : IKernelArgs
{
    public nint Logits, Labels, Lse, Valid, Dloss, Dlogits;
    public int Rows, Cols, Ignore;
    public double Smoothing, Cap;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SquaredErrorArgs : IKernelArgs
{
    public nint Y, Target, Loss;
    public long Count;
    public double Scale;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct SquaredErrorGradArgs : IKernelArgs
{
    public nint Y, Target, Dloss, Dy;
    public long Count;
    public double Scale;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct AttentionArgs : IKernelArgs
{
    public nint Q, K, V, Mask, Bias, Y, Lse;
    public int Batch, Queries, Keys, Heads, KvHeads, Dim, Causal, Window;
    public double Scale, Cap;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct AttentionGradArgs : IKernelArgs
{
    public nint Q, K, V, Mask, Bias, Y, Lse, Dy, Dq, Dk, Dv, Dbias;
    public int Batch, Queries, Keys, Heads, KvHeads, Dim, Causal, Window;
    public double Scale, Cap;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
