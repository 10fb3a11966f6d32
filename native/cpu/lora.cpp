// The fused low-rank linear, forward and backward.
// Floor (T tokens, n x k weight, rank r): forward 2T(nk + rk + nr) FLOPs; x, W and y touched once, the rank is r more steps of the same tiles.
// Backward: dx 2Tnk, u and dB and dA 2Tr(2n + k) FLOPs; dy is read for (u, dx) packed once and for (dB, dbias, dc), x once for dA.
// Reached on a Zen 4, one thread, r = 16, of its FMA peak: forward 94 % at 512 x 1024 x 1024 (1.04 x the bare linear), 93 % at 2048 x 4096 x 4096
// (1.02 x); forward and backward 90 % at 512 x 1024 x 1024 (replaced: W repacked to transposed strips by every backward pass, 87 %), DoRA with its row
// norms 1.05 x that. T <= 6 is bound by the bytes of W: 21 GB/s of 27 that a plain loop reads (replaced: whole tiles of 12 rows, 16 GB/s).
// dx^T = W^T e^T reads the forward panels of W as its left operand, so a frozen weight is held once, in one layout.
#include "codes.h"
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

namespace {

template <class Dot> int32_t forward(const LoraArgs* p) {
    const int64_t t = p->tokens, n = p->n, r = p->r, low = ceil_div(r, Narrow);
    Workspace memory;
    const ForwardProduct<Dot> product(memory, p->x, p->dtype, t, {p->w, p->w_dtype, p->w_layout, n, p->k});
    float *a = memory.take(low * Narrow * p->k), *b = memory.take(ceil_div(n, Wide) * Wide * r), *tails = memory.take(ceil_div(t, Rows) * Rows * r);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    if (r) {
        pack_low<Dot, Narrow>({p->a, LR_F32, p->k, 1}, r, p->k, a);
        pack_low<Dot, Wide>({p->b, LR_F32, r, 1}, n, r, b);
    }
    product.pack([&](int64_t i, const float* panel) {
        if (r == 0) return;
        if (p->xa) {
            float* own = lr::scratch(8, Rows * Dot::units(p->k));
            pack_activation<Dot, Rows>({p->xa, p->dtype, p->k, 1}, t, p->k, i, nullptr, own);
            panel = own;
        }
        low_rank<Dot>(panel, Dot::units(p->k), a, Narrow * p->k, r, static_cast<float>(p->scale), i * Rows, t, static_cast<float*>(p->t), tails + i * Rows * r);
        finish_pack<Dot>(tails + i * Rows * r, r, Rows);
    });
    const float *bias = floats(p->bias), *c = floats(p->c);
    by_type(p->dtype, [&](auto* type) {
        auto *y = static_cast<decltype(type)>(p->y), *y0 = static_cast<decltype(type)>(p->y0);
        product.run({tails, b, Dot::units(r), Rows * r, Wide * r}, [&](const Place& at, const float* sums) {
            by_rows(at, sums, [&](int64_t row, int64_t col, vf v, auto some) LR_LAMBDA {
                if (y0) store_some(y0 + row * n + col, v, some);
                if (c) v = v * load_some(c + col, some);
                if (bias) v = v + load_some(bias + col, some);
                store_some(y + row * n + col, v, some);
            });
        });
    });
    return LR_OK;
}

// ---- backward ------------------------------------------------------------------------------------------------------

constexpr int64_t Steps = 64;  // tokens a block of the gradient sums: two strips of u
constexpr int64_t Cols = 128;  // columns a chunk of the gradient sums, at most

// out[r][cols] = s[T,r]^T m[T,cols], a chunk of `width` columns from c0. left(l, t0): rows 8l.. of s^T from token t0 on; each(block [64][width], t0,
// steps) sees every block of m as floats while it is hot; finish(first row, first column, columns, sums [8][32]).
template <class T, class LeftOf, class Each, class Finish>
void column_products(const T* m, int64_t tokens, int64_t cols, int64_t c0, int64_t width, int64_t low, LeftOf&& left, Each&& each, Finish&& finish) {
    const int64_t have = least(cols - c0, width), strips = ceil_div(have, Wide), size = Low * Wide;
    alignas(64) float block[Steps * Cols];
    float* sums = lr::scratch(9, low * strips * size);
    for (int64_t t0 = 0; t0 < tokens; t0 += Steps) {
        const int64_t steps = least(tokens - t0, Steps);
        for (int64_t s = 0; s < steps; ++s)
            for (int64_t e = 0; e < strips * Wide; e += Lanes) {
                const T* from = m + (t0 + s) * cols + c0 + e;
                const int64_t count = have - e;
                prefetch(from + 4 * cols);
                store(block + s * width + e, count >= Lanes ? load(from) : load_some(from, count > 0 ? count : 0));
            }
        each(static_cast<const float*>(block), t0, steps);
        for (int64_t l = 0; l < low; ++l)
            for (int64_t j = 0; j < strips; ++j) tile<Floats, Low, Wide>(steps, left(l, t0), block + j * Wide, width, sums + (l * strips + j) * size, t0 > 0);
    }
    for (int64_t l = 0; l < low; ++l)
        for (int64_t j = 0; j < strips; ++j) finish(l * Low, c0 + j * Wide, least(have - j * Wide, Wide), sums + (l * strips + j) * size);
}

// Columns a chunk owns, so that there are some 8 chunks where there are columns for them
int64_t columns_each(int64_t cols) { return Wide * least(Cols / Wide, ceil_div(ceil_div(cols, Wide), 8)); }

template <class Dot> int32_t backward(const LoraGradArgs* p) {
    const int64_t t = p->tokens, n = p->n, k = p->k, r = p->r, low = ceil_div(r, Low), strips = ceil_div(t, Wide), panels = ceil_div(k, Rows);
    const int64_t nu = Dot::units(n), ru = Dot::units(r), pitch = low * Low * Wide; // a strip of u, [8 low][32]
    const bool want_u = r > 0 && (p->dx || p->dxa || p->da), fused = want_u && !p->xa && p->dx, coded = is_coded(p->w_layout), rows = p->w_layout == LR_ROWS;
    const int64_t columns = coded && p->dx ? lines_at_once(k, 4 * Rows, ceil_div(n, Wide) * Wide) : 0; // of W at once: also a multiple of every Lanes
    Workspace memory;
    float *e = memory.take(want_u || p->dx ? strips * Wide * nu : 0), *b = memory.take(low * Low * n), *a = memory.take(panels * Rows * r);
    float *u = memory.take(strips * pitch), *tail = memory.take(Dot::Paired ? strips * pitch : 0), *ts = memory.take(low * Low * t);
    float* w = memory.take(rows && p->dx ? panels * Rows * n : ceil_div(n, Wide) * Wide * columns);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    const float* c = floats(p->c);
    const float scale = static_cast<float>(p->scale);
    if (want_u || p->dx) {
        if (want_u) pack_low<Dot, Low>({p->b, LR_F32, 1, r}, r, n, b);
        lr::parallel_range(strips, Wide * n, [&](int64_t j0, int64_t j1) {
            for (int64_t j = j0; j < j1; ++j) {
                pack_activation<Dot, Wide>({p->dy, p->dtype, n, 1}, t, n, j, c, e + j * Wide * nu);
                for (int64_t l = 0; want_u && l < low; ++l) {
                    float* to = u + j * pitch + l * Low * Wide;
                    long_tile<Dot, Low, Wide>(nu, b + l * Low * n, e + j * Wide * nu, to);
                    for (int64_t i = 0; i < Low * Wide; i += Lanes) store(to + i, splat(scale) * load(to + i));
                }
                if (Dot::Paired && fused) {
                    memcpy(tail + j * pitch, u + j * pitch, static_cast<size_t>(pitch) * sizeof(float));
                    finish_pack<Dot>(tail + j * pitch, r, Wide);
                }
            }
        });
    }
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto write = [k](void* to, bool add, int64_t first = 0) { // tiles of the transpose, rows counted from `first`
            return [=](const Place& at, const float* sums) { put_transposed(sums, Wide, at.rows, at.cols, static_cast<T*>(to) + at.col * k + first + at.row, k, add); };
        };
        if (p->dx) {
            if (fused) pack_low<Dot, Rows>({p->a, LR_F32, 1, k}, k, r, a);
            const Tail ranks = fused ? Tail{a, Dot::Paired ? tail : u, ru, Rows * r, pitch} : Tail{};
            const auto right = packed_right(e, nu);
            // Columns [first, first + cols) of dx from those of W in LR_PANELS, in floats or as Dot has them
            const auto through = [&](const void* panels_of_w, int32_t type_of_w, int64_t first, int64_t cols) {
                Tail some = ranks;
                if (fused) some.panels += first * r;
                const auto finish = write(p->dx, p->add & 1, first);
                if constexpr (Dot::Paired) {
                    multiply<Dot>(cols, t, nu, some, Passing::Panels, [&](int64_t i, int64_t s, int64_t steps) {
                        float* to = lr::scratch(8, (Block + Wide) * Rows);
                        weight_blocks(static_cast<const bf16*>(panels_of_w), cols, i * Rows, 2 * s, 2 * steps, true, to);
                        return PairBlocks{to, (Rows - 1) * Wide / 2, to, Rows * Wide / 2};
                    }, right, finish);
                } else {
                    multiply<Dot>(cols, t, n, some, Passing::Panels, [&](int64_t i, int64_t s, int64_t steps) {
                        if (type_of_w == LR_F32 && (i + 1) * Rows <= cols) { // in place: blocks of 1536 bytes, a strip of W apart
                            const float* at = floats(panels_of_w) + (s / Wide * cols + i * Rows) * Wide;
                            return Blocks{at, (cols - 1) * Wide, at + cols * Wide, cols * Wide};
                        }
                        float* to = lr::scratch(8, (Block + Wide) * Rows);
                        if (type_of_w == LR_F32) weight_blocks(floats(panels_of_w), cols, i * Rows, s, steps, to);
                        else weight_blocks(static_cast<const bf16*>(panels_of_w), cols, i * Rows, s, steps, false, to);
                        return Blocks{to, (Rows - 1) * Wide, to, Rows * Wide};
                    }, right, finish);
                }
            };
            if (rows) {
                lr::parallel_range(panels, Rows * n, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) pack_group<Rows>({p->w, p->w_dtype, 1, k}, k, n, i, nullptr, w + i * Rows * n); });
                if constexpr (!Dot::Paired) multiply<Dot>(k, t, n, ranks, Passing::Panels, packed_left(w, n), right, write(p->dx, p->add & 1));
            } else if (!coded) {
                through(p->w, p->w_dtype, 0, k);
            } else {
                for (int64_t first = 0; first < k; first += columns) {
                    const int64_t cols = least(columns, k - first), size = Dot::units(cols) * Wide;
                    lr::parallel_range(ceil_div(n, Wide), cols * Wide, [&](int64_t j0, int64_t j1) {
                        for (int64_t j = j0; j < j1; ++j) {
                            float* to = Dot::Paired ? lr::scratch(8, cols * Wide) : w + j * size;
                            pack_codes(p->w, p->w_layout, n, k, j, first, cols, to);
                            finish_pack<Dot>(to, cols, Wide);
                            if (Dot::Paired) memcpy(w + j * size, to, static_cast<size_t>(size) * sizeof(float));
                        }
                    });
                    through(w, Dot::Paired ? LR_BF16 : LR_F32, first, cols);
                }
            }
        }
        const auto left_u = [&](int64_t l, int64_t t0) { return Blocks{u + t0 / Wide * pitch + l * Low * Wide, pitch - Wide, u + (t0 / Wide + 1) * pitch + l * Low * Wide, pitch}; };
        if (p->dxa && r) { // of the adapter's own input
            pack_low<Floats, Rows>({p->a, LR_F32, 1, k}, k, r, a);
            multiply<Floats>(k, t, r, {}, Passing::Panels, packed_left(a, r), [&](int64_t j, int64_t s, int64_t) { return u + j * pitch + s * Wide; }, write(p->dxa, p->add >> 1 & 1));
        }
        // dA from x, and dB, dbias, dc from dy: one loop over the columns of both
        const int64_t wide_a = columns_each(k), wide_b = columns_each(n), chunks_a = p->da ? ceil_div(k, wide_a) : 0;
        const int64_t chunks_b = p->db || p->dbias || p->dc ? ceil_div(n, wide_b) : 0, low_b = p->db ? low : 0;
        float *da = static_cast<float*>(p->da), *db = static_cast<float*>(p->db), *dbias = static_cast<float*>(p->dbias), *dc = static_cast<float*>(p->dc);
        for (int64_t l = 0; l < low_b; ++l) pack_group<Low>({p->t, LR_F32, 1, r}, r, t, l, nullptr, ts + l * t * Low);
        lr::parallel_for(chunks_a + chunks_b, [&](int64_t chunk) {
            if (chunk < chunks_a) {
                column_products(static_cast<const T*>(p->xa ? p->xa : p->x), t, k, chunk * wide_a, wide_a, low, left_u, [](auto&&...) {}, [&](int64_t q0, int64_t c0, int64_t have, const float* sums) {
                    for (int64_t q = q0; q < least(q0 + Low, r); ++q)
                        for (int64_t i = 0; i < have; i += Lanes) put_some(da + q * k + c0 + i, load(sums + (q - q0) * Wide + i), least(have - i, Lanes), p->add >> 2 & 1);
                });
                return;
            }
            const int64_t first = (chunk - chunks_a) * wide_b, have = least(n - first, wide_b);
            const T* y0 = static_cast<const T*>(p->y0);
            alignas(64) float bias_sums[Cols] = {}, scale_sums[Cols] = {};
            column_products(
                static_cast<const T*>(p->dy), t, n, first, wide_b, low_b, [&](int64_t l, int64_t t0) { return Panel<Low>{ts + (l * t + t0) * Low}; },
                [&](const float* block, int64_t t0, int64_t steps) {
                    for (int64_t i = 0; i < have && (dbias || dc); i += Lanes) {
                        const int64_t count = least(have - i, Lanes);
                        vf ones{}, scaled{};
                        for (int64_t s = 0; s < steps; ++s) {
                            const vf v = load(block + s * wide_b + i);
                            ones = ones + v;
                            if (dc) scaled = fma(v, load_some(y0 + (t0 + s) * n + first + i, count), scaled);
                        }
                        put(bias_sums + i, ones, true);
                        put(scale_sums + i, scaled, true);
                    }
                },
                [&](int64_t q0, int64_t c0, int64_t cols, float* sums) {
                    for (int64_t i = 0; c && i < Low * Wide; i += Lanes) store(sums + i, load(sums + i) * load_some(c + c0 + i % Wide, cols > i % Wide ? least(cols - i % Wide, Lanes) : 0));
                    put_transposed(sums, Wide, least(r - q0, Low), cols, db + c0 * r + q0, r, p->add >> 3 & 1);
                });
            for (int64_t i = 0; i < have; i += Lanes) {
                const int64_t count = least(have - i, Lanes);
                if (dbias) put_some(dbias + first + i, load(bias_sums + i), count, p->add >> 4 & 1);
                if (dc) put_some(dc + first + i, load(scale_sums + i), count, p->add >> 5 & 1);
            }
        });
    });
    return LR_OK;
}

} // namespace

int32_t lora_forward(const LoraArgs* p) {
    if (!is_activation(p->dtype) || !is_weight(p->w_dtype, p->w_layout)) return LR_UNSUPPORTED;
    if (is_coded(p->w_layout) && p->tokens <= FewTokens) return coded_forward(p);
#if defined(__AVX512BF16__)
    if (paired(p->dtype, p->w_dtype, p->w_layout)) return forward<Pairs>(p);
#endif
    return forward<Floats>(p);
}

int32_t lora_backward(const LoraGradArgs* p) {
    if (!is_activation(p->dtype) || !is_weight(p->w_dtype, p->w_layout)) return LR_UNSUPPORTED;
#if defined(__AVX512BF16__)
    if (paired(p->dtype, p->w_dtype, p->w_layout)) return backward<Pairs>(p);
#endif
    return backward<Floats>(p);
}

} // namespace LR_NS
