// The one contract of C#, C++ and CUDA: dtype and status codes, and one argument struct a kernel.
//
// Rules that hold for every struct:
//  * `dtype` is the type of activations and their gradients; `w_dtype` the type of a frozen matrix. Parameters
//    (adapters, biases, norm weights), their gradients and saved values (t, stats, lse, loss) are F32, or F64 when dtype is F64.
//  * A null pointer means: absent input, or output not wanted.
//  * `add` bit i: the i-th output pointer of a backward struct is added to; otherwise it is overwritten.
//  * Tensors are dense and row-major unless `w_layout` says LR_PANELS.
//  * Scalars are double, so that the F64 references see them exactly; kernels round them to their own type once.
//  * A function returns an lr_status; LR_UNSUPPORTED before it has written anything, so the caller can fall back.
#pragma once
#ifdef __CUDACC_RTC__
typedef int int32_t; typedef long long int64_t; typedef unsigned int uint32_t; typedef unsigned long long uint64_t; typedef unsigned char uint8_t;
#else
#include <stdint.h>
#endif

enum lr_dtype : int32_t { LR_F32 = 1, LR_BF16 = 2, LR_F16 = 3, LR_F64 = 4, LR_I32 = 5, LR_I64 = 6, LR_U8 = 7 };
enum lr_status : int32_t { LR_OK = 0, LR_UNSUPPORTED = 1, LR_BAD_ARGUMENT = 2, LR_OUT_OF_MEMORY = 3 };
// LR_PANELS, F32: [ceil(n/32)][k][32]; BF16 and F16: [ceil(n/32)][ceil(k/2)][32][2]; columns past n and the odd k are zero.
// LR_CODES8 and LR_CODES4, quantised: a table of 16 floats, the block size (int32), zeros up to 128 bytes; the codes of the flattened matrix, signed bytes
// or 4 bits each (the first of two in the upper half of its byte), zeros up to a multiple of 64 bytes; a float scale for every block of codes. A value is
// scale * code, or scale * table[code]. The block of LR_CODES8 is k; that of LR_CODES4 a power of two from 32 on, and blocks run across row ends.
// w_dtype then names the type that values are rounded to when they are spelled out; products use them as they are.
enum lr_layout : int32_t { LR_ROWS = 0, LR_PANELS = 1, LR_CODES8 = 2, LR_CODES4 = 3 };

// ---- gemm.cpp ------------------------------------------------------------------------------------------------------
// dst[n,k] in LR_PANELS <- src[n,k] row-major, or back when unpack is 1; dtype is that of both.
struct PackArgs { const void *src; void *dst; int32_t n, k, unpack, dtype; };
// y[T,n] = x[T,k] W[n,k]^T + bias[n]
struct LinearArgs { const void *x, *w, *bias; void *y; int32_t tokens, n, k, dtype, w_dtype, w_layout; };
// dx = dy W; dw = dy^T x; dbias = column sums of dy
struct LinearGradArgs { const void *x, *w, *dy; void *dx, *dw, *dbias; int32_t tokens, n, k, dtype, w_dtype, w_layout; uint32_t add; };
// c[m,n] = scale op(a) op(b), op transposes where its flag is 1; a is [m,k] or [k,m], b is [k,n] or [n,k]; add 1: c += ...
struct MatMulArgs { const void *a, *b; void *c; int32_t m, n, k, transpose_a, transpose_b; double scale; int32_t dtype; uint32_t add; };

// ---- quant.cpp -----------------------------------------------------------------------------------------------------
// y[n,k] = w, which is quantised, rounded to dtype
struct DequantizeArgs { const void *w; void *y; int32_t n, k, dtype, w_layout; };

// ---- lora.cpp ------------------------------------------------------------------------------------------------------
// y0[T,n] = x W^T + t B^T with t[T,r] = scale xa A^T; y = c (.) y0 + bias. xa null: x. c[n] null: 1. y0 null: not saved.
struct LoraArgs { const void *x, *xa, *w, *a, *b, *bias, *c; void *y, *y0, *t; int32_t tokens, n, k, r; double scale; int32_t dtype, w_dtype, w_layout; };
// e = c (.) dy; u[T,r] = scale e B; dx = e W (+ u A where xa is null); dxa = u A; da[r,k] = u^T xa; db[n,r] = e^T t;
// dbias[n] = column sums of dy; dc[n] = column sums of dy (.) y0
struct LoraGradArgs { const void *x, *xa, *w, *a, *b, *c, *t, *y0, *dy; void *dx, *dxa, *da, *db, *dbias, *dc; int32_t tokens, n, k, r; double scale; int32_t dtype, w_dtype, w_layout; uint32_t add; };
// An adapter's part of a[R,k] and b[R,n], one row a rank: rows [first, first + rank), rank 0 (none) to 128.
struct LoraRange { double scale; int32_t first, rank; };
// Up to 64 tokens that follow each other and have one adapter; pieces are sorted by token and disjoint.
struct LoraPiece { int32_t first, tokens, adapter, reserved; };
// multi_lora.cpp: y = x W^T + bias, and for the tokens of a piece + scale (x a_i^T) b_i, i its adapter; other tokens have the bits of linear_forward.
// b has its ranks as rows, so that both factors are read along rows whatever the rank. most_rank is the largest of the ranks; a and b are of ab_dtype:
// F32, or the activations' type.
struct MultiLoraArgs { const void *x, *w, *a, *b, *bias; void* y; const LoraRange* ranges; const LoraPiece* pieces; int32_t tokens, n, k, most_rank, piece_count, dtype, w_dtype, w_layout, ab_dtype; };
// gated.cpp: y[T,n] = f(g) (.) u with g = x Wg^T + tg Bg^T + bias_g, tg[T,rg] = scale_g x Ag^T, and u likewise; f by `gate`, both W of w_dtype and
// w_layout. save 1: g and u [T,n] are kept; 0: they are room that may be written.
enum lr_gate : int32_t { LR_SILU = 0, LR_GELU_TANH = 1 };
struct GatedLinearArgs { const void *x, *wg, *wu, *ag, *bg, *au, *bu, *bias_g, *bias_u; void *y, *tg, *tu, *g, *u; double scale_g, scale_u; int32_t tokens, n, k, rg, ru, gate, save, dtype, w_dtype, w_layout; };
// y[n,k] = w + scale b[n,r] a[r,k]; transpose 1: y[n,k] = w + scale (b a)^T with b [k,r], a [r,n]
struct AddMatMulArgs { const void *w, *b, *a; void *y; int32_t n, k, r, transpose; double scale; int32_t dtype, w_dtype; };
// norm[i] = |w_i + scale b_i a|_2 by |w_i|^2 + 2 scale b_i.(a w_i^T) + scale^2 b_i (a a^T) b_i^T; w2[n] = |w_i|^2 is kept by the caller
// (want_w2 1: fill it first, from w). inverse[i] = 1/max(norm[i], 1e-30). a, b null: no delta. b a is never formed.
struct RowNormArgs { const void *w, *a, *b; void *w2, *norm, *inverse; int32_t n, k, r, want_w2; double scale; int32_t dtype, w_dtype, w_layout; };

// ---- bases.cpp: RandLoRA -----------------------------------------------------------------------------------------------
// s[k n + b, i] = lambda[k,b] a[k,i] gamma[b,i] for k < r, b < n, i < d; a [r, pitch] with pitch >= d. F32 throughout.
struct ScaleBasesArgs { const void *a, *lambda, *gamma; void *s; int32_t r, n, d, pitch, dtype; };
// dlambda[k,b] = sum_i ds[k n + b, i] a[k,i] gamma[b,i]; dgamma[b,i] = sum_k ds[k n + b, i] a[k,i] lambda[k,b]
struct ScaleBasesGradArgs { const void *a, *lambda, *gamma, *ds; void *dlambda, *dgamma; int32_t r, n, d, pitch, dtype; uint32_t add; };

// ---- sparse.cpp: sorted, distinct places idx (I32) in a row-major matrix ---------------------------------------------------
// y[i] = x[i] (null: 0), and + v[j] at i = idx[j]; x and y are of dtype, v a parameter
struct AddSparseArgs { const void *x, *v, *idx; void *y; int64_t count; int32_t nnz, dtype; };
// v[j] = x[idx[j]], a parameter
struct TakeSparseArgs { const void *x, *idx; void *v; int32_t nnz, dtype; uint32_t add; };
// v[j] = sum_t a[t, idx[j] / k] b[t, idx[j] % k]: the places idx of a^T b [n,k], which is not formed; a [tokens,n], b [tokens,k]
struct SampleSparseArgs { const void *a, *b, *idx; void *v; int32_t tokens, n, k, nnz, dtype; uint32_t add; };
// ---- snell.cpp -----------------------------------------------------------------------------------------------------
// D[i,o] = scale (|p[0,i] - q[0,o]| - |p[1,i] - q[1,o]|), i < k, o < n, from the rows of p [2,k,r] and q [2,n,r]; |z| = (sum |z_c|^norm)^(1/norm).
// S = D f, where f counts as a constant in gradients: LR_DISTANCES 1; LR_LARGEST |D| where |D| > tau, else 0; LR_ABOVE |D| - tau there, else 0.
enum lr_snell_mode : int32_t { LR_DISTANCES = 0, LR_LARGEST = 1, LR_ABOVE = 2 };
// tau[0] = v + fraction (next - v), v the |D| of that rank among all nk, from 0 and sorted upwards, next the one of rank + 1; NaN where a |D| is not finite
struct SnellSelectArgs { const void *p, *q; void *tau; int64_t rank; double fraction, scale, norm; int32_t n, k, r, dtype; };
// y[T,n] = x[T,k] (w[n,k] + S^T)^T + bias[n]; w null: x S. x null: y[n,k] = w + S^T in parameter precision
struct SnellArgs { const void *x, *w, *p, *q, *tau, *bias; void *y; double scale, norm; int32_t tokens, n, k, r, mode, dtype, w_dtype, w_layout; };
// dx = dy (w + S^T); with dS[k,n] = x^T dy and dD = dS f: dp[h,i] = +-scale sum_o dD[i,o] u, dq[h,o] = -+scale sum_i dD[i,o] u, u the gradient of
// |p[h,i] - q[h,o]| in its first row, 0 where that is 0; dbias[n] = column sums of dy. x null: dS = dy^T, dy [n,k], and no dx
struct SnellGradArgs { const void *x, *w, *p, *q, *tau, *dy; void *dx, *dp, *dq, *dbias; double scale, norm; int32_t tokens, n, k, r, mode, dtype, w_dtype, w_layout; uint32_t add; };

// ---- norm.cpp ------------------------------------------------------------------------------------------------------
// y = (x - mean) rstd (.) weight + bias by row; stats[rows,2] = mean, rstd; rstd = 1/sqrt(var + eps), var over n
// rms 1: the mean is taken as 0 (RMSNorm)
struct LayerNormArgs { const void *x, *weight, *bias; void *y, *stats; int32_t rows, cols; double eps; int32_t dtype, rms; };
struct LayerNormGradArgs { const void *x, *weight, *stats, *dy; void *dx, *dweight, *dbias; int32_t rows, cols, dtype, rms; uint32_t add; };

// ---- pointwise.cpp -------------------------------------------------------------------------------------------------
// gelu (erf), gelu_tanh, quick_gelu, silu, tanh, relu, sigmoid, exp: y = f(x); dx = dy f'(x)
struct UnaryArgs { const void *x; void *y; int64_t count; int32_t dtype; };
struct UnaryGradArgs { const void *x, *dy; void *dx; int64_t count; int32_t dtype; uint32_t add; };
// add: y[i] = x[i] + alpha z[i % period]; mul: y[i] = x[i] z[i % period]; silu_mul, gelu_tanh_mul: y[i] = f(x[i]) z[i], period = count. z_dtype: F32 parameters beside bf16 activations.
struct BinaryArgs { const void *x, *z; void *y; int64_t count, period; double alpha; int32_t dtype, z_dtype; };
struct BinaryGradArgs { const void *x, *z, *dy; void *dx, *dz; int64_t count, period; double alpha; int32_t dtype, z_dtype; uint32_t add; };
// y[i,:] = c[i] x[i,:]; grads dx = c dy, dc[i] = sum_j dy x
struct ScaleRowsArgs { const void *x, *c; void *y; int32_t rows, cols, dtype; };
struct ScaleRowsGradArgs { const void *x, *c, *dy; void *dx, *dc; int32_t rows, cols, dtype; uint32_t add; };
// y = x keep/(1-p), keep = philox(seed, stream, index) >= p; the backward pass is the same function with x = dy (add 1: y += ...)
struct DropoutArgs { const void *x; void *y; int64_t count; uint64_t seed, stream; double p; int32_t dtype; uint32_t add; };
// y = (to) x, rounding to nearest even
struct ConvertArgs { const void *x; void *y; int64_t count; int32_t from, to; };
struct FillArgs { void *y; int64_t count; double value; int32_t dtype; };

// ---- rows.cpp: gathers and layout moves ------------------------------------------------------------------------------
// y[i,:] = table[ids[i],:]; ids are I32, checked by the caller
struct GatherArgs { const void *table, *ids; void *y; int32_t rows, cols, table_rows, dtype, w_dtype; };
// dtable[ids[i],:] += dy[i,:], in the order of i; without add bit 0 dtable [table_rows, cols] is zeroed first
struct GatherGradArgs { const void *ids, *dy; void *dtable; int32_t rows, cols, table_rows, dtype; uint32_t add; };
// y[i,h,:]: the first `rotary` channels of each head of x [rows, heads, dim] turned in pairs (c, c + rotary/2) by the angle whose cosine and sine are
// table[positions[i], c] (F32 [.., rotary/2, 2], positions I32); the rest copied. inverse 1 turns back: the gradient.
struct RopeArgs { const void *x, *table, *positions; void *y; int32_t rows, heads, dim, rotary, inverse, dtype; uint32_t add; };
// y[i,:] = x[i, start : start + count]; inverse 1 is the gradient: y[i, start : start + count] = x[i,:], the rest of y [rows, cols] 0
struct ColumnsArgs { const void *x; void *y; int32_t rows, cols, start, count, inverse, dtype; uint32_t add; };
// y[b,0,:] = first; y[b,1+t,:] = x[b,t,:]; the gradient struct serves dfirst[d] (parameter) and dx
struct PrependArgs { const void *x, *first; void *y; int32_t batch, tokens, cols, dtype; };
struct PrependGradArgs { const void *dy; void *dx, *dfirst; int32_t batch, tokens, cols, dtype; uint32_t add; };
// y[b,c,r] = x[b,r,c]; also its own gradient (add 1: y += ...)
struct TransposeArgs { const void *x; void *y; int32_t batch, rows, cols, dtype; uint32_t add; };
// y[(b,oh,ow), (c,i,j)] = x[b,c, oh*stride - pad + i*dilation, ow*stride - pad + j*dilation] or 0; fold is its adjoint
struct UnfoldArgs { const void *x; void *y; int32_t batch, channels, height, width, kernel_h, kernel_w, stride, pad, dilation, out_h, out_w, dtype; uint32_t add; };

// ---- wavelet.cpp -----------------------------------------------------------------------------------------------------
// A table of one axis, n samples against two bands of m coefficients: 8 int32 (places of lr_axis), real weights, int32 indices; reals are float, or double
// when dtype is F64. Rows of a down matrix are the m coefficients; a unit is a row, u = row, and its columns start at 2u + start. Rows of an up matrix are
// the n samples; a unit is two rows, and its columns start at u + start. Units [first, last) have the weights [phase][low, high][taps]; the other rows are
// listed in order: low weights [edges][width], high weights [edges][width], then their columns [edges][width].
enum lr_axis : int32_t { LR_SAMPLES = 0, LR_BANDS = 1, LR_FIRST = 2, LR_LAST = 3, LR_TAPS = 4, LR_START = 5, LR_EDGES = 6, LR_WIDTH = 7, LR_AXIS_INTS = 8 };
// With R_l, R_h the low and high matrix of `rows` (along axis 0) and C_l, C_h those of `cols` (along axis 1); a null table is the identity, without a high one:
// wavelet_down: ll = scale R_l x C_l^T, lh = scale R_l x C_h^T, hl = scale R_h x C_l^T, hh = scale R_h x C_h^T; add bits 0 .. 3. A null band is not wanted.
// wavelet_up: x = w + scale (R_l ll C_l^T + R_l lh C_h^T + R_h hl C_l^T + R_h hh C_h^T); add bit 0. A null band is zero.
// x and w [x_rows, x_cols] of dtype have rows ldx apart, the bands [band_rows, band_cols] of F32 (F64) rows ldb apart.
struct WaveletArgs { const void *rows, *cols; void* x; const void* w; void *ll, *lh, *hl, *hh; int32_t x_rows, x_cols, band_rows, band_cols, ldx, ldb; double scale; int32_t dtype; uint32_t add; };

// ---- loss.cpp ------------------------------------------------------------------------------------------------------
// loss[0] = mean over labels != ignore of -sum_j q_j log softmax(z)_j, z = cap tanh(logits/cap), or logits where cap is 0; q = (1-smoothing) onehot +
// smoothing/cols; valid[0] = labels counted (as a float). None counted: loss 0. A call does the rows from `first` on: logits and dlogits hold these `rows`,
// labels, losses and lse all `total`; valid is filled by the call whose first is 0, loss by the one that reaches total.
// dlogits = (softmax - q)/valid dz/dlogits; it may be logits itself.
struct CrossEntropyArgs { const void *logits, *labels; void *loss, *losses, *lse, *valid, *dlogits; int32_t rows, cols, first, total, ignore; double smoothing, cap; int32_t dtype; };
// dlogits = dloss[0]/valid (softmax - q) dz/dlogits; it may be logits itself
struct CrossEntropyGradArgs { const void *logits, *labels, *lse, *valid, *dloss; void *dlogits; int32_t rows, cols, ignore; double smoothing, cap; int32_t dtype; uint32_t add; };
// loss[0] = scale mean((y - target)^2); dy = dloss[0] 2 scale (y - target)/count
struct SquaredErrorArgs { const void *y, *target; void *loss; int64_t count; double scale; int32_t dtype; };
struct SquaredErrorGradArgs { const void *y, *target, *dloss; void *dy; int64_t count; double scale; int32_t dtype; uint32_t add; };

// The same structs serve binary_cross_entropy of logits y: loss[0] = scale mean(log(1 + e^y) - target y); dy = dloss[0] scale (sigmoid(y) - target)/count.
// Unlabelled predictions: loss[0] = mean over rows of -sum_j p_j log(p_j + epsilon), p = softmax(logits); losses [rows]; stats [rows,2]: the log-sum-exp, and
// sum_j p_j f_j with f = log(p + epsilon) + p/(p + epsilon). dlogits = -dloss[0]/rows p (f - sum p f)
struct MeanEntropyArgs { const void *logits; void *loss, *losses, *stats; int32_t rows, cols; double epsilon; int32_t dtype; };
struct MeanEntropyGradArgs { const void *logits, *stats, *dloss; void *dlogits; int32_t rows, cols; double epsilon; int32_t dtype; uint32_t add; };

// ---- merge.cpp: one tensor of K models of one shape ---------------------------------------------------------------------
// What of a model takes part: v = factor (x - start), 0 where keep (U8, null: all 1) is 0 or the 24 bits philox(seed, stream, i) >> 8 lie outside of
// [from, to); u = weight v where |v| > least, or |v| = least and i < cut, else 0. `found`: the upper bits of |v| of which merge_count counts.
struct MergeInput { const void *x, *keep; double weight, share, factor, least; int64_t cut; uint64_t seed, stream, found; int32_t from, to, dtype, reserved; };
// z = sum_t u_t (LR_MERGE_SUM), or of the u_t with the sign of that sum, `even` where it is 0 (below 0 and 0: minus): their sum (LR_MERGE_AGREED), over the
// sum of their shares where that is not 0 (LR_MERGE_MEAN), or their largest magnitude with that sign, with `even` itself where the sum is 0 (LR_MERGE_LARGEST).
enum lr_merge_rule : int32_t { LR_MERGE_SUM = 0, LR_MERGE_AGREED = 1, LR_MERGE_MEAN = 2, LR_MERGE_LARGEST = 3 };
// y[count] = start + lambda scale[i] z, of y_dtype; start null: 0; scale, a parameter, null: 1; y null: not wanted; lambda 0: y = start to the bit.
// figures [ceil(count/LR_MERGE_BLOCK)][6 + 2K + K(K+1)/2], doubles, sums over blocks of elements: the signs of the elections and how many were 0 (not by
// LR_MERGE_SUM); where `compares` is 1, entries where two models moved from start to different sides; of y, what was added squared, the largest rounding
// and roundings squared; then |x - start| and |v| that stays, of each model; then, where `compares` is 1, (x_a - start)(x_b - start) for b <= a. Without
// start these comparisons are to the mean of the models. A sum of magnitudes is not finite where an entry is not.
constexpr int32_t LR_MERGE_BLOCK = 2048, LR_MERGE_FIGURES = 6;
struct MergeArgs { const MergeInput *inputs; const void *start, *scale; void *y, *figures; int64_t count; double lambda; int32_t input_count, rule, even, compares, start_dtype, y_dtype, dtype; };
// counts[K][LR_MERGE_BINS] (I64) += entries by the bits [shift, shift + width) of |v|, of those whose upper bits are the input's `found`; span > 0: by
// (i - origin)/span, of those whose bits are all `found`. |v| counts as a float, or as a double where dtype is F64.
constexpr int32_t LR_MERGE_BINS = 2048;
struct MergeCountArgs { const MergeInput *inputs; const void *start; void *counts; int64_t count, origin, span; int32_t input_count, shift, width, start_dtype, dtype; };

// ---- concrete.cpp ----------------------------------------------------------------------------------------------------
// m = sigmoid((log(u/(1-u)) + x)/temperature), u in [e, 1-e] and x in +-log((1-e)/e) where they are not, then m in [tiny, 1-e], e the distance from 1 to
// the next number and tiny the least normal one; s = m/mean, mean[0] = mean of m. u null: philox(seed, stream, i). All are parameters of count elements.
struct ConcreteMaskArgs { const void *x, *u; void *s, *mean; int64_t count; uint64_t seed, stream; double temperature; int32_t dtype; };
// dx = (ds - mean(ds s)) s (1 - s mean[0])/temperature, 0 where x was clamped or m is within one unit of its bounds
struct ConcreteMaskGradArgs { const void *x, *s, *mean, *ds; void *dx; int64_t count; double temperature; int32_t dtype; uint32_t add; };

// ---- attention.cpp -------------------------------------------------------------------------------------------------
// y[b,i,h,:] = softmax_j(s_ij) v_j over keys j with mask[b,j] != 0 (null: all) and, if causal, j <= i + keys - queries;
// window w > 0: also j > i + keys - queries - w. s_ij = z + bias[h,i,j] (null: 0), z = scale q_i.k_j, or cap tanh(scale q_i.k_j/cap) where cap > 0.
// q, y [batch, queries, heads, dim]; k, v [batch, keys, kv_heads, dim]; head h uses key head h / (heads/kv_heads); lse [batch, heads, queries];
// bias [heads, queries, keys], a parameter. A row with no key allowed gives y = 0, lse = -inf and no gradient.
struct AttentionArgs { const void *q, *k, *v, *mask, *bias; void *y, *lse; int32_t batch, queries, keys, heads, kv_heads, dim, causal, window; double scale, cap; int32_t dtype; };
struct AttentionGradArgs { const void *q, *k, *v, *mask, *bias, *y, *lse, *dy; void *dq, *dk, *dv, *dbias; int32_t batch, queries, keys, heads, kv_heads, dim, causal, window; double scale, cap; int32_t dtype; uint32_t add; };

// ---- dct.cpp: cosine transforms. C_n[i,j] = sqrt(2/n) cos(pi i (2j+1)/(2n)), row 0 divided by sqrt(2), so that C_n C_n^T = I --------------
// y[rows,cols] = scale C_rows x C_cols^T; inverse 1: scale C_rows^T x C_cols
struct Dct2Args { const void *x; void *y; int32_t rows, cols, inverse, dtype; double scale; uint32_t add; };
// Coefficient j < count of S[rows,cols] stands at (loc[0,j], loc[1,j]) where loc, I32, is given, else at round(min(max(u[i,j], 0), 0.999) (n-1)), halves to
// even, n = rows for i = 0, cols for i = 1; a NaN in u gives NaN. Equal places add in the order of j: S[place_j] += a_j.
// y[rows,cols] = w + scale C_rows^T S C_cols; w null: 0. route 1: S is spelled out and transformed along both sides; 2: only its rows, after sums of
// cosines along the columns; 0: whichever is cheaper. All in parameter precision.
struct SparseDctArgs { const void *w, *a, *u; const int32_t *loc; void *y; int32_t rows, cols, count, route; double scale; int32_t dtype; };
// K = scale C_rows (dy^T x) C_cols^T with x[tokens,cols], dy[tokens,rows]; dy null: the identity, tokens = rows. da[j] = K at place j;
// du[0,j] = (rows-1) clip(a_j/2 (K one row further - K one row before), -1, 1) where 0 <= u <= 0.999, else 0; past a border a neighbour is the place
// itself; du[1,j] likewise along the columns. A central difference of the loss on the grid of places, rounding taken as the identity.
struct SparseDctGradArgs { const void *x, *dy, *a, *u; const int32_t *loc; void *da, *du; int32_t tokens, rows, cols, count; double scale; int32_t dtype; uint32_t add; };

// ---- adam.cpp: optimisers over one flat pack of parameters -------------------------------------------------------------
// A run of elements with equal hyper-parameters: learning rate = lr * lr_scale, its own decoupled decay; `state` is where it starts in the state blocks.
// `paused` steps of the run are not steps of this one: it was frozen or had no gradient, so a correction by the number of steps counts without them.
// progress, where given, holds {lr, step} as doubles in the device's memory and stands for the fields of these names: a recorded launch sees new values.
struct Segment { int64_t start, count, state, paused; double lr_scale, weight_decay; };
// norm2[0] = sum of squares of g over the segments, accumulated in float64 in a fixed order
struct SquareSumArgs { const void *g; const Segment *segments; void *norm2; int32_t segment_count, dtype; };
// g *= min(1, max_norm / (sqrt(norm2[0]) + 1e-6)) where norm2 is given and max_norm > 0, folded into the update, g itself stays.
// p -= lr wd p; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr/(1-b1^step) m / (sqrt(v/(1-b2^step)) + eps). coupled 1: g += wd p instead (Adam, L2).
// late 1: p -= lr sqrt(1-b2^step)/(1-b1^step) m / (sqrt(v) + eps), then p -= lr wd p. uncorrected 1: 1 in the place of 1-b1^step and 1-b2^step.
struct AdamWArgs { void *p; const void *g; void *m, *v; const Segment *segments; const void *norm2, *progress; double lr, beta1, beta2, eps, max_norm; int64_t step; int32_t segment_count, coupled, late, uncorrected, dtype; };
// AdamW with moments in 8 bits: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr sqrt(1-b2^step)/(1-b1^step) m / (sqrt(v) + sqrt(1-b2^step) eps);
// p -= lr wd p. An element whose gradient is not finite: m = v = 0, p as it was. Of segment i, blocks[i] >= 0: block b of 256 elements has its largest
// magnitudes in max1[blocks[i] + b] and max2[..], and an element the codes of m/max1 and v/max2, the nearest, of two the lower, from `state` on in codes1
// and codes2; blocks[i] = -1: floats in m and v. A book is floats values[256], rising, then the middles above each (the last infinite), then bytes: the code
// from which to look, [2][2945] by sign and by exponent and 7 bits of the magnitude from 2^-23 on; at most one middle lies in each of these.
struct Adam8BitArgs { void *p; const void *g; void *m, *v, *codes1, *codes2, *max1, *max2; const void *book1, *book2; const Segment *segments; const int64_t *blocks; const void *norm2, *progress; double lr, beta1, beta2, eps, max_norm; int64_t step; int32_t segment_count, dtype; };
// g += wd p; buf = first ? g : momentum buf + (1-dampening) g; p -= lr (nesterov ? g + momentum buf : buf); momentum 0: no buf
struct SgdArgs { void *p; const void *g; void *buf; const Segment *segments; const void *norm2, *progress; double lr, momentum, dampening, max_norm; int64_t step; int32_t segment_count, nesterov, dtype; };
// g += wd p; v = alpha v + (1-alpha) g^2; mean = alpha mean + (1-alpha) g; s = g / (sqrt(v - mean^2) + eps), without mean (null): v; buf = momentum buf + s;
// p -= lr buf, without buf (null): lr s
struct RmsPropArgs { void *p; const void *g; void *v, *mean, *buf; const Segment *segments; const void *norm2, *progress; double lr, alpha, momentum, eps, max_norm; int64_t step; int32_t segment_count, dtype; };
// A matrix of the pack [rows, cols] from `start` on, its row and column moments at row_state and col_state; row_state -1: a vector, one row whose moment
// is elementwise, in col_state.
struct Factored { int64_t start, rows, cols, row_state, col_state; double lr_scale, weight_decay; };
// Adafactor: f = step^-decay; row += f (mean_j g^2 - row); col += f (mean_i g^2 - col); v = row col / max(mean_i row, eps1), of a vector col;
// u = g / max(sqrt(v), eps1); p = p (1 - lr wd) - max(eps2, rms(p)) min(lr, 1/sqrt(step)) / max(1, rms(u)/threshold) u. total_rows: of all tensors.
struct AdafactorArgs { void *p; const void *g; void *row, *col; const Factored *tensors; const void *norm2, *progress; double lr, decay, eps1, eps2, threshold, max_norm; int64_t step, total_rows; int32_t tensor_count, dtype; };

// ---- als.cpp: alternating least squares on a sparse matrix b by rows ---------------------------------------------------
// Row i holds values[t] at columns[t], t of starts[i] .. starts[i+1] (starts I64 [rows+1], columns I32); A_i [count,r] are the rows of y [.., r] there,
// b_i its values. als_solve: x_i = argmin |A_i x - b_i|^2 + ridge |x|^2, ridge times count where weighted is 1; 0 for an empty row. Rows of fewer than
// direct_below entries by Cholesky of A_i^T A_i: fewer than 2 r entries have at least the ridge thin trace/r, and a pivot that is not positive asks for
// 1e-6, then 1e-4 trace/r more (flags[i] = 1; 2: x_i = 0, nothing helped; I32). The others by at most `steps` conjugate gradient steps on A_i from x_i,
// which end where |A^T (b - A x) - ridge x| <= stop |A|_F |b| or <= reduction times what it was at first.
// als_product: x_i = b_i^T A_i. als_loss: losses[i] = |A_i x_i - b_i|^2.
struct AlsArgs { const void *y, *starts, *columns, *values; void *x, *flags, *losses; int32_t rows, r, steps, direct_below, weighted; double ridge, thin, stop, reduction; int32_t dtype; };
// ---- gates.cpp -------------------------------------------------------------------------------------------------------
// SoRA's gates, a parameter of the pack each. g -= level where g > level, g += level where g < -level, then g = 0 where |g| < level: 0 below 2 level in all.
// paper 1: g = sign(g) max(|g| - level, 0)
struct GateThresholdArgs { void *g; const Segment *segments; double level; int32_t segment_count, paper, dtype; };
