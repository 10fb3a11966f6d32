using System.Runtime.InteropServices;

namespace LowRank;

// The part of the mirror of native/abi/lowrank.h that gated layers use.

[StructLayout(LayoutKind.Sequential)]
internal struct GatedLinearArgs : IKernelArgs
{
    public nint X, Wg, Wu, Ag, Bg, Au, Bu, BiasG, BiasU, Y, Tg, Tu, G, U;
    public double ScaleG, ScaleU;
    public int Tokens, N, K, Rg, Ru;
    public GateFunction Gate;
    public int Save;
    public DType DType, WType;
    public Layout WLayout;
    readonly DType IKernelArgs.Type => DType;

    /// <summary>The layer whose output goes through the function.</summary>
    public readonly LoraArgs GateLayer => new() { X = X, W = Wg, A = Ag, B = Bg, Bias = BiasG, Y = G, T = Tg, Tokens = Tokens, N = N, K = K, R = Rg, Scale = ScaleG, DType = DType, WType = WType, WLayout = WLayout };

    /// <summary>The layer beside it.</summary>
    public readonly LoraArgs UpLayer => new() { X = X, W = Wu, A = Au, B = Bu, Bias = BiasU, Y = U, T = Tu, Tokens = Tokens, N = N, K = K, R = Ru, Scale = ScaleU, DType = DType, WType = WType, WLayout = WLayout };

    /// <summary>y from both.</summary>
    public readonly BinaryArgs Product => new() { X = G, Z = U, Y = Y, Count = (long)Tokens * N, Period = (long)Tokens * N, Alpha = 1, DType = DType, ZType = DType };
}
