namespace LowRank.Testing;

/// <summary>One operand of a row: shape and what its values may be.</summary>
/// <param name="Shape">Dimensions.</param>
/// <param name="Role">Activation, parameter (F32 beside bf16), frozen matrix, ids, mask.</param>
/// <param name="Limit">For ids: exclusive upper bound; for a quantised matrix: elements a block.</param>
public sealed record Operand(Shape Shape, Role Role = Role.Activation, int Limit = 0)
{
    /// <summary>Of a quantised matrix: how.</summary>
    public Quantization Kind { get; init; }

    public static implicit operator Operand(Shape shape) => new(shape);
}

/// <summary>What an operand is.</summary>
public enum Role
{
    /// <summary>Activation with a gradient.</summary>
    Activation,
    /// <summary>Parameter with a gradient: F32 beside bf16.</summary>
    Parameter,
    /// <summary>Frozen matrix: takes the activations' type, no gradient.</summary>
    Frozen,
    /// <summary>Frozen matrix packed in panels where the device packs.</summary>
    Packed,
    /// <summary>Frozen matrix as codes and scales; its values, spelled out, are the operand.</summary>
    Quantized,
    /// <summary>Parameter without a gradient.</summary>
    Constant,
    /// <summary>Activation-typed data without a gradient.</summary>
    Data,
    /// <summary>I32 ids below a limit.</summary>
    Ids,
    /// <summary>I32 places below a limit, sorted and distinct.</summary>
    Places,
    /// <summary>Activation with a gradient, of positive values.</summary>
    Positive,
    /// <summary>U8 zeros and ones, first of each row one.</summary>
    Mask,
    /// <summary>Absent.</summary>
    None,
}

/// <summary>An op with operands: runs as forward test, gradient check, guard test on every device, and as a benchmark.</summary>
public sealed record OpRow(Op Op, params Operand[] Inputs)
{
    /// <summary>Types that native kernels take with gradients.</summary>
    public DType[] Types { get; init; } = [DType.F32, DType.BF16];

    /// <summary>Ops that it stands for, each of which rounds what it hands on.</summary>
    public int Stages { get; init; } = 1;

    /// <summary>Bound of its errors: those of its stages add up as random ones do.</summary>
    public double Bound(DType type) => Close.Bound(type) * Math.Sqrt(Stages);

    /// <summary>Step of the central difference; an op that rounds needs one far above its unit.</summary>
    public double Step { get; init; } = Close.Step;

    /// <summary>True where the gradient takes a part of the output for a constant, so that a difference of the output is not its measure.</summary>
    public bool IsDetached { get; init; }

    /// <summary>Types that it runs in on a device: the CUDA kernels take F16 too.</summary>
    public IEnumerable<DType> TypesOn(string device) => device == "cpu" || !Types.Contains(DType.BF16) ? Types : Types.Append(DType.F16);

    /// <summary>Name in test output.</summary>
    public override string ToString() => $"{Op} {string.Join(" ", Inputs.Select(i => i.Role switch { Role.None => "-", Role.Quantized => $"{i.Kind}{i.Shape}", _ => i.Shape.ToString() }))}";
}

/// <summary>The table of op rows. Shapes in the order of each op's summary; ragged ones come first: nothing divides a tile.</summary>
public static class OpRows
{
    private static readonly Operand None = new([0], Role.None);

    /// <summary>Every row.</summary>
    public static IReadOnlyList<OpRow> All { get; } =
    [
        new(new Linear(), X(3, 16), W(5, 16)),
        new(new Linear(), X(2, 7, 33), Packed(65, 33), P(65)),
        new(new Linear(), X(1, 40), Packed(31, 40), P(31)),
        new(new Linear(), X(130, 67), P(35, 67), P(35)),
        new(new Linear(), X(64, 128), Packed(96, 128)),
        new(new LoraLinear(2), X(3, 16), W(5, 16), P(2, 16), P(5, 2)),
        new(new LoraLinear(0.5), X(1, 7), Packed(300, 7), P(1, 7), P(300, 1)),
        new(new LoraLinear(1.5), X(2, 37, 50), Packed(70, 50), P(8, 50), P(70, 8), P(70)),
        new(new LoraLinear(1.5), X(37, 50), Packed(70, 50), P(8, 50), P(70, 8), P(70), P(70)),
        new(new LoraLinear(1.5), X(37, 50), Packed(70, 50), P(8, 50), P(70, 8), None, C(70)),
        new(new LoraLinear(1.5), X(37, 50), Packed(70, 50), P(3, 50), P(70, 3), P(70), None, X(37, 50)),
        new(new LoraLinear(1), X(260, 96), Packed(128, 96), P(40, 96), P(128, 40)),
        new(new LoraLinear(0.5), X(200, 136), Packed(392, 136), P(5, 136), P(392, 5), P(392), C(392)),
        new(new LoraLinear(1), X(257, 72), Packed(136, 72), P(24, 72), P(136, 24)),
        new(new LoraLinear(1), X(130, 64), Packed(128, 64), P(16, 64), P(128, 16)),
        new(new LoraLinear(1), X(150, 80), Packed(200, 80), P(20, 80), P(200, 20)),
        new(new LoraLinear(1), X(128, 64), Packed(129, 64), P(64, 64), P(129, 64)),
        new(new GatedLinear(GateFunction.Silu), X(9, 40), P(24, 40), P(24, 40)) { Stages = 3 },
        new(new GatedLinear(GateFunction.GeluTanh, 0.5, 1.5), X(37, 50), Packed(70, 50), Packed(70, 50), P(5, 50), P(70, 5), P(8, 50), P(70, 8), P(70), P(70)) { Stages = 3 },
        new(new GatedLinear(GateFunction.Silu, 1, 2), X(200, 70), Packed(136, 70), Packed(136, 70), None, None, P(3, 70), P(136, 3), None, P(136)) { Stages = 3 },
        new(new GatedLinear(GateFunction.Silu), X(190, 30), P(72, 30), P(72, 30), None, None, None, None, P(72)) { Stages = 3 },
        // Lines of 16 bytes throughout: the tiled products of a GPU
        new(new Linear(), X(70, 40), Packed(72, 40), P(72)),
        new(new LoraLinear(1.5), X(70, 40), Packed(72, 40), P(8, 40), P(72, 8), P(72), P(72)),
        new(new LoraLinear(0.5), X(20, 48), Packed(40, 48), P(24, 48), P(40, 24), P(40), None, X(20, 48)),
        new(new AddMatMul(0.25), W(24, 72), P(24, 8), P(8, 72)) { Types = [DType.F32] },
        new(new MatMul(), X(40, 24), X(24, 72)),
        new(new DoraScale(2), P(24), Packed(24, 40), C(4, 40), C(24, 4), C(24)),
        new(new MultiLoraLinear(new(new(0, 2, 1.5), new(2, 1, 0.5)), AdapterChoice.PerRow([1, -1, 0])), X(3, 16), W(5, 16), P(3, 16), P(3, 5)),
        new(new MultiLoraLinear(MixedAdapters, MixedRows), X(2, 75, 40), Packed(72, 40), P(241, 40), P(241, 72), P(72)),
        new(new MultiLoraLinear(MixedAdapters, MixedRows), X(150, 50), Packed(70, 50), W(241, 50), W(241, 70), P(70)),
        new(new MultiLoraLinear(new([.. Enumerable.Range(0, 64).Select(i => new AdapterRange(4 * i, 4, 1))]), AdapterChoice.PerRow([.. Enumerable.Range(0, 64).Reverse()])), X(64, 48), Packed(96, 48), P(256, 48), P(256, 96)),
        new(new MultiLoraLinear(new(new AdapterRange(0, 3, 1)), AdapterChoice.Of(9)), X(9, 20), Packed(33, 20), P(3, 20), P(3, 33), P(33)),
        // Each tile of Hopper's products, for the three multiprocessors of the emulator: y and dx 128x256; dw 128x256; y and dx 128x128; all 64x128; dw 128x128.
        new(new Linear(), X(264, 256), W(256, 256), P(256)) { Types = [DType.BF16] },
        new(new Linear(), X(70, 256), P(264, 256)) { Types = [DType.BF16] },
        new(new Linear(), X(260, 128), W(128, 128)) { Types = [DType.BF16] },
        new(new Linear(), X(130, 72), W(117, 72)) { Types = [DType.BF16] },
        new(new Linear(), X(130, 72), P(120, 72)) { Types = [DType.BF16] },
        new(new Linear(), X(70, 128), P(264, 128)) { Types = [DType.BF16] },
        // Each of these tiles with each rank that its kernel pads to.
        new(new LoraLinear(0.5), X(264, 72), W(256, 72), P(5, 72), P(256, 5)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(264, 72), W(256, 72), P(24, 72), P(256, 24), None, C(256)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(264, 72), W(256, 72), P(40, 72), P(256, 40)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(264, 72), W(256, 72), P(72, 72), P(256, 72)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(260, 72), W(128, 72), P(5, 72), P(128, 5)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(260, 72), W(128, 72), P(24, 72), P(128, 24), None, C(128)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(260, 72), W(128, 72), P(40, 72), P(128, 40)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(260, 72), W(128, 72), P(72, 72), P(128, 72)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(130, 72), W(120, 72), P(5, 72), P(120, 5)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(130, 72), W(120, 72), P(24, 72), P(120, 24), None, C(120)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(130, 72), W(120, 72), P(40, 72), P(120, 40)) { Types = [DType.BF16] },
        new(new LoraLinear(0.5), X(130, 72), W(120, 72), P(72, 72), P(120, 72)) { Types = [DType.BF16] },
        new(new AddMatMul(0.25), W(9, 14), P(9, 3), P(3, 14)) { Types = [DType.F32] },
        new(new AddMatMul(2, Transpose: true), W(30, 12), P(12, 4), P(4, 30)) { Types = [DType.F32] },
        new(new AddMatMul(0.5), P(3, 9, 14), P(3, 9, 2), P(3, 2, 14)) { Types = [DType.F32] },
        new(new MatMul(), X(5, 9), X(9, 4)),
        new(new MatMul(TransposeA: true, Scale: 3), X(9, 5), X(9, 4)),
        new(new MatMul(TransposeB: true), X(33, 17), X(40, 17)),
        new(new MatMul(true, true), X(9, 5), X(4, 9)),
        new(new DoraScale(2), P(21), Packed(21, 33), C(4, 33), C(21, 4), C(21)),
        new(new LayerNorm(1e-5), X(5, 33), P(33), P(33)),
        new(new LayerNorm(1e-12), X(2, 3, 16)),
        new(new LayerNorm(1e-5), X(70, 128), P(128), P(128)),
        new(new LayerNorm(1e-5), X(3, 1030), P(1030), P(1030)),
        new(new LayerNorm(1e-5), X(2, 8600), P(8600), P(8600)),
        new(new RmsNorm(1e-6), X(5, 33), P(33)),
        new(new RmsNorm(1e-5), X(2, 7, 300)),
        new(new Gelu(), X(3, 101)),
        new(new GeluTanh(), X(3, 101)),
        new(new Exp(), X(3, 101)),
        new(new Sqrt(), new Operand([3, 101], Role.Positive)),
        new(new Silu(), X(3, 101)),
        new(new QuickGelu(), X(3, 101)),
        new(new SwiGlu(), X(3, 101), X(3, 101)),
        new(new GeGlu(), X(3, 101), X(3, 101)),
        new(new Tanh(), X(3, 101)),
        new(new Relu(), X(3, 101)),
        new(new Sigmoid(), X(3, 101)),
        new(new Add(), X(4, 5, 7), X(4, 5, 7)),
        new(new Add(-0.5), X(4, 5, 7), P(1, 5, 7)),
        new(new Mul(), X(4, 35), X(4, 35)),
        new(new Mul(), X(6, 19), P(19)),
        new(new Mul(), X(6, 19), P(1)),
        new(new Add(), X(6, 24), P(24)),
        new(new ScaleRows(), X(7, 18), P(7)),
        new(new ScaleBases(), C(3, 45), P(3, 4), P(4, 41)) { Types = [DType.F32] },
        new(new ScaleBases(), C(2, 300), P(2, 3), P(3, 300)) { Types = [DType.F32] },
        new(new AddSparse(), X(5, 9), P(11), new Operand([11], Role.Places, 45)),
        new(new SparseLoraLinear(0.5), X(2, 3, 14), P(3, 14), P(9, 3), P(30), new Operand([30], Role.Places, 9 * 14), P(9)),
        new(new SparseLoraLinear(), X(270, 33), P(2, 33), P(20, 2), P(65), new Operand([65], Role.Places, 20 * 33)),
        new(new Dropout(0.3, 7, 2), X(9, 41)),
        new(new Gather(), X(11, 6), new Operand([2, 9], Role.Ids, 11)),
        new(new Rope(3), X(2, 5, 48), C(9, 8, 2), new Operand([2, 5], Role.Ids, 9)),
        new(new Rope(2), X(7, 34), C(4, 4, 2), new Operand([7], Role.Ids, 4)),
        new(new Columns(3, 20), X(2, 5, 41)),
        new(new Columns(0, 7), X(7, 7)),
        new(new Cast(DType.F32), X(3, 101)) { Step = 1 },
        new(new Prepend(), X(3, 4, 10), P(10)),
        new(new Transpose(), X(2, 5, 9)),
        new(new Unfold(3, 2, 2, 1), X(2, 3, 7, 6)),
        new(new Unfold(4, 4, 4), X(3, 1, 12, 8)),
        new(new Unfold(3, 3, 1, 2, 2), X(1, 2, 6, 5)),
        new(new Wavelet2(Wavelet.Of("db2"), WaveletMode.Symmetric, 2), X(9, 13)),
        new(new Wavelet2(Wavelet.Of("haar"), WaveletMode.Periodization, 1), X(7, 70)),
        new(new Wavelet2(Wavelet.Of("bior4.4"), WaveletMode.Smooth, 1), X(20, 150)),
        new(new Wavelet2(Wavelet.Of("db5"), WaveletMode.Antireflect, 1), X(3, 5)),
        new(new InverseWavelet2(Wavelet.Of("db4"), WaveletMode.Periodization, 2, 22, 150, 0.5), P(3387), X(22, 150)),
        new(new InverseWavelet2(Wavelet.Of("sym5"), WaveletMode.Zero, 1, 13, 70), P(1716)),
        new(new WaveletLift(Wavelet.Of("db2"), 0, 134, 0b10), P(3, 67), P(2, 67)) { Types = [DType.F32] },
        new(new WaveletLift(Wavelet.Of("db3"), 2, 13, 0b01, Down: true), P(8, 3), P(8, 70)) { Types = [DType.F32] },
        new(new CrossEntropy(), X(6, 11), new Operand([6], Role.Ids, 11)),
        new(new CrossEntropy(Ignore: 3, Smoothing: 0.1), X(19, 5), new Operand([19], Role.Ids, 5)),
        new(new CrossEntropy(Smoothing: 0.1), X(3, 1029), new Operand([3], Role.Ids, 1029)),
        new(new CrossEntropy(Ignore: 2, Smoothing: 0.2, SoftCap: 0.7), X(7, 41), new Operand([7], Role.Ids, 41)),
        new(new CrossEntropy(SoftCap: 3), X(2, 1030), new Operand([2], Role.Ids, 1030)),
        new(new LinearCrossEntropy(), X(5, 8), W(11, 8), new Operand([5], Role.Ids, 11)),
        new(new LinearCrossEntropy(Ignore: 3, Smoothing: 0.1, SoftCap: 0.7), X(2, 75, 24), Packed(65, 24), new Operand([2, 75], Role.Ids, 65), C(65)),
        new(new LinearCrossEntropy(Smoothing: 0.1), X(130, 16), P(40, 16), new Operand([130], Role.Ids, 40), P(40)),
        new(new LinearCrossEntropy(SoftCap: 2), X(70, 16), Packed(1100, 16), new Operand([70], Role.Ids, 1100)),
        new(new MeanEntropy(), X(6, 11)),
        new(new MeanEntropy(1e-8), X(1, 1029)) { Stages = 3 },       // a logarithm, its mean, and their difference
        new(new ConcreteMask(0.5, 7, 2), P(7, 301)) { Types = [DType.F32] },
        new(new ConcreteMask(0.5), P(4099), C(4099)) { Types = [DType.F32] },
        new(new SquaredError(0.5), X(4, 9), new Operand([4, 9], Role.Data)),
        new(new BinaryCrossEntropy(2), X(4, 9), new Operand([4, 9], Role.Data)),
        new(new Attention(3), X(2, 5, 12), X(2, 5, 12), X(2, 5, 12)),
        new(new Attention(2, Causal: true), X(2, 19, 32), X(2, 19, 32), X(2, 19, 32)),
        new(new Attention(4, Causal: true, KvHeads: 2), X(1, 6, 32), X(1, 9, 16), X(1, 9, 16)),
        new(new Attention(2, Causal: true, Window: 40), X(1, 150, 32), X(1, 150, 32), X(1, 150, 32)),
        new(new Attention(2, Causal: true, KvHeads: 1, Window: 3), X(2, 6, 16), X(2, 9, 8), X(2, 9, 8)),
        new(new Attention(2), X(3, 70, 64), X(3, 70, 64), X(3, 70, 64), new Operand([3, 70], Role.Mask)),
        new(new Attention(2, Causal: true, KvHeads: 1), X(1, 70, 128), X(1, 65, 64), X(1, 65, 64)),
        new(new Attention(1), X(1, 66, 80), X(1, 35, 80), X(1, 35, 80)),
        new(new Attention(1, Causal: true), X(1, 7, 136), X(1, 40, 136), X(1, 40, 136)),
        // Each width of attention with a soft cap, a bias, or both
        new(new Attention(3) { SoftCap = 0.5 }, X(2, 5, 12), X(2, 5, 12), X(2, 5, 12), None, P(3, 5, 5)),
        new(new Attention(2, Causal: true, KvHeads: 1, Window: 30) { SoftCap = 2 }, X(2, 70, 80), X(2, 75, 40), X(2, 75, 40), new Operand([2, 75], Role.Mask)),
        new(new Attention(2), X(3, 66, 130), X(3, 35, 130), X(3, 35, 130), None, P(2, 66, 35)),
        new(new Attention(1, Causal: true) { SoftCap = 1 }, X(2, 9, 136), X(2, 40, 136), X(2, 40, 136), None, P(1, 9, 40)),
        new(new Dct2(), X(6, 10)),
        new(new Dct2(Inverse: true, Scale: 0.5), X(35, 51)),
        new(new SparseDct(9, 14, 2), P(5), C(2, 5), P(9, 14)) { Types = [DType.F32] },
        new(new SparseDct(33, 22, 1, DctRoute.Dense), P(40), C(2, 40)) { Types = [DType.F32] },
        new(new SparseDctLinear(9, 14, 2), X(2, 3, 14), P(5), C(2, 5), P(9, 14), P(9)),
        new(new SparseDctLinear(40, 21, 0.5), X(70, 21), P(30), C(2, 30)),
        new(new SnellWeight(new(0, SnellMode.Distances)), W(9, 14), P(2, 14, 2), P(2, 9, 2)) { Types = [DType.F32] },
        new(new SnellWeight(new(0.5)), W(70, 33), P(2, 33, 4), P(2, 70, 4)) { Types = [DType.F32], IsDetached = true },
        new(new SnellLinear(new(0, SnellMode.Distances)), X(3, 16), W(5, 16), P(2, 16, 3), P(2, 5, 3)),
        new(new SnellLinear(new(0, SnellMode.Distances, 1)), X(2, 37, 50), Packed(70, 50), P(2, 50, 4), P(2, 70, 4), P(70)),
        new(new SnellLinear(new(0, SnellMode.Distances, 3)), X(7, 12), None, P(2, 12, 2), P(2, 33, 2)),
        new(new SnellLinear(new(0.9)), X(33, 40), Packed(65, 40), P(2, 40, 4), P(2, 65, 4), P(65)) { IsDetached = true },
        new(new SnellLinear(new(0.6, SnellMode.PaperSoft)), X(5, 96), Q(Quantization.NF4, 70, 96), P(2, 96, 35), P(2, 70, 35)) { IsDetached = true },
        new(new Linear(), X(1, 128), Q(Quantization.NF4, 37, 128), P(37)),
        new(new Linear(), X(2, 3, 64), Q(Quantization.Int8Rows, 40, 64)),
        new(new Linear(), X(2, 7, 33), Q(Quantization.NF4, 65, 33), P(65)),
        new(new LoraLinear(0.5), X(6, 13), Q(Quantization.FP4, 21, 13), P(2, 13), P(21, 2)),
        new(new LoraLinear(1.5), X(5, 128), Q(Quantization.NF4, 70, 128, 128), P(8, 128), P(70, 8), P(70), P(70), X(5, 128)),
        new(new LoraLinear(1.5), X(1, 96), Q(Quantization.Int8Rows, 70, 96), P(3, 96), P(70, 3), P(70), C(70)),
        new(new LoraLinear(1), X(37, 96), Q(Quantization.FP4, 70, 96, 32), P(8, 96), P(70, 8), P(70)),
        new(new LoraLinear(0.5), X(200, 192), Q(Quantization.NF4, 136, 192), P(5, 192), P(136, 5), P(136), C(136)),
        new(new LoraLinear(1.5), X(180, 50), Q(Quantization.Int8Rows, 65, 50), P(3, 50), P(65, 3), None, P(65)),
        new(new DoraScale(2), P(45), Q(Quantization.NF4, 45, 64), C(4, 64), C(45, 4), C(45)),
    ];

    private static AdapterTable MixedAdapters => new(new(0, 1, 2), new(1, 8, 0.5), new(9, 16, 1), new(0, 0, 1), new(25, 24, -1), new(49, 64, 0.25), new(113, 128, 0.5));

    private static AdapterChoice MixedRows => AdapterChoice.Of(150, new(0, 1, 6), new(1, 0, 0), new(1, 30, 0), new(33, 12, 1), new(45, 2, AdapterChoice.None), new(47, 5, 3), new(52, 3, 4), new(55, 70, 2), new(130, 9, 5), new(139, 4, 1));

    private static Operand X(params int[] shape) => new(Shape.Of(shape));

    private static Operand P(params int[] shape) => new(Shape.Of(shape), Role.Parameter);

    private static Operand C(params int[] shape) => new(Shape.Of(shape), Role.Constant);

    private static Operand W(int n, int k) => new([n, k], Role.Frozen);

    private static Operand Q(Quantization kind, int n, int k, int block = 64) => new([n, k], Role.Quantized, block) { Kind = kind };

    private static Operand Packed(int n, int k) => new([n, k], Role.Packed);
}
