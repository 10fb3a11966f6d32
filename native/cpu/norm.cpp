// LayerNorm, and RMSNorm as the same with a mean of 0. Floor: forward reads x and writes y, backward reads x and dy and writes dx; a group of rows stays in L1 between the passes. The sums
// over rows are made in fixed blocks of rows and added in order.
// Reached (Zen 4, AVX-512, one thread, share of the copy ceiling of the run): 8192x768 float32 forward all of it, backward 80 %, bf16 forward 52 %,
// backward 58 % (bound by widening and rounding); 2176x128, from L2, 43 and 49 GB/s, where rows one at a time gave 22 and 33.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int64_t Block = 32;  // rows of a block of the sums over rows
constexpr int Group = 4;       // short rows taken together: independent chains of sums, and one pass over the weights and their sums
constexpr int64_t Short = 256; // columns; longer rows have chains enough of their own, and side by side they would crowd L1

template <int R, int N, class T> LR_INLINE void forward_rows(const LayerNormArgs* p, int64_t row) {
    const float *weight = static_cast<const float*>(p->weight), *bias = static_cast<const float*>(p->bias);
    const int64_t cols = p->cols;
    const T* x = static_cast<const T*>(p->x) + row * cols;
    T* y = static_cast<T*>(p->y) + row * cols;
    float* stats = static_cast<float*>(p->stats) + 2 * row;
    vf sums[R][N] = {}, squares[R][N] = {}, mean[R], rstd[R];
    fan<N>(0, cols, [&](auto at, auto c) LR_LAMBDA { unroll<R>([&](auto r) LR_LAMBDA { sums[r][c] = sums[r][c] + at.get(x + r * cols); }); });
    unroll<R>([&](auto r) LR_LAMBDA { mean[r] = splat(stats[2 * r] = p->rms ? 0 : sum(gathered(sums[r])) / float(cols)); });
    fan<N>(0, cols, [&](auto at, auto c) LR_LAMBDA {
        unroll<R>([&](auto r) LR_LAMBDA {
            const vf d = within(at, at.get(x + r * cols) - mean[r]);
            squares[r][c] = fma(d, d, squares[r][c]);
        });
    });
    unroll<R>([&](auto r) LR_LAMBDA { rstd[r] = splat(stats[2 * r + 1] = float(1 / __builtin_sqrt(double(sum(gathered(squares[r]))) / double(cols) + p->eps))); });
    sweep(0, cols, [&](auto at) LR_LAMBDA {
        const vf w = weight ? at.get(weight) : splat(1.0f), b = bias ? at.get(bias) : vf{};
        unroll<R>([&](auto r) LR_LAMBDA { at.set(y + r * cols, fma((at.get(x + r * cols) - mean[r]) * rstd[r], w, b)); });
    });
}

// sw, sb [cols] += the rows' part of dweight and dbias
template <int R, int N, class T> LR_INLINE void backward_rows(const LayerNormGradArgs* p, int64_t row, float* sw, float* sb) {
    const float *weight = static_cast<const float*>(p->weight), *stats = static_cast<const float*>(p->stats) + 2 * row;
    const int64_t cols = p->cols;
    const T *x = static_cast<const T*>(p->x) + row * cols, *dy = static_cast<const T*>(p->dy) + row * cols;
    vf mean[R], rstd[R], g1[R], g2[R], sums[R][N] = {}, dots[R][N] = {};
    unroll<R>([&](auto r) LR_LAMBDA { mean[r] = splat(stats[2 * r]), rstd[r] = splat(stats[2 * r + 1]); });
    fan<N>(0, cols, [&](auto at, auto c) LR_LAMBDA {
        const vf w = weight ? at.get(weight) : splat(1.0f);
        vf dw = at.get(sw), db = at.get(sb);
        unroll<R>([&](auto r) LR_LAMBDA {
            const vf up = at.get(dy + r * cols), hat = (at.get(x + r * cols) - mean[r]) * rstd[r], g = up * w;
            sums[r][c] = sums[r][c] + g;
            dots[r][c] = fma(g, hat, dots[r][c]);
            dw = fma(up, hat, dw);
            db = db + up;
        });
        at.set(sw, dw);
        at.set(sb, db);
    });
    if (!p->dx) return;
    T* dx = static_cast<T*>(p->dx) + row * cols;
    unroll<R>([&](auto r) LR_LAMBDA { g1[r] = splat(p->rms ? 0 : sum(gathered(sums[r])) / float(cols)), g2[r] = splat(sum(gathered(dots[r])) / float(cols)); });
    sweep(0, cols, [&](auto at) LR_LAMBDA {
        const vf w = weight ? at.get(weight) : splat(1.0f);
        unroll<R>([&](auto r) LR_LAMBDA {
            const vf hat = (at.get(x + r * cols) - mean[r]) * rstd[r], g = at.get(dy + r * cols) * w;
            at.put(dx + r * cols, rstd[r] * (g - fma(hat, g2[r], g1[r])), p->add & 1);
        });
    });
}

// f(rows, chains, first row) over [begin, end), the counts as constants
template <class F> LR_INLINE void grouped(int64_t cols, int64_t begin, int64_t end, F&& f) {
    const std::integral_constant<int, 1> one;
    const std::integral_constant<int, Group> group;
    int64_t r = begin;
    if (cols > Short)
        for (; r < end; ++r) f(one, group, r);
    for (; r + Group <= end; r += Group) f(group, one, r);
    for (; r < end; ++r) f(one, one, r);
}

} // namespace

int32_t layer_norm_forward(const LayerNormArgs* p) {
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        // A group's rows and a row alone are rounded alike, so a chunk may begin anywhere.
        lr::parallel_range(p->rows, p->cols * 2, [&](int64_t r0, int64_t r1) {
            grouped(p->cols, r0, r1, [&](auto rows, auto chains, int64_t r) { forward_rows<rows, chains, T>(p, r); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t layer_norm_backward(const LayerNormGradArgs* p) {
    float *dweight = static_cast<float*>(p->dweight), *dbias = static_cast<float*>(p->dbias);
    const int64_t cols = p->cols, blocks = (p->rows + Block - 1) / Block;
    float* partial = lr::scratch(0, blocks * 2 * cols + 16);
    if (!partial) return LR_OUT_OF_MEMORY;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_for(blocks, [&](int64_t block) {
            float *sw = partial + block * 2 * cols, *sb = sw + cols;
            memset(sw, 0, size_t(2 * cols) * sizeof(float));
            const int64_t end = (block + 1) * Block < p->rows ? (block + 1) * Block : p->rows;
            grouped(cols, block * Block, end, [&](auto rows, auto chains, int64_t r) { backward_rows<rows, chains, T>(p, r, sw, sb); });
        });
    });
    if (!known) return LR_UNSUPPORTED;
    if (dweight || dbias)
        lr::parallel_range((cols + Lanes - 1) / Lanes, blocks * 2 * Lanes, [&](int64_t v0, int64_t v1) {
            sweep(v0 * Lanes, v1 * Lanes < cols ? v1 * Lanes : cols, [&](auto at) LR_LAMBDA {
                vf sw{}, sb{};
                for (int64_t b = 0; b < blocks; ++b) sw = sw + at.get(partial + b * 2 * cols), sb = sb + at.get(partial + b * 2 * cols + cols);
                if (dweight) at.put(dweight, sw, p->add >> 1 & 1);
                if (dbias) at.put(dbias, sb, p->add >> 2 & 1);
            });
        });
    return LR_OK;
}

} // namespace LR_NS
