// The matrix product of every architecture from sm_80 on: tiles of 128x128 (8 warps) or 64x64 (4 warps), 64 bytes of steps a stage, four stages of cp.async.
// 16-bit types multiply on tensor cores (m16n8k16), F32 by exact FMA. The rank of an adapter is more steps of the same sum, so y is written once.
// Floor at T 8192, k = n = 4096, r 16, bf16: 275 GFLOP, 168 MB. H100: mma reaches about 0.62 of wgmma's rate, 275 G / (0.62 x 798 T) = 556 us, +0.4 % for the
// rank; A100: 275 G / 312 T = 882 us at its peak, 980 us at 0.9 of it. F32: 275 G / 60 T = 4.6 ms, 5.7 ms at 0.8. GPU-pending.
// Rounding: t and u, A and B are rounded to the operands' type once, c (.) W where a factor is given; sums are F32.
#include "products.cuh"

LR_DEV float lr_any(const void* p, int32_t dtype, int64_t i) {
    if (dtype == LR_F32) return static_cast<const float*>(p)[i];
    return dtype == LR_BF16 ? lr_widen(static_cast<const bf16*>(p)[i]) : lr_widen(static_cast<const f16*>(p)[i]);
}
template <class T> struct alignas(16) lr_lanes {
    T v[16 / sizeof(T)];
};
// Eight elements of a row in 16-byte accesses
template <class T> LR_DEV void lr_load8(const void* p, int64_t at, float (&v)[8]) {
    constexpr int Count = 16 / sizeof(T);
    LR_UNROLL
    for (int q = 0; q < 8; q += Count) {
        const auto some = lr_load<lr_lanes<T>>(static_cast<const T*>(p) + at + q);
        LR_UNROLL
        for (int e = 0; e < Count; ++e) v[q + e] = lr_widen(some.v[e]);
    }
}
template <class T> LR_DEV void lr_store8(void* p, int64_t at, const float (&v)[8]) {
    constexpr int Count = 16 / sizeof(T);
    LR_UNROLL
    for (int q = 0; q < 8; q += Count) {
        lr_lanes<T> some;
        LR_UNROLL
        for (int e = 0; e < Count; ++e) lr_narrow(v[q + e], some.v[e]);
        lr_store(static_cast<T*>(p) + at + q, some);
    }
}

// `count` of eight neighbouring columns from element `at` on; whole: all eight, aligned
struct RowPart {
    int64_t at, stride;
    int count;
    bool whole;
};
LR_DEV void lr_read(const void* p, int32_t dtype, const RowPart& part, float (&v)[8]) {
    if (!part.whole) {
        LR_UNROLL
        for (int e = 0; e < 8; ++e) v[e] = e < part.count ? lr_any(p, dtype, part.at + e * part.stride) : 0;
    } else if (dtype == LR_F32) lr_load8<float>(p, part.at, v);
    else if (dtype == LR_BF16) lr_load8<bf16>(p, part.at, v);
    else lr_load8<f16>(p, part.at, v);
}
LR_DEV void lr_write(void* p, int32_t dtype, const RowPart& part, const float (&v)[8]) {
    if (!part.whole) {
        LR_UNROLL
        for (int e = 0; e < 8; ++e) {
            const int64_t at = part.at + e * part.stride;
            if (e >= part.count) continue;
            if (dtype == LR_F32) static_cast<float*>(p)[at] = v[e];
            else if (dtype == LR_BF16) lr_narrow(v[e], static_cast<bf16*>(p)[at]);
            else lr_narrow(v[e], static_cast<f16*>(p)[at]);
        }
    } else if (dtype == LR_F32) lr_store8<float>(p, part.at, v);
    else if (dtype == LR_BF16) lr_store8<bf16>(p, part.at, v);
    else lr_store8<f16>(p, part.at, v);
}

// Tiles go down groups of eight rows of tiles, so that blocks at work at the same time share operands in L2.
template <int BM, int BN> LR_DEV void lr_tile_of(const GemmArgs& p, int& m0, int& n0) {
    const int rows = (p.m + BM - 1) / BM, cols = (p.n + BN - 1) / BN, id = LR_BX, group = id / (8 * cols), height = rows - 8 * group < 8 ? rows - 8 * group : 8;
    m0 = (8 * group + id % (8 * cols) % height) * BM;
    n0 = id % (8 * cols) / height * BN;
}

// Grid: a block a tile. Where an operand lies across its steps a tail of the right one does too; a left one with a tail lies along.
template <int BM, int BN, bool AcrossA, bool AcrossB, bool Scaled = false> LR_DEV void product(const GemmArgs& p) {
    constexpr int Depth = 64 / sizeof(scalar), Threads = 2 * BN;
    typedef OperandTile<BM, Depth, AcrossA> A;
    typedef OperandTile<BN, Depth, AcrossB> B;
    typedef Products<A, B, Threads, BN / 32> Sums;
    int m0, n0;
    lr_tile_of<BM, BN>(p, m0, n0);
    const int main = (p.k + Depth - 1) / Depth, tail = AcrossA ? 0 : (p.r + Depth - 1) / Depth;
    Sums sums;
    Sums::clear(sums);
    lr_ring<4, A::Bytes + B::Bytes>(
        main + tail,
        [&](int step, int stage) {
            const bool low = step >= main;
            const GemmOperand &a = low ? p.ta : p.a, &b = low ? p.tb : p.b;
            const int at = (low ? step - main : step) * Depth, end = low ? p.r : p.k;
            A::template copy<Threads>(a, m0, p.m, at, end, stage);
            B::template copy<Threads>(b, n0, p.n, at, end, stage + A::Bytes);
        },
        [&](int step, int stage) { Sums::add(sums, stage, stage + A::Bytes, Scaled && step < main ? static_cast<const float*>(p.b.factor) + step * Depth : nullptr, p.k - step * Depth); });

    const float *c = static_cast<const float*>(p.c), *bias = static_cast<const float*>(p.bias), scale = static_cast<float>(p.scale);
    const bool whole = p.n % 8 == 0 && p.y_col_stride == 1 && p.y_row_stride % 8 == 0 && lr_aligned(p.y) && lr_aligned(p.y0) && lr_aligned(p.w);
    Sums::template each<8>(sums, [&](int row, int col, float (&v)[8]) {
        row += m0, col += n0;
        if (row >= p.m || col >= p.n) return;
        const RowPart part = {row * p.y_row_stride + col * p.y_col_stride, p.y_col_stride, p.n - col < 8 ? p.n - col : 8, whole};
        float other[8];
        LR_UNROLL
        for (int e = 0; e < 8; ++e) v[e] *= scale;
        if (p.y0) lr_write(p.y0, p.y_dtype, part, v);
        if (p.w) {
            lr_read(p.w, p.w_dtype, part, other);
            LR_UNROLL
            for (int e = 0; e < 8; ++e) v[e] += other[e];
        }
        LR_UNROLL
        for (int e = 0; e < 8; ++e) {
            if (e >= part.count) continue;
            if (c) v[e] *= c[col + e];
            if (bias) v[e] += bias[col + e];
        }
        if (p.add & 1) {
            lr_read(p.y, p.y_dtype, part, other);
            LR_UNROLL
            for (int e = 0; e < 8; ++e) v[e] += other[e];
        }
        lr_write(p.y, p.y_dtype, part, v);
    });
}

// Orders: a then b, k along its steps, m across them; c with factor[step] on b
#define LR_PRODUCT(side, blocks) \
    LR_KERNEL(product_##side##_kk, GemmArgs, 2 * side, blocks) { product<side, side, false, false>(p); } \
    LR_KERNEL(product_##side##_km, GemmArgs, 2 * side, blocks) { product<side, side, false, true>(p); } \
    LR_KERNEL(product_##side##_kmc, GemmArgs, 2 * side, blocks) { product<side, side, false, true, true>(p); } \
    LR_KERNEL(product_##side##_mm, GemmArgs, 2 * side, blocks) { product<side, side, true, true>(p); }
LR_PRODUCT(128, LR_DTYPE == 1 ? 1 : 2)
LR_PRODUCT(64, 4)
