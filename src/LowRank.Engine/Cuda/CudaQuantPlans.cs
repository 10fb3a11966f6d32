namespace LowRank;

/// <summary>Plans of the kernels that take a quantised W: straight from the codes for a few tokens, else through the scratch that all layers share.</summary>
internal static class CudaQuantPlans
{
    private const string File = "quant.cu";
    private const int FewTokens = 8, Piece = 32, Warps = 8, Threads = 32 * Warps, Run = 512;

    public static bool Dequantize(CudaStream on, in DequantizeArgs a)
    {
        long runs = (CodeBlock.CodeBytes(a.WLayout, (long)a.N * a.K) + Run - 1) / Run;
        return on.Run(File, "dequantize", a.DType, (Math.Min((runs + Warps - 1) / Warps, 16L * on.Multiprocessors), 1, 1), Threads, 64 + (Warps * Run), in a);
    }

    /// <summary>lora_forward with a quantised W.</summary>
    public static bool Forward(CudaStream on, in LoraArgs a)
    {
        if (a.Tokens > FewTokens || a.K % Piece != 0 || a.X % 16 != 0)
        {
            return CudaMatrixPlans.Forward(on, a with { W = SpellOut(on, a.W, a.N, a.K, a.WLayout, a.DType), WType = a.DType, WLayout = Layout.Rows });
        }
        if (a.R > 0)
        {
            on.Run(File, "quant_few_rank", a.DType, ((a.R + 3) / 4, a.Tokens, 1), 128, 0, in a);
        }
        (int tokens, int rows) = a.Tokens == 1 ? (1, 4) : (FewTokens, 2);
        string name = (a.WLayout == Layout.Codes4, tokens == 1) switch
        {
            (true, true) => "quant4_few1",
            (true, false) => "quant4_few8",
            (false, true) => "quant8_few1",
            _ => "quant8_few8",
        };
        return on.Run(File, name, a.DType, (a.Tokens == 0 ? 0 : (a.N + (rows * Warps) - 1) / (rows * Warps), 1, 1), Threads, CodeBlock.Table * sizeof(float), in a);
    }

    /// <summary>lora_backward with a quantised W, which only dx needs.</summary>
    public static bool Backward(CudaStream on, in LoraGradArgs a) => CudaMatrixPlans.Backward(on, a with
    {
        W = a.Dx == 0 ? 0 : SpellOut(on, a.W, a.N, a.K, a.WLayout, a.DType),
        WType = a.DType,
        WLayout = Layout.Rows,
    });

    /// <summary>row_norm with a quantised W.</summary>
    public static bool RowNorm(CudaStream on, in RowNormArgs a) => CudaMatrixPlans.RowNorm(on, a with { W = SpellOut(on, a.W, a.N, a.K, a.WLayout, a.DType), WType = a.DType, WLayout = Layout.Rows });

    private static nint SpellOut(CudaStream on, nint w, int n, int k, Layout layout, DType type)
    {
        nint scratch = on.Scratch((long)n * k * type.Size());
        Dequantize(on, new DequantizeArgs { W = w, Y = scratch, N = n, K = k, DType = type, WLayout = layout });
        return scratch;
    }
}
