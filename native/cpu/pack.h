// Packing of operands. A packed operand is cut into groups of Width lines (rows of the left operand, columns of the right one), each stored step by
// step: [ceil(lines/Width)][steps][Width], lines past the end zero. An entry is a unit of four bytes: a float, or a pair of bf16 of two steps.
#pragma once
#include "simd.h"
#include "../abi/lowrank.h"

namespace LR_NS {

constexpr int Rows = 12;        // lines of a left group ("panel")
constexpr int Wide = 32;        // lines of a right group ("strip"), and of a frozen weight's LR_PANELS
constexpr int Narrow = 16;      // lines of a right group of low rank
constexpr int Low = 8;          // lines of a left group of low rank
constexpr int64_t Block = 1024; // steps summed in registers before they join their tile: bounds the rounding error of long sums

LR_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LR_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// A matrix in memory, element (line, step) at data[line * line_stride + step * step_stride]; one of the strides is 1
struct View {
    const void* data;
    int32_t dtype;
    int64_t line_stride, step_stride;
};

// Group `group` of v as floats, each times factor[step] where given; Width is 8, 12, 16 or 32
template <int Width> void pack_group(const View& v, int64_t lines, int64_t steps, int64_t group, const float* factor, float* to);
// The same as pairs, rounded to bf16 after the factor, of a bf16 matrix whose steps are adjacent: to [ceil(steps/2)][Width], the odd step zero
template <int Width> void pack_pairs(const View& v, int64_t lines, int64_t steps, int64_t group, const float* factor, float* to);
// Floats [steps][width] become pairs [ceil(steps/2)][width], in place; width is a multiple of 4
void to_pairs(float* group, int64_t steps, int64_t width);

// Steps [first, first + steps) of a bf16 strip in LR_PANELS as floats [steps][32]; first is even
void widen_strip(const bf16* strip, int64_t first, int64_t steps, float* to);
// Rows [first, first + 12) of W^T, W [n,k] in LR_PANELS: for each 32 of `count` columns from column `from` a block [12][32] of floats, or of a bf16 W
// as pairs along n [12][16]; rows past k are zero. first and from are multiples of 12 and 32.
void weight_blocks(const float* w, int64_t k, int64_t first, int64_t from, int64_t count, float* to);
void weight_blocks(const bf16* w, int64_t k, int64_t first, int64_t from, int64_t count, bool pairs, float* to);

bool is_activation(int32_t dtype);
LR_INLINE bool is_coded(int32_t layout) { return layout == LR_CODES8 || layout == LR_CODES4; }
// A frozen matrix that the products take
inline bool is_weight(int32_t dtype, int32_t layout) { return is_activation(dtype) || is_coded(layout); }
// Steps [from, from + steps) of strip `group` of a quantised matrix [n,k] as floats [steps][32]
void pack_codes(const void* w, int32_t layout, int64_t n, int64_t k, int64_t group, int64_t from, int64_t steps, float* to);

} // namespace LR_NS
