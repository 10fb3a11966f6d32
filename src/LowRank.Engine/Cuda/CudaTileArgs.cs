using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LowRank;

// The C# mirror of what native/abi/launch.h holds for skinny.cu.

/// <summary>What becomes of sums [rows, pitch]: y (+)= factor[row]·Scale·sum in F32, and Rounded [rows, pitch] in the activations' type.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SkinnyEndArgs
{
    public nint Parts, Factor, Y, Rounded;
    public long YRowStride, YColStride;
    public int Rows, Cols, Pitch, Count;
    public double Scale;
    public uint Add, Reserved;
}

/// <summary>Up to three matrices finished in one launch.</summary>
[InlineArray(3)]
internal struct SkinnyEndsArgs
{
    private SkinnyEndArgs first;
}

/// <summary>A product with few columns: sums over k steps in parts of Depth; no Parts: one part, finished at once.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SkinnyArgs
{
    public GemmOperand A, B;
    public SkinnyEndArgs End;
    public nint Parts;
    public int K, Depth;
}

/// <summary>to[rows, cols] in the activations' type from an F32 matrix, row i times factor[i], zeros outside.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct RoundedMatrix(nint from, int fromRows, int fromCols, nint to, int rows, int cols, nint factor = 0)
{
    public nint From = from, Factor = factor, To = to;
    public int FromRows = fromRows, FromCols = fromCols, Rows = rows, Cols = cols;
}

/// <summary>Up to three matrices rounded in one launch.</summary>
[InlineArray(3)]
internal struct SkinnyRoundArgs
{
    private RoundedMatrix first;
}

/// <summary>One pass over dy for u, db and the column sums, all in parts.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct LoraDyArgs
{
    public nint Dy, B, T, U, Db, Sums;
    public int Tokens, N, Subs, Tiles;
}
