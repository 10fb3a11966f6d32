namespace LowRank;

/// <summary>Plans of the wavelet kernels: a block a tile of what is written.</summary>
internal static class CudaWaveletPlans
{
    private const string File = "wavelet.cu";
    private const int Threads = 256, TileRows = 8, TileCols = 64, MostTaps = 96;

    /// <summary>A tile of 8 rows and 32 columns of coefficients; between the axes two rows of 64 + taps columns for each row.</summary>
    public static bool Down(CudaStream on, in WaveletArgs a) =>
        on.Run(File, "wavelet_down", a.DType, ((a.BandCols + (TileCols / 2) - 1) / (TileCols / 2), (a.BandRows + TileRows - 1) / TileRows, 1), Threads, Shared, in a);

    /// <summary>A tile of 8 rows and 64 columns of samples.</summary>
    public static bool Up(CudaStream on, in WaveletArgs a) =>
        on.Run(File, "wavelet_up", a.DType, ((a.XCols + TileCols - 1) / TileCols, (a.XRows + TileRows - 1) / TileRows, 1), Threads, Shared, in a);

    private static int Shared => 2 * TileRows * (TileCols + MostTaps) * sizeof(float);
}
