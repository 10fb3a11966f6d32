// Attention, forward and backward, one chunk per (batch, key head). Floor: q, k, v and y touched once; 4 T^2 d FLOPs a head forward, 10 backward.
// Keys and values of a head are packed once, transposed where the contraction runs over channels; only one row of scores exists at a time.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

// Where the rows of one (batch, key head) lie, and its packed copies: keys, values and their transposes, padded with zeros to whole vectors.
struct Head {
    int64_t keys, dim, wide_keys, wide_dim; // padded to Lanes
    float *k, *v, *kt, *vt;                 // [keys][wide_dim] twice, [dim][wide_keys] twice
};

constexpr int64_t pad(int64_t n) { return (n + Lanes - 1) / Lanes * Lanes; }

template <class T> void gather_head(const T* from, int64_t stride, Head& h, float* rows, float* columns) {
    for (int64_t j = 0; j < h.keys; ++j)
        for (int64_t d = 0; d < h.wide_dim; ++d) rows[j * h.wide_dim + d] = d < h.dim ? widen(from[j * stride + d]) : 0.0f;
    for (int64_t d = 0; d < h.dim; ++d)
        for (int64_t j = 0; j < h.wide_keys; ++j) columns[d * h.wide_keys + j] = j < h.keys ? rows[j * h.wide_dim + d] : 0.0f;
}

template <class T> bool take_head(const T* k, const T* v, int64_t keys, int64_t dim, int64_t stride, Head& h) {
    h.keys = keys, h.dim = dim, h.wide_keys = pad(keys), h.wide_dim = pad(dim);
    const int64_t rows = keys * h.wide_dim, columns = dim * h.wide_keys;
    float* all = lr::scratch(8, 2 * (rows + columns) + 16);
    if (!all) return false;
    h.k = all, h.v = all + rows, h.kt = all + 2 * rows, h.vt = h.kt + columns;
    gather_head(k, stride, h, h.k, h.kt);
    gather_head(v, stride, h, h.v, h.vt);
    return true;
}

// out[j] = sum_d x[d] m[d][j], over whole vectors of four at a time
LR_INLINE void times(const float* x, const float* m, int64_t depth, int64_t width, float* out) {
    int64_t j = 0;
    for (; j + 4 * Lanes <= width; j += 4 * Lanes) {
        vf s[4] = {};
        for (int64_t d = 0; d < depth; ++d)
            unroll<4>([&](auto e) { s[e] = fma(splat(x[d]), load(m + d * width + j + e * Lanes), s[e]); });
        unroll<4>([&](auto e) { store(out + j + e * Lanes, s[e]); });
    }
    for (; j < width; j += Lanes) {
        vf s{};
        for (int64_t d = 0; d < depth; ++d) s = fma(splat(x[d]), load(m + d * width + j), s);
        store(out + j, s);
    }
}

// Last key that query i may see, exclusive
LR_INLINE int64_t seen(int64_t i, int64_t keys, int64_t queries, bool causal) {
    const int64_t end = causal ? i + keys - queries + 1 : keys;
    return end < 0 ? 0 : end < keys ? end : keys;
}

// Bars keys: scores of those not seen or masked become -inf, padding too; returns the largest
LR_INLINE float bar(float* s, const uint8_t* mask, int64_t end, int64_t keys, int64_t wide) {
    float top = -__builtin_inff();
    for (int64_t j = 0; j < wide; ++j) {
        if (j >= end || j >= keys || (mask && !mask[j])) s[j] = -__builtin_inff();
        else if (s[j] > top) top = s[j];
    }
    return top;
}

} // namespace

int32_t attention_forward(const AttentionArgs* p) {
    const int64_t queries = p->queries, keys = p->keys, dim = p->dim, group = p->heads / p->kv_heads, qs = p->heads * dim, ks = p->kv_heads * dim;
    const float scale = float(p->scale);
    const uint8_t* mask = static_cast<const uint8_t*>(p->mask);
    float* lse = static_cast<float*>(p->lse);
    int32_t status = LR_OK;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_for(int64_t(p->batch) * p->kv_heads, [&](int64_t chunk) {
            const int64_t b = chunk / p->kv_heads, kh = chunk % p->kv_heads;
            Head h;
            float* row = lr::scratch(9, 2 * pad(dim) + pad(keys) + 16);
            if (!row || !take_head(static_cast<const T*>(p->k) + b * keys * ks + kh * dim, static_cast<const T*>(p->v) + b * keys * ks + kh * dim, keys, dim, ks, h)) {
                __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
                return;
            }
            float *x = row, *out = x + h.wide_dim, *s = out + h.wide_dim;
            for (int64_t head = kh * group; head < (kh + 1) * group; ++head)
                for (int64_t i = 0; i < queries; ++i) {
                    const int64_t at = (b * queries + i) * qs + head * dim;
                    for (int64_t d = 0; d < dim; ++d) x[d] = scale * widen(static_cast<const T*>(p->q)[at + d]);
                    times(x, h.kt, dim, h.wide_keys, s);
                    const float top = bar(s, mask ? mask + b * keys : nullptr, seen(i, keys, queries, p->causal), keys, h.wide_keys);
                    vf total{};
                    for (int64_t j = 0; j < h.wide_keys; j += Lanes) {
                        const vf e = top == -__builtin_inff() ? vf{} : vexp(load(s + j) - splat(top));
                        store(s + j, e);
                        total = total + e;
                    }
                    const float sums = sum(total);
                    times(s, h.v, keys, h.wide_dim, out);
                    const float share = sums > 0 ? 1 / sums : 0;
                    for (int64_t d = 0; d < dim; ++d) narrow(share * out[d], static_cast<T*>(p->y)[at + d]);
                    lse[(b * p->heads + head) * queries + i] = sums > 0 ? top + __builtin_logf(sums) : -__builtin_inff();
                }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

int32_t attention_backward(const AttentionGradArgs* p) {
    const int64_t queries = p->queries, keys = p->keys, dim = p->dim, group = p->heads / p->kv_heads, qs = p->heads * dim, ks = p->kv_heads * dim;
    const float scale = float(p->scale);
    const uint8_t* mask = static_cast<const uint8_t*>(p->mask);
    const float* lse = static_cast<const float*>(p->lse);
    int32_t status = LR_OK;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *q = static_cast<const T*>(p->q), *y = static_cast<const T*>(p->y), *dy = static_cast<const T*>(p->dy);
        T *dq = static_cast<T*>(p->dq), *dk = static_cast<T*>(p->dk), *dv = static_cast<T*>(p->dv);
        lr::parallel_for(int64_t(p->batch) * p->kv_heads, [&](int64_t chunk) {
            const int64_t b = chunk / p->kv_heads, kh = chunk % p->kv_heads, own = b * keys * ks + kh * dim;
            Head h;
            const int64_t wide = pad(dim), across = pad(keys);
            float* row = lr::scratch(9, 4 * wide + 2 * across + 2 * keys * wide + 16);
            if (!row || !take_head(static_cast<const T*>(p->k) + own, static_cast<const T*>(p->v) + own, keys, dim, ks, h)) {
                __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
                return;
            }
            float *x = row, *up = x + wide, *out = up + wide, *s = out + 2 * wide, *g = s + across, *sk = g + across, *sv = sk + keys * wide;
            memset(row, 0, size_t(4 * wide + 2 * across + 2 * keys * wide) * sizeof(float));
            for (int64_t head = kh * group; head < (kh + 1) * group; ++head)
                for (int64_t i = 0; i < queries; ++i) {
                    const int64_t at = (b * queries + i) * qs + head * dim;
                    const float log = lse[(b * p->heads + head) * queries + i];
                    if (log == -__builtin_inff()) {
                        for (int64_t d = 0; dq && d < dim; ++d) put(dq + at + d, 0.0f, p->add & 1);
                        continue;
                    }
                    float mean = 0;
                    for (int64_t d = 0; d < dim; ++d) {
                        x[d] = scale * widen(q[at + d]);
                        up[d] = widen(dy[at + d]);
                        mean += up[d] * widen(y[at + d]);
                    }
                    times(x, h.kt, dim, across, s);
                    bar(s, mask ? mask + b * keys : nullptr, seen(i, keys, queries, p->causal), keys, across);
                    times(up, h.vt, dim, across, g);
                    for (int64_t j = 0; j < across; j += Lanes) {
                        const vf share = vexp(load(s + j) - splat(log));
                        store(g + j, share * (load(g + j) - splat(mean)));
                        store(s + j, share);
                    }
                    if (dq) {
                        times(g, h.k, keys, wide, out);
                        for (int64_t d = 0; d < dim; ++d) put(dq + at + d, scale * out[d], p->add & 1);
                    }
                    for (int64_t j = 0; j < keys; ++j) { // x holds scale q
                        if (s[j] == 0) continue;
                        for (int64_t d = 0; d < wide; d += Lanes) {
                            store(sk + j * wide + d, fma(splat(g[j]), load(x + d), load(sk + j * wide + d)));
                            store(sv + j * wide + d, fma(splat(s[j]), load(up + d), load(sv + j * wide + d)));
                        }
                    }
                }
            for (int64_t j = 0; j < keys; ++j)
                for (int64_t d = 0; d < dim; ++d) {
                    if (dk) put(dk + own + j * ks + d, sk[j * wide + d], p->add >> 1 & 1);
                    if (dv) put(dv + own + j * ks + d, sv[j * wide + d], p->add >> 2 & 1);
                }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

} // namespace LR_NS
