// Argument structs of single CUDA launches that are no op of their own; the mirror is src/LowRank.Engine/Cuda/CudaArgs.cs.
#pragma once
#include "lowrank.h"

// An op's arguments with a workspace: `parts` partial results that another launch adds in order, or what the plan says.
template <class Args> struct Planned {
    Args op;
    void* work;
    int32_t parts, extra;
};

// y[c] (+)= scale sum over i in order of parts[i, c], i < count; y is F32, or of the activations' type where dtype says so
struct SumPartsArgs { const float* parts; void* y; int64_t cols; int32_t count, dtype; double scale; uint32_t add; };

// A matrix as a product reads it: element (row, step) is at data[row * row_stride + step * step_stride], times factor[step] where given (F32).
struct GemmOperand { const void *data, *factor; int64_t row_stride, step_stride; int32_t dtype, reserved; };
// y[m,n] (+)= c[n] (scale sum_k a[m,k] b[n,k] + sum_r ta[m,r] tb[n,r]) + bias[n]; y0 is the value before c and bias. All of ta, tb, c, bias, w, y0 may
// be null. w[m,n]: added before the store, with `base` its type (W + scale B A). Types of y and y0 are y_dtype; c, bias F32.
struct GemmArgs { GemmOperand a, b, ta, tb; const void *c, *bias, *w; void *y, *y0; int64_t y_row_stride, y_col_stride; int32_t m, n, k, r, y_dtype, w_dtype; double scale; uint32_t add, reserved; };
// parts [part][cols] of column sums: of dy, and of dy (.) y0 where given; work [2][parts][cols]
struct ColumnSumArgs { const void *dy, *y0; float* work; int32_t rows, cols, parts, reserved; };
// p[n,r] = w a^T, gram[r,r] = a a^T; what row_norm's last launch needs
struct RowNormEndArgs { RowNormArgs op; const float *p, *gram; };

// to[rows, cols] in the activations' type from F32 [from_rows, from_cols]: rank padding; zeros outside
struct PadArgs { const float* from; void* to; int32_t from_rows, from_cols, rows, cols; };

// What becomes of sums [rows, pitch], pitch >= cols: y[row, col] (+)= factor[row] scale sum in F32, and `rounded` [rows, pitch] in the activations' type, zeros past
// the columns; factor, y and rounded may be null. parts [count][rows][pitch] are added in order.
struct SkinnyEndArgs { const float *parts, *factor; float* y; void* rounded; int64_t y_row_stride, y_col_stride; int32_t rows, cols, pitch, count; double scale; uint32_t add, reserved; };
struct SkinnyEndsArgs { SkinnyEndArgs each[3]; };
// Sums over k steps of a [rows, k] and b [pitch, k]; parts [i] holds steps i depth and on, null: one part, which goes where `end` says at once
struct SkinnyArgs { GemmOperand a, b; SkinnyEndArgs end; float* parts; int32_t k, depth; };
// to[rows, cols] in the activations' type = factor[row] from[from_rows, from_cols], zeros outside
struct RoundedMatrix { const float *from, *factor; void* to; int32_t from_rows, from_cols, rows, cols; };
struct SkinnyRoundArgs { RoundedMatrix each[3]; };
// One pass over dy[tokens, n] with b[n, RP] and t[tokens, RP] in its type: parts u [panel][tokens][RP], db [group][n][RP] and sums [group][n] (null: not wanted),
// a panel being 128 subs columns and a group 128 tiles tokens
struct LoraDyArgs { const void *dy, *b, *t; float *u, *db, *sums; int32_t tokens, n, subs, tiles; };

// table[j] = cos(2 pi j/order), j < order
struct DctTableArgs { float* table; int64_t order; };
// y = scale C x of `rows` lines of n, or C^T x, element (row, i) at row * x_row + i * x_step and likewise in y; table holds 4 n cosines; work: 2 n complex
// numbers a block, null: in shared memory
struct DctRowsArgs { const void *x; void *y; const float *table; void *work; int64_t x_row, x_step, y_row, y_step; int32_t rows, n, inverse, x_dtype, y_dtype; float scale; uint32_t add; };
// places [2, count] of coefficients and their values (null: not wanted); order [count] by column and start [cols + 1] of each column in it
struct DctPlacesArgs { const float *a, *u; const int32_t *loc; int32_t *places; float *values; int32_t *order, *start; int32_t rows, cols, count, reserved; };
// An op on coefficients with what the plan made: tables of 4 rows and 4 cols cosines, places as above, parts of sums by block, room for the transforms
template <class Args> struct PlannedDct {
    Args op;
    const float *rows, *cols;
    const int32_t *places, *order, *start;
    const float *values;
    float *parts;
    void *work;
    int32_t blocks, cells;
};
