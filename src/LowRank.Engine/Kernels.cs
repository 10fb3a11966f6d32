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
    public static readonly Kernel<LinearArgs> LinearForward = new("linear_forward", MatrixReferences.LinearForward);
    public static readonly Kernel<LinearGradArgs> LinearBackward = new("linear_backward", MatrixReferences.LinearBackward);
    public static readonly Kernel<MatMulArgs> MatMul = new("matmul", MatrixReferences.MatMul);
    public static readonly Kernel<LoraArgs> LoraForward = new("lora_forward", MatrixReferences.LoraForward);
    public static readonly Kernel<LoraGradArgs> LoraBackward = new("lora_backward", MatrixReferences.LoraBackward);
    public static readonly Kernel<AddMatMulArgs> AddMatMul = new("add_matmul", MatrixReferences.AddMatMul);
    public static readonly Kernel<RowNormArgs> RowNorm = new("row_norm", MatrixReferences.RowNorm);

    public static readonly Kernel<LayerNormArgs> LayerNormForward = new("layer_norm_forward", PointwiseReferences.LayerNormForward);
    public static readonly Kernel<LayerNormGradArgs> LayerNormBackward = new("layer_norm_backward", PointwiseReferences.LayerNormBackward);
    public static readonly Kernel<UnaryArgs> GeluForward = new("gelu_forward", PointwiseReferences.Unary(PointwiseReferences.Gelu));
    public static readonly Kernel<UnaryGradArgs> GeluBackward = new("gelu_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.GeluSlope));
    public static readonly Kernel<UnaryArgs> GeluTanhForward = new("gelu_tanh_forward", PointwiseReferences.Unary(PointwiseReferences.GeluTanh));
    public static readonly Kernel<UnaryGradArgs> GeluTanhBackward = new("gelu_tanh_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.GeluTanhSlope));
    public static readonly Kernel<UnaryArgs> TanhForward = new("tanh_forward", PointwiseReferences.Unary(Math.Tanh));
    public static readonly Kernel<UnaryGradArgs> TanhBackward = new("tanh_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.TanhSlope));
    public static readonly Kernel<UnaryArgs> ReluForward = new("relu_forward", PointwiseReferences.Unary(x => x > 0 || double.IsNaN(x) ? x : 0));
    public static readonly Kernel<UnaryGradArgs> ReluBackward = new("relu_backward", PointwiseReferences.UnaryGrad(x => x > 0 ? 1 : 0));
    public static readonly Kernel<UnaryArgs> SigmoidForward = new("sigmoid_forward", PointwiseReferences.Unary(PointwiseReferences.Sigmoid));
    public static readonly Kernel<UnaryGradArgs> SigmoidBackward = new("sigmoid_backward", PointwiseReferences.UnaryGrad(PointwiseReferences.SigmoidSlope));
    public static readonly Kernel<BinaryArgs> AddForward = new("add_forward", PointwiseReferences.AddForward);
    public static readonly Kernel<BinaryGradArgs> AddBackward = new("add_backward", PointwiseReferences.AddBackward);
    public static readonly Kernel<BinaryArgs> MulForward = new("mul_forward", PointwiseReferences.MulForward);
    public static readonly Kernel<BinaryGradArgs> MulBackward = new("mul_backward", PointwiseReferences.MulBackward);
    public static readonly Kernel<ScaleRowsArgs> ScaleRowsForward = new("scale_rows_forward", PointwiseReferences.ScaleRowsForward);
    public static readonly Kernel<ScaleRowsGradArgs> ScaleRowsBackward = new("scale_rows_backward", PointwiseReferences.ScaleRowsBackward);
    public static readonly Kernel<DropoutArgs> Dropout = new("dropout", PointwiseReferences.Dropout);
    public static readonly Kernel<ConvertArgs> Convert = new("convert", PointwiseReferences.Convert);
    public static readonly Kernel<FillArgs> Fill = new("fill", PointwiseReferences.Fill);

    public static readonly Kernel<GatherArgs> GatherForward = new("gather_forward", RowsReferences.GatherForward);
    public static readonly Kernel<GatherGradArgs> GatherBackward = new("gather_backward", RowsReferences.GatherBackward);
    public static readonly Kernel<PrependArgs> PrependForward = new("prepend_forward", RowsReferences.PrependForward);
    public static readonly Kernel<PrependGradArgs> PrependBackward = new("prepend_backward", RowsReferences.PrependBackward);
    public static readonly Kernel<TransposeArgs> Transpose = new("transpose", RowsReferences.Transpose);
    public static readonly Kernel<UnfoldArgs> Unfold = new("unfold", RowsReferences.Unfold);
    public static readonly Kernel<UnfoldArgs> Fold = new("fold", RowsReferences.Fold);
    public static readonly Kernel<CrossEntropyArgs> CrossEntropyForward = new("cross_entropy_forward", RowsReferences.CrossEntropyForward);
    public static readonly Kernel<CrossEntropyGradArgs> CrossEntropyBackward = new("cross_entropy_backward", RowsReferences.CrossEntropyBackward);
    public static readonly Kernel<SquaredErrorArgs> SquaredErrorForward = new("squared_error_forward", RowsReferences.SquaredErrorForward);
    public static readonly Kernel<SquaredErrorGradArgs> SquaredErrorBackward = new("squared_error_backward", RowsReferences.SquaredErrorBackward);

    public static readonly Kernel<AttentionArgs> AttentionForward = new("attention_forward", AttentionReferences.Forward);
    public static readonly Kernel<AttentionGradArgs> AttentionBackward = new("attention_backward", AttentionReferences.Backward);

    public static readonly Kernel<SquareSumArgs> SquareSum = new("square_sum", OptimizerReferences.SquareSum);
    public static readonly Kernel<AdamWArgs> AdamW = new("adamw", OptimizerReferences.AdamW);
    public static readonly Kernel<SgdArgs> Sgd = new("sgd", OptimizerReferences.Sgd);
}
