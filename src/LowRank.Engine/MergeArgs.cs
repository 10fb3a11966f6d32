using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that merges use.

[StructLayout(LayoutKind.Sequential)]
internal struct MeanEntropyArgs : IKernelArgs
{
    public nint Logits, Loss, Losses, Stats;
    public int Rows, Cols;
    public double Epsilon;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct MeanEntropyGradArgs : IKernelArgs
{
    public nint Logits, Stats, Dloss, Dlogits;
    public int Rows, Cols;
    public double Epsilon;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct MergeInput
{
    public nint X, Keep;
    public double Weight, Share, Factor, Least;
    public long Cut;
    public ulong Seed, Stream, Found;
    public int From, To;
    public DType DType;
    public int Reserved;
}

[StructLayout(LayoutKind.Sequential)]
internal struct MergeArgs : IKernelArgs
{
    /// <summary>Elements that one row of figures is of, and figures that do not depend on the number of models.</summary>
    public const int Block = 2048, FixedFigures = 6;

    public nint Inputs, Start, Scale, Y, Figures;
    public long Count;
    public double Lambda;
    public int InputCount;
    public MergeRule Rule;
    public int Even, Compares;
    public DType StartType, YType, DType;
    readonly DType IKernelArgs.Type => DType;

    /// <summary>Figures of a block.</summary>
    public static int Width(int models) => FixedFigures + (2 * models) + (models * (models + 1) / 2);
}

[StructLayout(LayoutKind.Sequential)]
internal struct MergeCountArgs : IKernelArgs
{
    /// <summary>Counts of a model.</summary>
    public const int Bins = 2048;

    public nint Inputs, Start, Counts;
    public long Count, Origin, Span;
    public int InputCount, Shift, Width;
    public DType StartType, DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ConcreteMaskArgs : IKernelArgs
{
    public nint X, U, S, Mean;
    public long Count;
    public ulong Seed, Stream;
    public double Temperature;
    public DType DType;
    readonly DType IKernelArgs.Type => DType;
}

[StructLayout(LayoutKind.Sequential)]
internal struct ConcreteMaskGradArgs : IKernelArgs
{
    public nint X, S, Mean, Ds, Dx;
    public long Count;
    public double Temperature;
    public DType DType;
    public uint Add;
    readonly DType IKernelArgs.Type => DType;
}
