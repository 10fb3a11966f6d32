// Attention, forward and backward, in tiles of Block queries x Span keys: no matrix of queries x keys is ever in memory. Floor: 4 queries keys dim
// FLOPs a head forward, 10 backward (half of it where causal); q, k, v and y touched once. A chunk owns one (batch, key head), forward also a
// stretch of queries. Keys and values are packed once a chunk: transposed strips where the contraction runs over channels, padded rows where it
// runs over keys.
// Reached (Zen 4, AVX-512, one thread, share of the FMA ceiling, forward and backward): 8x12 heads x197x64 68 % and 77 %, causal
// 16 heads x512x64 67 % and 73 %, 128x4 heads x17x32 25 % and 31 %, where packing and padding of so few tokens weigh as much as the products;
// one query row at a time gave 28 and 29 %, 17 and 19 %, 10 and 9 %.
// The five products share one micro-kernel that differs only in how it walks its left operand.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int64_t Block = 48;             // queries of a tile
constexpr int64_t Span = 96;              // keys of a tile, a multiple of Few and of the vectors
constexpr int64_t Stride = Span + 16;     // floats between a tile's rows: not a power of two, so rows do not share cache sets
constexpr int64_t Stretch = 8 * Block;    // queries of a forward chunk
constexpr int64_t Strip = 2 * Lanes;      // keys of a transposed strip
constexpr int Tall = Lanes == 16 ? 12 : 6; // rows of the micro-kernel: Tall x 2 sums fill the registers
constexpr int Few = 3;                    // rows are padded to a multiple of it

constexpr int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// c[R][N vectors] (+)= a b over steps; a(row, step) = a[row*Row + step*Step], b(step) = b + step*b_step
template <int R, int N, int64_t Row, int64_t Step>
LR_INLINE void micro(int64_t steps, const float* a, const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
    vf acc[R][N];
    unroll<R>([&](auto i) LR_LAMBDA { unroll<N>([&](auto j) LR_LAMBDA { acc[i][j] = add ? load(c + i * ldc + j * Lanes) : vf{}; }); });
    for (int64_t s = 0; s < steps; ++s) {
        vf right[N];
        unroll<N>([&](auto j) LR_LAMBDA { right[j] = load(b + j * Lanes); });
        unroll<R>([&](auto i) LR_LAMBDA {
            const vf left = splat(a[i * Row]);
            unroll<N>([&](auto j) LR_LAMBDA { acc[i][j] = fma(left, right[j], acc[i][j]); });
        });
        a += Step;
        b += b_step;
    }
    unroll<R>([&](auto i) LR_LAMBDA { unroll<N>([&](auto j) LR_LAMBDA { store(c + i * ldc + j * Lanes, acc[i][j]); }); });
}

// The rows of a product, a multiple of Few, against N vectors of columns
template <int N, int64_t Row, int64_t Step>
void rows_of(int64_t rows, int64_t steps, const float* a, const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
    int64_t i = 0;
    for (; i + Tall <= rows; i += Tall) micro<Tall, N, Row, Step>(steps, a + i * Row, b, b_step, c + i * ldc, ldc, add);
    if constexpr (Tall > 2 * Few)
        for (; i + 2 * Few <= rows; i += 2 * Few) micro<2 * Few, N, Row, Step>(steps, a + i * Row, b, b_step, c + i * ldc, ldc, add);
    for (; i < rows; i += Few) micro<Few, N, Row, Step>(steps, a + i * Row, b, b_step, c + i * ldc, ldc, add);
}

// c[rows, width] (+)= a b; columns j.. of b begin at b + j*b_column; width is whole vectors
template <int64_t Row, int64_t Step>
void product(int64_t rows, int64_t width, int64_t steps, const float* a, const float* b, int64_t b_step, int64_t b_column, float* c, int64_t ldc, bool add) {
    rows = up_to(rows, Few);
    int64_t j = 0;
    for (; j + Strip <= width; j += Strip) rows_of<2, Row, Step>(rows, steps, a, b + j * b_column, b_step, c + j, ldc, add);
    if (j < width) rows_of<1, Row, Step>(rows, steps, a, b + j * b_column, b_step, c + j, ldc, add);
}

// rows [count][wide] <- factor from [count][dim], zeros past dim
template <class T> void copy_rows(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t wide, float factor, float* rows) {
    for (int64_t i = 0; i < count; ++i) sweep(0, dim, [&](auto at) LR_LAMBDA { store(rows + i * wide + at.i, splat(factor) * at.get(from + i * stride)); });
}

// to [dim][wide] <- the transpose of factor from [count][dim], zeros past count up to wide, which is whole vectors
template <class T> void copy_transposed(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t wide, float factor, float* to) {
    for (int64_t i = 0; i < wide; i += Lanes)
        sweep(0, dim, [&](auto at) LR_LAMBDA {
            vf tile[Lanes];
            if (i + Lanes <= count) unroll<Lanes>([&](auto r) LR_LAMBDA { tile[r] = splat(factor) * at.get(from + (i + r) * stride); });
            else
                for (int64_t r = 0; r < Lanes; ++r) tile[r] = i + r < count ? splat(factor) * at.get(from + (i + r) * stride) : vf{};
            transpose(tile);
            for (int r = 0; r < at.n; ++r) store(to + (at.i + r) * wide + i, tile[r]);
        });
}

// Shapes of one call, the same for both directions
struct Shape {
    int64_t queries, keys, heads, kv_heads, group, dim, q_stride, k_stride; // strides between tokens
    int64_t wide_keys, wide_dim, strips;                                    // padded
    bool causal;
    int64_t window; // keys that a query sees at most; 0: all
    float scale, cap;
    const float* bias; // [heads, queries, keys]

    template <class Args> explicit Shape(const Args& p)
        : queries(p.queries), keys(p.keys), heads(p.heads), kv_heads(p.kv_heads), group(heads / kv_heads), dim(p.dim), q_stride(heads * dim),
          k_stride(kv_heads * dim), wide_keys(up_to(keys, Lanes)), wide_dim(up_to(dim, Lanes)), strips(up_to(keys, Strip) / Strip),
          causal(p.causal != 0), window(p.window), scale(float(p.scale)), cap(float(p.cap)), bias(static_cast<const float*>(p.bias)) {}

    // First key that query i may not see
    int64_t end(int64_t i) const {
        const int64_t last = causal ? i + keys - queries + 1 : keys;
        return last < 0 ? 0 : last < keys ? last : keys;
    }
    // First key that query i may see
    int64_t begin(int64_t i) const {
        const int64_t first = window ? i + keys - queries - window + 1 : 0;
        return first < 0 ? 0 : first < keys ? first : keys;
    }
    // Keys that the tiles of queries [q0, q0 + rows) cover: whole tiles, so that sums for rows of padding only fall on keys past the last
    int64_t covered(int64_t q0, int64_t rows) const {
        const int64_t last = up_to(end(q0 + rows - 1), Block);
        return last < keys ? last : keys;
    }
    int64_t query(int64_t b, int64_t head, int64_t i) const { return (b * queries + i) * q_stride + head * dim; }
    int64_t pair(int64_t head, int64_t i, int64_t j) const { return (head * queries + i) * keys + j; }
    int64_t key(int64_t b, int64_t head) const { return b * keys * k_stride + head * dim; }
    int64_t strip_floats() const { return strips * dim * Strip; }
    int64_t row_floats() const { return (keys + Few) * wide_dim; }
};

// strips [strips][dim][Strip] <- the transpose of one head's keys or values
template <class T> void pack_strips(const T* from, const Shape& s, float* strips) {
    for (int64_t j = 0; j < s.keys; j += Strip)
        copy_transposed(from + j * s.k_stride, s.k_stride, s.keys - j < Strip ? s.keys - j : Strip, s.dim, Strip, 1.0f, strips + j * s.dim);
}

// bar [wide_keys] <- 0 for keys that may be seen, -inf for masked ones and for padding
void pack_bar(const Shape& s, const uint8_t* mask, float* bar) {
    for (int64_t j = 0; j < s.wide_keys; ++j) bar[j] = j < s.keys && (!mask || mask[j]) ? 0 : -__builtin_inff();
}

// The keys of a tile that begins at k0, and its columns as whole vectors
struct Columns {
    int64_t keys, width;
    Columns(int64_t k0, int64_t end) : keys(end - k0 < Span ? end - k0 : Span), width(up_to(keys, Lanes)) {}
};

// Scores of a tile of `keys` columns become cap tanh(score/cap) + bias; slopes, where given, the cap's derivative
void bend(const Shape& s, int64_t head, int64_t q0, int64_t rows, int64_t k0, int64_t keys, float* tile, float* slopes) {
    if (!s.bias && !(s.cap > 0)) return;
    by_cap(s.cap, [&](auto cap) {
        for (int64_t i = 0; i < rows; ++i)
            sweep(0, keys, [&](auto at) LR_LAMBDA {
                const vf z = cap.of(load(tile + i * Stride + at.i));
                if (slopes) store(slopes + i * Stride + at.i, cap.slope(z));
                store(tile + i * Stride + at.i, s.bias ? z + at.get(s.bias + s.pair(head, q0 + i, k0)) : z);
            });
    });
}

// Scores outside of what a query may see become -inf
void bar_outside(const Shape& s, int64_t q0, int64_t rows, int64_t k0, int64_t width, float* tile) {
    if (!s.causal && !s.window) return;
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t begin = s.begin(q0 + i) - k0, end = s.end(q0 + i) - k0;
        for (int64_t j = 0; j < begin && j < width; ++j) tile[i * Stride + j] = -__builtin_inff();
        for (int64_t j = end < 0 ? 0 : end; j < width; ++j) tile[i * Stride + j] = -__builtin_inff();
    }
}

} // namespace

int32_t attention_forward(const AttentionArgs* p) {
    const Shape s(*p);
    const uint8_t* mask = static_cast<const uint8_t*>(p->mask);
    float* lse = static_cast<float*>(p->lse);
    int32_t status = LR_OK;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const int64_t stretches = (s.queries + Stretch - 1) / Stretch;
        lr::parallel_for(p->batch * s.kv_heads * stretches, [&](int64_t chunk) {
            const int64_t first = chunk % stretches * Stretch, kh = chunk / stretches % s.kv_heads, b = chunk / stretches / s.kv_heads;
            const int64_t last = first + Stretch < s.queries ? first + Stretch : s.queries;
            float* strips = lr::scratch(8, s.strip_floats() + s.row_floats() + s.wide_keys + 16);
            float* q = lr::scratch(9, Block * (s.dim + s.wide_dim + Stride) + 16);
            if (!strips || !q) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            float *values = strips + s.strip_floats(), *bar = values + s.row_floats(), *tile = q + Block * s.dim, *out = tile + Block * Stride;
            pack_strips(static_cast<const T*>(p->k) + s.key(b, kh), s, strips);
            copy_rows(static_cast<const T*>(p->v) + s.key(b, kh), s.k_stride, s.keys, s.dim, s.wide_dim, 1.0f, values);
            pack_bar(s, mask ? mask + b * s.keys : nullptr, bar);
            for (int64_t head = kh * s.group; head < (kh + 1) * s.group; ++head)
                for (int64_t q0 = first; q0 < last; q0 += Block) {
                    const int64_t rows = last - q0 < Block ? last - q0 : Block, end = s.covered(q0, rows), start = s.begin(q0) / Span * Span;
                    float top[Block], total[Block];
                    for (int64_t i = 0; i < rows; ++i) top[i] = -__builtin_inff(), total[i] = 0;
                    copy_transposed(static_cast<const T*>(p->q) + s.query(b, head, q0), s.q_stride, rows, s.dim, Block, s.scale, q);
                    for (int64_t k0 = start; k0 < end; k0 += Span) {
                        const Columns c(k0, end);
                        product<1, Block>(rows, c.width, s.dim, q, strips + k0 * s.dim, Strip, s.dim, tile, Stride, false);
                        bend(s, head, q0, rows, k0, c.keys, tile, nullptr);
                        bar_outside(s, q0, rows, k0, c.width, tile);
                        for (int64_t i = 0; i < rows; ++i) {
                            float* row = tile + i * Stride;
                            vf high = splat(top[i]), sums{};
                            for (int64_t j = 0; j < c.width; j += Lanes) {
                                const vf v = load(row + j) + load(bar + k0 + j);
                                high = v > high ? v : high;
                                store(row + j, v);
                            }
                            const float now = largest(high), base = now == -__builtin_inff() ? 0 : now;
                            for (int64_t j = 0; j < c.width; j += Lanes) {
                                const vf e = vexp(load(row + j) - splat(base));
                                sums = sums + e;
                                store(row + j, e);
                            }
                            if (now != top[i] && k0 > start) {
                                const vf shrink = vexp(splat(top[i] - base));
                                total[i] *= shrink[0];
                                for (int64_t d = 0; d < s.wide_dim; d += Lanes) store(out + i * s.wide_dim + d, shrink * load(out + i * s.wide_dim + d));
                            }
                            total[i] += sum(sums);
                            top[i] = now;
                        }
                        product<Stride, 1>(rows, s.wide_dim, c.keys, tile, values + k0 * s.wide_dim, s.wide_dim, 1, out, s.wide_dim, k0 > start);
                    }
                    for (int64_t i = 0; i < rows; ++i) {
                        T* y = static_cast<T*>(p->y) + s.query(b, head, q0 + i);
                        const vf share = splat(1 / total[i]);
                        sweep(0, s.dim, [&](auto at) LR_LAMBDA { at.set(y, total[i] == 0 ? vf{} : share * load(out + i * s.wide_dim + at.i)); });
                        lse[(b * s.heads + head) * s.queries + q0 + i] = total[i] == 0 ? -__builtin_inff() : top[i] + __builtin_logf(total[i]);
                    }
                }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

int32_t attention_backward(const AttentionGradArgs* p) {
    const Shape s(*p);
    float* dbias = static_cast<float*>(p->dbias);
    const int64_t together = dbias ? p->batch : 1; // rows of the batch that one chunk takes in turn: they share a bias
    const uint8_t* mask = static_cast<const uint8_t*>(p->mask);
    const float* lse = static_cast<const float*>(p->lse);
    int32_t status = LR_OK;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_for(p->batch / together * s.kv_heads, [&](int64_t chunk) {
            const int64_t kh = chunk % s.kv_heads, b0 = chunk / s.kv_heads * together;
            float* k_strips = lr::scratch(8, 2 * s.strip_floats() + 3 * s.row_floats() + s.wide_keys + 16);
            float* q = lr::scratch(9, Block * (2 * s.dim + 3 * s.wide_dim + 3 * Stride) + 16);
            if (!k_strips || !q) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            float *v_strips = k_strips + s.strip_floats(), *keys = v_strips + s.strip_floats(), *dk = keys + s.row_floats(), *dv = dk + s.row_floats();
            float *bar = dv + s.row_floats(), *up = q + Block * s.dim, *q_rows = up + Block * s.dim, *up_rows = q_rows + Block * s.wide_dim;
            float *dq = up_rows + Block * s.wide_dim, *tile = dq + Block * s.wide_dim, *slope = tile + Block * Stride, *bent = s.cap > 0 ? slope + Block * Stride : nullptr;
            if (dbias && !(p->add >> 3 & 1)) memset(dbias + s.pair(kh * s.group, 0, 0), 0, size_t(s.pair(s.group, 0, 0)) * sizeof(float));
            for (int64_t b = b0; b < b0 + together; ++b) {
                pack_strips(static_cast<const T*>(p->k) + s.key(b, kh), s, k_strips);
                pack_strips(static_cast<const T*>(p->v) + s.key(b, kh), s, v_strips);
                copy_rows(static_cast<const T*>(p->k) + s.key(b, kh), s.k_stride, s.keys, s.dim, s.wide_dim, 1.0f, keys);
                pack_bar(s, mask ? mask + b * s.keys : nullptr, bar);
                memset(dk, 0, size_t(2 * s.row_floats()) * sizeof(float));
                for (int64_t head = kh * s.group; head < (kh + 1) * s.group; ++head)
                    for (int64_t q0 = 0; q0 < s.queries; q0 += Block) {
                        const int64_t rows = s.queries - q0 < Block ? s.queries - q0 : Block, end = s.covered(q0, rows), start = s.begin(q0) / Span * Span, at_q = s.query(b, head, q0);
                        const T *query = static_cast<const T*>(p->q) + at_q, *y = static_cast<const T*>(p->y) + at_q, *dy = static_cast<const T*>(p->dy) + at_q;
                        copy_transposed(query, s.q_stride, rows, s.dim, Block, s.scale, q);
                        copy_transposed(dy, s.q_stride, rows, s.dim, Block, 1.0f, up);
                        copy_rows(query, s.q_stride, rows, s.dim, s.wide_dim, s.scale, q_rows);
                        copy_rows(dy, s.q_stride, rows, s.dim, s.wide_dim, 1.0f, up_rows);
                        float log[Block], mean[Block];
                        for (int64_t i = 0; i < rows; ++i) {
                            vf dot{};
                            sweep(0, s.dim, [&](auto at) LR_LAMBDA { dot = fma(load(up_rows + i * s.wide_dim + at.i), at.get(y + i * s.q_stride), dot); });
                            const float saved = lse[(b * s.heads + head) * s.queries + q0 + i];
                            mean[i] = sum(dot);
                            log[i] = saved == -__builtin_inff() ? __builtin_inff() : saved; // no key allowed: every share is e^-inf
                        }
                        for (int64_t k0 = start; k0 < end; k0 += Span) {
                            const Columns c(k0, end);
                            product<1, Block>(rows, c.width, s.dim, q, k_strips + k0 * s.dim, Strip, s.dim, tile, Stride, false);
                            product<1, Block>(rows, c.width, s.dim, up, v_strips + k0 * s.dim, Strip, s.dim, slope, Stride, false);
                            bend(s, head, q0, rows, k0, c.keys, tile, bent);
                            bar_outside(s, q0, rows, k0, c.width, tile);
                            for (int64_t i = 0; i < rows; ++i)
                                for (int64_t j = 0; j < c.width; j += Lanes) {
                                    const vf share = vexp(load(tile + i * Stride + j) + load(bar + k0 + j) - splat(log[i]));
                                    store(slope + i * Stride + j, share * (load(slope + i * Stride + j) - splat(mean[i])));
                                    store(tile + i * Stride + j, share);
                                }
                            for (int64_t i = 0; (dbias || bent) && i < rows; ++i)
                                sweep(0, c.keys, [&](auto at) LR_LAMBDA {
                                    const vf ds = load(slope + i * Stride + at.i);
                                    if (dbias) at.put(dbias + s.pair(head, q0 + i, k0), ds, true);
                                    if (bent) store(slope + i * Stride + at.i, ds * load(bent + i * Stride + at.i));
                                });
                            if (p->dq) product<Stride, 1>(rows, s.wide_dim, c.keys, slope, keys + k0 * s.wide_dim, s.wide_dim, 1, dq, s.wide_dim, k0 > start);
                            if (p->dk) product<1, Stride>(c.keys, s.wide_dim, rows, slope, q_rows, s.wide_dim, 1, dk + k0 * s.wide_dim, s.wide_dim, true);
                            if (p->dv) product<1, Stride>(c.keys, s.wide_dim, rows, tile, up_rows, s.wide_dim, 1, dv + k0 * s.wide_dim, s.wide_dim, true);
                        }
                        for (int64_t i = 0; p->dq && i < rows; ++i) {
                            T* to = static_cast<T*>(p->dq) + at_q + i * s.q_stride;
                            sweep(0, s.dim, [&](auto at) LR_LAMBDA { at.put(to, end <= start ? vf{} : splat(s.scale) * load(dq + i * s.wide_dim + at.i), p->add & 1); });
                        }
                    }
                auto write = [&](void* to, const float* from, bool add) {
                    for (int64_t j = 0; to && j < s.keys; ++j)
                        sweep(0, s.dim, [&](auto at) LR_LAMBDA { at.put(static_cast<T*>(to) + s.key(b, kh) + j * s.k_stride, load(from + j * s.wide_dim + at.i), add); });
                };
                write(p->dk, dk, p->add >> 1 & 1);
                write(p->dv, dv, p->add >> 2 & 1);
            }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

} // namespace LR_NS
