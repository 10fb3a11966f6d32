namespace LowRank;

/// <summary>How a matrix lies in memory: <c>lr_layout</c>.</summary>
internal enum Layout
{
    /// <summary>Dense row-major.</summary>
    Rows = 0,
    /// <summary>Packed once for the CPU matrix kernels: [n/32][k][32].</summary>
    Panels = 1,
    /// <summary>Quantised: signed bytes, a scale a row.</summary>
    Codes8 = 2,
    /// <summary>Quantised: 4-bit places in a table of 16 values, a scale a block.</summary>
    Codes4 = 3,
}
