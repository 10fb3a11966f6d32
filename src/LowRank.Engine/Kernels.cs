namespace LowRank;

/// <summary>Facts about the kernel table.</summary>
internal static class KernelTable
{
    /// <summary>Version of lowrank.h that the assemblies were built against.</summary>
    public const int AbiVersion = 1;
}

/// <summary>Every kernel, one row each: its name on all devices and its float64 reference. Shapes and formulas stand in lowrank.h.</summary>
internal static class Kernels
{
    public static readonly Kernel<PackArgs> Pack = new("pack", MatrixReferences.Pack);
    public static readonly Kernel<LinearArgs> LinearForward = new("linear_forward", MatrixReferences.LinearForward) { Cuda = CudaMatrixPlans.Linear };
    public static readonly Kernel<LinearGradArgs> LinearBackward = new("linear_backward", MatrixReferences.LinearBackward) { Cuda = CudaMatrixPlans.LinearGrad };
    public static readonly Kernel<MatMulArgs> MatMul = new("matmul", MatrixReferences.MatMul) { Cuda = CudaMatrixPlans.MatMul };
    public static readonly Kernel<DequantizeArgs> Dequantize = new("dequantize", MatrixReferences.Dequantize) { Cuda = CudaQuantPlans.Dequantize };
    public static readonly Kernel<LoraArgs> LoraForward = new("lora_forward", MatrixReferences.LoraForward) { Cuda = CudaMatrixPlans.Forward };
    public static readonly Kernel<LoraGradArgs> LoraBackward = new("lora_backward", MatrixReferences.LoraBackward) { Cuda = CudaMatrixPlans.Backward };
    public static readonly Kernel<MultiLoraArgs> MultiLoraForward = new("multi_lora_forward", MatrixReferences.MultiLoraForward) { Cuda = CudaMultiLoraPlans.Forward };
    public static readonly Kernel<GatedLinearArgs> GatedLinearForward = new("gated_linear_forward", MatrixReferences.GatedLinearForward) { Cuda = CudaMatrixPlans.GatedLinear };
    public static readonly Kernel<AddMatMulArgs> AddMatMul = new("add_matmul", MatrixReferences.AddMatMul) { Cuda = CudaMatrixPlans.AddMatMul };
    public static readonly Kernel<RowNormArgs> RowNorm = new("row_norm", MatrixReferences.RowNorm) { Cuda = CudaMatrixPlans.RowNorm };
    public static readonly Kernel<ScaleBasesArgs> ScaleBasesForward = new("scale_bases_forward", BasesReferences.Forward) { Cuda = CudaBasesPlans.Forward };
    public static readonly Kernel<ScaleBasesGradArgs> ScaleBasesBackward = new("scale_bases_backward", BasesReferences.Backward) { Cuda = CudaBasesPlans.Backward };
    public static readonly Kernel<AddSparseArgs> AddSparse = new("add_sparse", SparseReferences.Add) { Cuda = CudaSparsePlans.Add };
    public static readonly Kernel<TakeSparseArgs> TakeSparse = new("take_sparse", SparseReferences.Take) { Cuda = CudaSparsePlans.Take };
    public static readonly Kernel<SampleSparseArgs> SampleSparse = new("sample_sparse", SparseReferences.Sample) { Cuda = CudaSparsePlans.Sample };

    public static readonly Kernel<SnellSelectArgs> SnellSelect = new("snell_select", SnellReferences.Select) { Cuda = CudaSnellPlans.Select };
    public static readonly Kernel<SnellArgs> SnellForward = new("snell_forward", SnellReferences.Forward) { Cuda = CudaSnellPlans.Forward };
    public static readonly Kernel<SnellGradArgs> SnellBackward = new("snell_backward", SnellReferences.Backward) { Cuda = CudaSnellPlans.Backward };
    public static readonly Kernel<GateThresholdArgs> GateThreshold = new("gate_threshold", SnellReferences.GateThreshold) { Cuda = CudaSnellPlans.GateThreshold };

    public static readonly Kernel<LayerNormArgs> LayerNormForward = new("layer_norm_forward", PointwiseReferences.LayerNormForward) { Cuda = CudaPlans.LayerNorm };
    public static readonly Kernel<LayerNormGradArgs> LayerNormBackward = new("layer_norm_backward", PointwiseReferences.LayerNormBackward) { Cuda = CudaPlans.LayerNormGrad };
    public static readonly Kernel<UnaryArgs> GeluForward = new("gelu_forward", PointwiseReferences.Unary(PointwiseReferences.Gelu)) { Cuda = CudaPlans.Unary("gelu_forward") };
    public static readonly Kernel<UnaryGradArgs> GeluBackward = new("gelu_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.GeluSlope)) { Cuda = CudaPlans.UnaryGrad("gelu_backward") };
    public static readonly Kernel<UnaryArgs> GeluTanhForward = new("gelu_tanh_forward", PointwiseReferences.Unary(PointwiseReferences.GeluTanh)) { Cuda = CudaPlans.Unary("gelu_tanh_forward") };
    public static readonly Kernel<UnaryGradArgs> GeluTanhBackward = new("gelu_tanh_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.GeluTanhSlope)) { Cuda = CudaPlans.UnaryGrad("gelu_tanh_backward") };
    public static readonly Kernel<UnaryArgs> TanhForward = new("tanh_forward", PointwiseReferences.Unary(Math.Tanh)) { Cuda = CudaPlans.Unary("tanh_forward") };
    public static readonly Kernel<UnaryGradArgs> TanhBackward = new("tanh_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.TanhSlope)) { Cuda = CudaPlans.UnaryGrad("tanh_backward") };
    public static readonly Kernel<UnaryArgs> ReluForward = new("relu_forward", PointwiseReferences.Unary(x => x > 0 || double.IsNaN(x) ? x : 0)) { Cuda = CudaPlans.Unary("relu_forward") };
    public static readonly Kernel<UnaryGradArgs> ReluBackward = new("relu_backward", PointwiseReferences.UnaryGrad(x => x > 0 ? 1 : 0)) { Cuda = CudaPlans.UnaryGrad("relu_backward") };
    public static readonly Kernel<UnaryArgs> SigmoidForward = new("sigmoid_forward", PointwiseReferences.Unary(PointwiseReferences.Sigmoid)) { Cuda = CudaPlans.Unary("sigmoid_forward") };
    public static readonly Kernel<UnaryGradArgs> SigmoidBackward = new("sigmoid_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.SigmoidSlope)) { Cuda = CudaPlans.UnaryGrad("sigmoid_backward") };
    public static readonly Kernel<UnaryArgs> ExpForward = new("exp_forward", PointwiseReferences.Unary(Math.Exp)) { Cuda = CudaPlans.Unary("exp_forward") };
    public static readonly Kernel<UnaryGradArgs> ExpBackward = new("exp_backward", PointwiseReferences.UnaryGrad(Math.Exp)) { Cuda = CudaPlans.UnaryGrad("exp_backward") };
    public static readonly Kernel<UnaryArgs> SqrtForward = new("sqrt_forward", PointwiseReferences.Unary(Math.Sqrt)) { Cuda = CudaPlans.Unary("sqrt_forward") };
    public static readonly Kernel<UnaryGradArgs> SqrtBackward = new("sqrt_backward", PointwiseReferences.UnaryGrad(x => x == 0 ? 0 : 0.5 / Math.Sqrt(x))) { Cuda = CudaPlans.UnaryGrad("sqrt_backward") };
    public static readonly Kernel<UnaryArgs> SiluForward = new("silu_forward", PointwiseReferences.Unary(PointwiseReferences.Silu)) { Cuda = CudaPlans.Unary("silu_forward") };
    public static readonly Kernel<UnaryGradArgs> SiluBackward = new("silu_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.SiluSlope)) { Cuda = CudaPlans.UnaryGrad("silu_backward") };
    public static readonly Kernel<UnaryArgs> QuickGeluForward = new("quick_gelu_forward", PointwiseReferences.Unary(PointwiseReferences.QuickGelu)) { Cuda = CudaPlans.Unary("quick_gelu_forward") };
    public static readonly Kernel<UnaryGradArgs> QuickGeluBackward = new("quick_gelu_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.QuickGeluSlope)) { Cuda = CudaPlans.UnaryGrad("quick_gelu_backward") };
    public static readonly Kernel<BinaryArgs> SiluMulForward = new("silu_mul_forward", PointwiseReferences.Gated(PointwiseReferences.Silu)) { Cuda = CudaPlans.Binary("silu_mul_forward") };
    public static readonly Kernel<BinaryGradArgs> SiluMulBackward = new("silu_mul_backward", PointwiseReferences.GatedGrad(PointwiseReferences.Silu, PointwiseReferences.SiluSlope)) { Cuda = CudaPlans.GatedGrad("silu_mul_backward") };
    public static readonly Kernel<BinaryArgs> GeluTanhMulForward = new("gelu_tanh_mul_forward", PointwiseReferences.Gated(PointwiseReferences.GeluTanh)) { Cuda = CudaPlans.Binary("gelu_tanh_mul_forward") };
    public static readonly Kernel<BinaryGradArgs> GeluTanhMulBackward = new("gelu_tanh_mul_backward", PointwiseReferences.GatedGrad(PointwiseReferences.GeluTanh, PointwiseReferences.GeluTanhSlope)) { Cuda = CudaPlans.GatedGrad("gelu_tanh_mul_backward") };
    public static readonly Kernel<BinaryArgs> AddForward = new("add_forward", PointwiseReferences.AddForward) { Cuda = CudaPlans.Binary("add_forward") };
    public static readonly Kernel<BinaryGradArgs> AddBackward = new("add_backward", PointwiseReferences.AddBackward) { Cuda = CudaPlans.BinaryGrad("add_backward") };
    public static readonly Kernel<BinaryArgs> MulForward = new("mul_forward", PointwiseReferences.MulForward) { Cuda = CudaPlans.Binary("mul_forward") };
    public static readonly Kernel<BinaryGradArgs> MulBackward = new("mul_backward", PointwiseReferences.MulBackward) { Cuda = CudaPlans.BinaryGrad("mul_backward") };
    public static readonly Kernel<ScaleRowsArgs> ScaleRowsForward = new("scale_rows_forward", PointwiseReferences.ScaleRowsForward) { Cuda = CudaPlans.ScaleRows };
    public static readonly Kernel<ScaleRowsGradArgs> ScaleRowsBackward = new("scale_rows_backward", PointwiseReferences.ScaleRowsBackward) { Cuda = CudaPlans.ScaleRowsGrad };
    public static readonly Kernel<DropoutArgs> Dropout = new("dropout", PointwiseReferences.Dropout) { Cuda = CudaPlans.Dropout };
    public static readonly Kernel<ConvertArgs> Convert = new("convert", PointwiseReferences.Convert) { Cuda = CudaPlans.Convert };
    public static readonly Kernel<FillArgs> Fill = new("fill", PointwiseReferences.Fill) { Cuda = CudaPlans.Fill, CudaTakesDoubles = true };

    public static readonly Kernel<GatherArgs> GatherForward = new("gather_forward", RowsReferences.GatherForward) { Cuda = CudaPlans.Gather };
    public static readonly Kernel<GatherGradArgs> GatherBackward = new("gather_backward", RowsReferences.GatherBackward) { Cuda = CudaPlans.GatherGrad };
    public static readonly Kernel<RopeArgs> Rope = new("rope", RowsReferences.Rope) { Cuda = CudaPlans.Rope };
    public static readonly Kernel<ColumnsArgs> Columns = new("columns", RowsReferences.Columns) { Cuda = CudaPlans.Columns };
    public static readonly Kernel<PrependArgs> PrependForward = new("prepend_forward", RowsReferences.PrependForward) { Cuda = CudaPlans.Prepend };
    public static readonly Kernel<PrependGradArgs> PrependBackward = new("prepend_backward", RowsReferences.PrependBackward) { Cuda = CudaPlans.PrependGrad };
    public static readonly Kernel<TransposeArgs> Transpose = new("transpose", RowsReferences.Transpose) { Cuda = CudaPlans.Transpose };
    public static readonly Kernel<UnfoldArgs> Unfold = new("unfold", RowsReferences.Unfold) { Cuda = CudaPlans.Unfold };
    public static readonly Kernel<UnfoldArgs> Fold = new("fold", RowsReferences.Fold) { Cuda = CudaPlans.Fold };
    public static readonly Kernel<CrossEntropyArgs> CrossEntropyForward = new("cross_entropy_forward", RowsReferences.CrossEntropyForward) { Cuda = CudaPlans.CrossEntropy };
    public static readonly Kernel<CrossEntropyGradArgs> CrossEntropyBackward = new("cross_entropy_backward", RowsReferences.CrossEntropyBackward) { Cuda = CudaPlans.CrossEntropyGrad };
    public static readonly Kernel<SquaredErrorArgs> SquaredErrorForward = new("squared_error_forward", RowsReferences.SquaredErrorForward) { Cuda = CudaPlans.Error("squared_error_parts") };
    public static readonly Kernel<SquaredErrorGradArgs> SquaredErrorBackward = new("squared_error_backward", RowsReferences.SquaredErrorBackward) { Cuda = CudaPlans.ErrorGrad("squared_error_backward") };
    public static readonly Kernel<SquaredErrorArgs> BinaryCrossEntropyForward = new("binary_cross_entropy_forward", RowsReferences.BinaryCrossEntropyForward) { Cuda = CudaPlans.Error("binary_cross_entropy_parts") };
    public static readonly Kernel<SquaredErrorGradArgs> BinaryCrossEntropyBackward = new("binary_cross_entropy_backward", RowsReferences.BinaryCrossEntropyBackward) { Cuda = CudaPlans.ErrorGrad("binary_cross_entropy_backward") };

    public static readonly Kernel<MeanEntropyArgs> MeanEntropyForward = new("mean_entropy_forward", MergeReferences.EntropyForward) { Cuda = CudaMergePlans.MeanEntropy };
    public static readonly Kernel<MeanEntropyGradArgs> MeanEntropyBackward = new("mean_entropy_backward", MergeReferences.EntropyBackward) { Cuda = CudaMergePlans.MeanEntropyGrad };
    public static readonly Kernel<MergeArgs> Merge = new("merge", MergeReferences.Merge) { Cuda = CudaMergePlans.Merge };
    public static readonly Kernel<MergeCountArgs> MergeCount = new("merge_count", MergeReferences.Count) { Cuda = CudaMergePlans.Count };
    public static readonly Kernel<ConcreteMaskArgs> ConcreteMaskForward = new("concrete_mask_forward", MergeReferences.MaskForward) { Cuda = CudaMergePlans.MaskForward };
    public static readonly Kernel<ConcreteMaskGradArgs> ConcreteMaskBackward = new("concrete_mask_backward", MergeReferences.MaskBackward) { Cuda = CudaMergePlans.MaskBackward };

    public static readonly Kernel<Dct2Args> Dct2 = new("dct2", DctReferences.Dct2) { Cuda = CudaDctPlans.Dct2 };
    public static readonly Kernel<SparseDctArgs> SparseDct = new("sparse_dct", DctReferences.SparseDct) { Cuda = CudaDctPlans.SparseDct };
    public static readonly Kernel<SparseDctGradArgs> SparseDctBackward = new("sparse_dct_backward", DctReferences.SparseDctBackward) { Cuda = CudaDctPlans.SparseDctGrad };
    public static readonly Kernel<WaveletArgs> WaveletDown = new("wavelet_down", WaveletReferences.Down) { Cuda = CudaWaveletPlans.Down };
    public static readonly Kernel<WaveletArgs> WaveletUp = new("wavelet_up", WaveletReferences.Up) { Cuda = CudaWaveletPlans.Up };

    public static readonly Kernel<AttentionArgs> AttentionForward = new("attention_forward", AttentionReferences.Forward) { Cuda = CudaAttentionPlans.Forward };
    public static readonly Kernel<AttentionGradArgs> AttentionBackward = new("attention_backward", AttentionReferences.Backward) { Cuda = CudaAttentionPlans.Backward };

    public static readonly Kernel<SquareSumArgs> SquareSum = new("square_sum", OptimizerReferences.SquareSum) { Cuda = CudaPlans.SquareSum };
    public static readonly Kernel<AdamWArgs> AdamW = new("adamw", OptimizerReferences.AdamW) { Cuda = CudaPlans.AdamW };
    public static readonly Kernel<Adam8BitArgs> Adam8Bit = new("adam_8bit", Adam8BitReference.Run) { Cuda = CudaPlans.Adam8Bit };
    public static readonly Kernel<SgdArgs> Sgd = new("sgd", OptimizerReferences.Sgd) { Cuda = CudaPlans.Sgd };
    public static readonly Kernel<RmsPropArgs> RmsProp = new("rmsprop", OptimizerReferences.RmsProp) { Cuda = CudaPlans.RmsProp };
    public static readonly Kernel<AdafactorArgs> Adafactor = new("adafactor", OptimizerReferences.Adafactor) { Cuda = CudaPlans.Adafactor };

    public static readonly Kernel<AlsArgs> AlsSolve = new("als_solve", AlsReferences.Solve) { Cuda = CudaAlsPlans.Solve };
    public static readonly Kernel<AlsArgs> AlsProduct = new("als_product", AlsReferences.Product) { Cuda = CudaAlsPlans.Product };
    public static readonly Kernel<AlsArgs> AlsLoss = new("als_loss", AlsReferences.Loss) { Cuda = CudaAlsPlans.Loss };
}
