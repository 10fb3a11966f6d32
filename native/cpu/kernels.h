// Every kernel of the CPU backend, one row each: LR_KERNELS(X) calls X(name, ArgumentStruct). Exports and dispatch are made from it.
#pragma once
#include "../abi/lowrank.h"

#define LR_KERNELS(X) \
    X(pack, PackArgs) X(linear_forward, LinearArgs) X(linear_backward, LinearGradArgs) X(matmul, MatMulArgs) X(dequantize, DequantizeArgs) \
    X(lora_forward, LoraArgs) X(lora_backward, LoraGradArgs) X(multi_lora_forward, MultiLoraArgs) X(add_matmul, AddMatMulArgs) X(row_norm, RowNormArgs) \
    X(scale_bases_forward, ScaleBasesArgs) X(scale_bases_backward, ScaleBasesGradArgs) \
    X(gated_linear_forward, GatedLinearArgs) \
    X(add_sparse, AddSparseArgs) X(take_sparse, TakeSparseArgs) X(sample_sparse, SampleSparseArgs) X(sqrt_forward, UnaryArgs) X(sqrt_backward, UnaryGradArgs) \
    X(snell_select, SnellSelectArgs) X(snell_forward, SnellArgs) X(snell_backward, SnellGradArgs) X(gate_threshold, GateThresholdArgs) \
    X(layer_norm_forward, LayerNormArgs) X(layer_norm_backward, LayerNormGradArgs) \
    X(gelu_forward, UnaryArgs) X(gelu_backward, UnaryGradArgs) X(gelu_tanh_forward, UnaryArgs) X(gelu_tanh_backward, UnaryGradArgs) \
    X(tanh_forward, UnaryArgs) X(tanh_backward, UnaryGradArgs) X(relu_forward, UnaryArgs) X(relu_backward, UnaryGradArgs) \
    X(sigmoid_forward, UnaryArgs) X(sigmoid_backward, UnaryGradArgs) X(exp_forward, UnaryArgs) X(exp_backward, UnaryGradArgs) X(silu_forward, UnaryArgs) X(silu_backward, UnaryGradArgs) \
    X(quick_gelu_forward, UnaryArgs) X(quick_gelu_backward, UnaryGradArgs) X(silu_mul_forward, BinaryArgs) X(silu_mul_backward, BinaryGradArgs) \
    X(gelu_tanh_mul_forward, BinaryArgs) X(gelu_tanh_mul_backward, BinaryGradArgs) X(rope, RopeArgs) X(columns, ColumnsArgs) \
    X(binary_cross_entropy_forward, SquaredErrorArgs) X(binary_cross_entropy_backward, SquaredErrorGradArgs) \
    X(add_forward, BinaryArgs) X(add_backward, BinaryGradArgs) X(mul_forward, BinaryArgs) X(mul_backward, BinaryGradArgs) \
    X(scale_rows_forward, ScaleRowsArgs) X(scale_rows_backward, ScaleRowsGradArgs) X(dropout, DropoutArgs) X(convert, ConvertArgs) X(fill, FillArgs) \
    X(gather_forward, GatherArgs) X(gather_backward, GatherGradArgs) X(prepend_forward, PrependArgs) X(prepend_backward, PrependGradArgs) \
    X(transpose, TransposeArgs) X(unfold, UnfoldArgs) X(fold, UnfoldArgs) \
    X(cross_entropy_forward, CrossEntropyArgs) X(cross_entropy_backward, CrossEntropyGradArgs) \
    X(wavelet_down, WaveletArgs) X(wavelet_up, WaveletArgs) \
    X(squared_error_forward, SquaredErrorArgs) X(squared_error_backward, SquaredErrorGradArgs) \
    X(dct2, Dct2Args) X(sparse_dct, SparseDctArgs) X(sparse_dct_backward, SparseDctGradArgs) \
    X(attention_forward, AttentionArgs) X(attention_backward, AttentionGradArgs) \
    X(adam_8bit, Adam8BitArgs) \
    X(square_sum, SquareSumArgs) X(adamw, AdamWArgs) X(sgd, SgdArgs) X(rmsprop, RmsPropArgs) X(adafactor, AdafactorArgs) \
    X(mean_entropy_forward, MeanEntropyArgs) X(mean_entropy_backward, MeanEntropyGradArgs) \
    X(merge, MergeArgs) X(merge_count, MergeCountArgs) X(concrete_mask_forward, ConcreteMaskArgs) X(concrete_mask_backward, ConcreteMaskGradArgs) \
    X(als_solve, AlsArgs) X(als_product, AlsArgs) X(als_loss, AlsArgs)

#ifdef LR_NS
namespace LR_NS {
#define LR_DECLARE(name, Args) int32_t name(const Args* p);
LR_KERNELS(LR_DECLARE)
#undef LR_DECLARE
} // namespace LR_NS
#endif
