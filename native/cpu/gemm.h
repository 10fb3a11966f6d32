// The matrix product under every linear kernel: C tile [R x 32] = left panel x right strip, in registers, over blocks of 1024 steps (pack.h has the
// packed forms). Floor of a product: 2 m n k FLOPs. A tile of 12 x 32 loads 12 + 32 units a step for 384 multiply-adds, so it is bound by the FMA
// units as long as a strip (128 KiB a block) comes from L2 and panels from L3.
// Reached on a Zen 4 of 117 GFLOP/s FMA peak a core: 2048 x 4096 x 4096 94 % of the peak on one thread, 92 % of both on two; 512 x 1024 x 1024 95 %.
// In pairs (vdpbf16ps, peak twice the FMA's) 214 and 222 GFLOP/s a core. Replaced: tiles over the whole depth from panels packed entry by entry,
// 88-92 % and 92 %; bf16 weights widened whole at every call, no pairs.
#pragma once
#include "pack.h"
#include "pool.h"

namespace LR_NS {

// What a step multiplies: floats, or pairs of bf16 where the set has vdpbf16ps
struct Floats {
    static constexpr bool Paired = false;
    static constexpr int64_t units(int64_t steps) { return steps; }
    static LR_INLINE vf dot(vf a, vf b, vf c) { return fma(a, b, c); }
};
#if defined(__AVX512BF16__)
struct Pairs {
    static constexpr bool Paired = true;
    static constexpr int64_t units(int64_t steps) { return steps / 2 + steps % 2; }
    static LR_INLINE vf dot(vf a, vf b, vf c) { return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
};
#endif

// A left operand: row i at step s of a group of `Group` steps is at[i * Row + s * Step]; `jump` units lie between the end of a group and the next one.
// Where groups are far apart, `ahead` is the memory to fetch during the first group, `stride` units further on in each one after it.
template <int Row, int Step, int64_t Group> struct Left {
    const float* at;
    int64_t jump = 0;
    const float* ahead = nullptr;
    int64_t stride = 0;
    LR_INLINE const float* row(const float* a, int i) const { return a + i * Row; }
    LR_INLINE Left rows_from(int i) const { return {at + i * Row, jump, ahead, stride}; }
    LR_INLINE void next() { ahead += stride; }
    LR_INLINE void fetch(int64_t s) const {
        if constexpr (Row > 1) prefetch(ahead + s * 16);
    }
    static constexpr int64_t group = Group, step = Step;
};
template <int Width> using Panel = Left<1, Width, INT64_MAX / 2>; // packed, [steps][Width]
using Blocks = Left<Wide, 1, Wide>;                               // blocks [R][32]
using PairBlocks = Left<Wide / 2, 1, Wide / 2>;

// A row-major left operand as it lies
struct Strided {
    const float* at;
    int64_t pitch, jump = 0;
    LR_INLINE const float* row(const float* a, int i) const { return a + i * pitch; }
    LR_INLINE Strided rows_from(int i) const { return {at + i * pitch, pitch}; }
    LR_INLINE void next() {}
    LR_INLINE void fetch(int64_t) const {}
    static constexpr int64_t group = INT64_MAX / 2, step = 1;
};

constexpr int Ahead = 12; // steps of the right operand fetched early, over all rows of a tile: the fewer rows, the sooner a step is over

// c[R][NV*Lanes] (+)= left x b over k steps
template <class Dot, int R, int NV, class L> LR_INLINE void micro(int64_t k, L left, const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
    vf acc[R][NV] = {};
    const float* a = left.at;
    for (int64_t g = 0; g < k; g += L::group) {
        const int64_t steps = least(k - g, L::group);
        for (int64_t s = 0; s < steps; ++s) {
            vf right[NV];
            unroll<NV>([&](auto j) LR_LAMBDA {
                right[j] = load(b + j * Lanes);
                if (j * Lanes % 16 == 0) prefetch(b + Ahead * Rows / R * b_step + j * Lanes);
            });
            left.fetch(s);
            unroll<R>([&](auto i) LR_LAMBDA {
                const vf x = splat(*left.row(a, i));
                unroll<NV>([&](auto j) LR_LAMBDA { acc[i][j] = Dot::dot(x, right[j], acc[i][j]); });
            });
            a += L::step;
            b += b_step;
        }
        a += left.jump;
        left.next();
    }
    unroll<R>([&](auto i) LR_LAMBDA { unroll<NV>([&](auto j) LR_LAMBDA { store(c + i * ldc + j * Lanes, add ? load(c + i * ldc + j * Lanes) + acc[i][j] : acc[i][j]); }); });
}

// Registers hold the accumulators of 12 x 2 vectors of 32 (AVX-512), 6 x 2 of 16 (AVX2), 4 x 2 of 16 (SSE).
#if defined(__AVX512F__)
constexpr int MicroRows = 12;
#elif defined(__AVX2__)
constexpr int MicroRows = 6;
#else
constexpr int MicroRows = 4;
#endif
constexpr int micro_rows(int rows) {
    int m = rows < MicroRows ? rows : MicroRows;
    while (rows % m) --m;
    return m;
}

// c[R][Width] (+)= left x b over at most Block steps, b [k][b_step]
template <class Dot, int R, int Width, class L> __attribute__((noinline)) void tile(int64_t k, L left, const float* b, int64_t b_step, float* c, bool add) {
    constexpr int M = micro_rows(R), NV = Width / Lanes < 2 ? Width / Lanes : 2;
    for (int j = 0; j < Width; j += NV * Lanes)
        for (int i = 0; i < R; i += M) micro<Dot, M, NV>(k, left.rows_from(i), b + j, b_step, c + i * Width + j, Width, add);
}

// The same over any number of steps of a packed panel and strip
template <class Dot, int R, int Width> void long_tile(int64_t k, const float* panel, const float* strip, float* c) {
    for (int64_t s = 0; s < k || s == 0; s += Block) tile<Dot, R, Width>(least(k - s, Block), Panel<R>{panel + s * R}, strip + s * Width, Width, c, s > 0);
}

} // namespace LR_NS
