namespace LowRank;

/// <summary>Every op, with an example of each for tables and tests.</summary>
public static class OpCatalog
{
    /// <summary>One instance of each op, attributes at typical values.</summary>
    public static IReadOnlyList<Op> All { get; } =
    [
        new Linear(), new LoraLinear(1), new MultiLoraLinear(new AdapterTable(new AdapterRange(0, 1, 1)), AdapterChoice.PerRow([0])), new AddMatMul(1), new MatMul(), new DoraScale(1),
        new GatedLinear(GateFunction.Silu),
        new ScaleBases(),
        new AddSparse(), new SparseLoraLinear(), new Sqrt(),
        new LayerNorm(1e-5), new RmsNorm(1e-6), new Gelu(), new GeluTanh(), new QuickGelu(), new Silu(), new SwiGlu(), new GeGlu(), new Tanh(), new Relu(), new Sigmoid(), new Exp(), new Add(), new Mul(), new ScaleRows(), new Dropout(0.1, 0, 0),
        new Gather(), new Rope(1), new Columns(0, 1), new Cast(DType.F32), new Prepend(), new Transpose(), new Unfold(1, 1), new CrossEntropy(), new LinearCrossEntropy(), new SquaredError(), new BinaryCrossEntropy(), new Attention(1),
        new Dct2(), new SparseDct(2, 2, 1), new SparseDctLinear(2, 2, 1),
        new Wavelet2(Wavelet.Of("db2"), WaveletMode.Symmetric, 1), new InverseWavelet2(Wavelet.Of("db2"), WaveletMode.Symmetric, 1, 8, 8), new WaveletLift(Wavelet.Of("db2"), 0, 8, 0),
        new MeanEntropy(), new ConcreteMask(0.5),
        new SnellWeight(new SnellRule(0.9)), new SnellLinear(new SnellRule(0.9)),
    ];
}
