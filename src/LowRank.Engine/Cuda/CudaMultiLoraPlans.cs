namespace LowRank;

/// <summary>Plan of the multi-adapter linear: the base product as every linear layer has it, then the low-rank part of the rows that have one.</summary>
internal static class CudaMultiLoraPlans
{
    // Those of multi_lora.cu
    private const string File = "multi_lora.cu";
    private const int Threads = 128, Warps = 4, Slice = 1024, Group = 32, Columns = 512, PartPitch = Group + 4, TPitch = AdapterTable.MostRank + 8;

    public static bool Forward(CudaStream on, in MultiLoraArgs a)
    {
        bool done = CudaMatrixPlans.Linear(on, new LinearArgs
        {
            X = a.X,
            W = a.W,
            Bias = a.Bias,
            Y = a.Y,
            Tokens = a.Tokens,
            N = a.N,
            K = a.K,
            DType = a.DType,
            WType = a.WType,
            WLayout = a.WLayout,
        });
        if (!done || a.PieceCount == 0 || a.MostRank == 0)
        {
            return done;
        }
        on.End();       // launches are in order: what the base product used may be written again
        int slices = (a.K + Slice - 1) / Slice;
        var planned = new Planned<MultiLoraArgs> { Op = a, Work = on.Workspace((long)slices * a.Tokens * a.MostRank * sizeof(float)), Parts = slices };
        bool wide = a.DType == DType.F32;
        int shrink = wide ? 0 : Warps * AdapterChoice.PieceTokens * PartPitch * sizeof(float);
        int expand = AdapterChoice.PieceTokens * (wide ? a.MostRank * sizeof(float) : TPitch * sizeof(ushort));
        on.Run(File, "multi_lora_shrink", a.DType, (a.PieceCount, slices, (a.MostRank + Group - 1) / Group), Threads, shrink, in planned);
        return on.Run(File, "multi_lora_expand", a.DType, (a.PieceCount, (a.N + Columns - 1) / Columns, 1), Threads, expand, in planned);
    }
}
