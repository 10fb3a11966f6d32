// The matrix product under every linear kernel: C tile [12 x 32] = panel of A x strip of B over the whole contraction, in registers.
//
// Packed operands:  panel  [ceil(m/12)][k][12]   rows of the left operand
//                   strip  [ceil(n/32)][k][32]   columns of the right operand (width 16 for low ranks)
// Floor of a product: 2 m n k FLOPs; per contraction step a tile loads 12 + 32 floats for 384 multiply-adds, so it is bound by FMA units as long
// as strips come from L2 (k up to ~4096) and panels from L3. Sums are blocked every 1024 steps, which bounds the rounding error of long rows.
#pragma once
#include "pool.h"
#include "simd.h"
#include "../abi/lowrank.h"

namespace LR_NS {

constexpr int Rows = 12;        // of a tile
constexpr int Wide = 32;        // columns of a strip
constexpr int Narrow = 16;      // columns of a low-rank strip
constexpr int64_t Block = 1024; // contraction steps summed in registers before they join the tile

LR_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// c[R][NV*Lanes] (+)= a b; a advances by a_step a contraction step, b by b_step
template <int R, int NV> LR_INLINE void micro(int64_t k, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
    vf acc[R][NV];
    unroll<R>([&](auto i) LR_LAMBDA { unroll<NV>([&](auto j) LR_LAMBDA { acc[i][j] = add ? load(c + i * ldc + j * Lanes) : vf{}; }); });
    for (int64_t s = 0; s < k; ++s) {
        vf right[NV];
        unroll<NV>([&](auto j) LR_LAMBDA { right[j] = load(b + j * Lanes); });
        unroll<R>([&](auto i) LR_LAMBDA {
            const vf left = splat(a[i]);
            unroll<NV>([&](auto j) LR_LAMBDA { acc[i][j] = fma(left, right[j], acc[i][j]); });
        });
        a += a_step;
        b += b_step;
    }
    unroll<R>([&](auto i) LR_LAMBDA { unroll<NV>([&](auto j) LR_LAMBDA { store(c + i * ldc + j * Lanes, acc[i][j]); }); });
}

// Registers hold R x NV accumulators: 12x2 of 32 (AVX-512), 6x2 of 16 (AVX2), 4x2 of 16 (SSE).
#if defined(__AVX512F__)
constexpr int MicroRows = 12, MicroVectors = 2;
#elif defined(__AVX2__)
constexpr int MicroRows = 6, MicroVectors = 2;
#else
constexpr int MicroRows = 4, MicroVectors = 2;
#endif

// c[12][Width] (+)= a b over k steps
template <int Width> LR_INLINE void tile(int64_t k, const float* a, int64_t a_step, const float* b, float* c, int64_t ldc, bool add) {
    constexpr int NV = Width / Lanes < MicroVectors ? Width / Lanes : MicroVectors;
    for (int64_t k0 = 0; k0 < k || (k == 0 && !add); k0 += Block) {
        const int64_t steps = k - k0 < Block ? k - k0 : Block;
        const bool join = add || k0 > 0;
        for (int j = 0; j < Width; j += NV * Lanes)
            for (int i = 0; i < Rows; i += MicroRows)
                if (join && k0 > 0) { // a new block: sum apart, then join
                    alignas(64) float part[MicroRows * NV * Lanes];
                    micro<MicroRows, NV>(steps, a + k0 * a_step + i, a_step, b + k0 * Width + j, Width, part, NV * Lanes, false);
                    for (int r = 0; r < MicroRows; ++r)
                        for (int e = 0; e < NV; ++e) store(c + (i + r) * ldc + j + e * Lanes, load(c + (i + r) * ldc + j + e * Lanes) + load(part + (r * NV + e) * Lanes));
                } else
                    micro<MicroRows, NV>(steps, a + k0 * a_step + i, a_step, b + k0 * Width + j, Width, c + i * ldc + j, ldc, join);
        if (k == 0) break;
    }
}

// A matrix in memory, element (row, step) at data[row * row_stride + step * step_stride]
struct View {
    const void* data;
    int32_t dtype;
    int64_t row_stride, step_stride;
};

// Panels of rows [first, first + count) x k of v, each element times factor[step] where given (row factors: factor_by_row)
void pack_panels(const View& v, int64_t rows, int64_t k, int64_t panel, const float* factor, float* to);
// Strips of width `width` from columns of v ("rows" of the view), k steps
void pack_strip(const View& v, int64_t columns, int64_t k, int64_t strip, int width, float* to);
// Strip `strip` of the transpose of W [n,k]: [n][32] of columns 32*strip.., W in rows or panels
void pack_transposed_strip(const void* w, int32_t dtype, int32_t layout, int64_t n, int64_t k, int64_t strip, float* to);

// Left panels and right strips of one product, with an optional second pair (the rank as extra steps)
struct Product {
    const float* panels;
    int64_t k;
    const float* tail_panels; // null: none
    int64_t tail;
};

// A tile's place in C: rows [row, row+rows), columns [col, col+cols)
struct Place {
    int64_t row, col;
    int rows, cols;
};

bool is_activation(int32_t dtype);

} // namespace LR_NS
