// Quantised matrices: spelled out (dequantize), and the product of a few tokens with them.
// Floor of the product: codes and scales read once, n k (1/2 + 4/block) bytes of 4 bits or n k of 8, against 4 n k of floats; 2 T n k FLOPs. Codes become
// floats in registers (a lookup in a table of 16 that is one permutation of AVX-512, two of AVX2) and are never stored; a block's sum is scaled once.
// More tokens than FewTokens take the tiles of lora.cpp, which spell a strip of W out for many rows of x.
#include "codes.h"
#include "kernels.h"
#include "linear.h"
#include "vectors.h"

namespace LR_NS {

int32_t dequantize(const DequantizeArgs* p) {
    if (!is_coded(p->w_layout)) return LR_UNSUPPORTED;
    const Codes codes(p->w, p->w_layout, p->n, p->k);
    const int64_t k = p->k;
    const bool known = by_float(p->dtype, [&](auto* type) {
        auto* y = static_cast<decltype(type)>(p->y);
        lr::parallel_range(p->n, k, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i)
                for (int64_t s = 0; s < k; s += Lanes) {
                    const int64_t count = least(Lanes, k - s);
                    if (count == Lanes && codes.whole()) store(y + i * k + s, codes.at(i, s));
                    else store_some(y + i * k + s, codes.some(i, s, count), count);
                }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

namespace {

// x as floats [T][k], and, for whole blocks of 4-bit codes, its entries at even and at odd places apart: as a vector of bytes gives them
struct Activations {
    const float *plain, *even, *odd;
};

// sums[R][T] of R rows of W. A single token: a block's sums are scaled once. More: its weights are, and each vector of x serves all rows.
template <int T, int R> LR_INLINE void rows_by_blocks(const Codes& w, int64_t row, const Activations& x, float* sums) {
    const uint8_t* codes = w.codes + row * w.k / 2;
    const float* scales = w.scales + ((row * w.k) >> w.shift);
    const int64_t half = w.k / 2, step = w.block / 2, blocks = w.k >> w.shift;
    vf total[R][T] = {};
    for (int64_t b = 0; b < blocks; ++b)
        if constexpr (T == 1 && R == 1) {
            vf upper{}, lower{};
            for (int64_t s = b * step; s < (b + 1) * step; s += Lanes) {
                const vi pair = Codes::bytes(codes + s);
                upper = fma(w.lookup(pair >> 4), load(x.even + s), upper);
                lower = fma(w.lookup(pair), load(x.odd + s), lower);
            }
            total[0][0] = fma(splat(scales[b]), upper + lower, total[0][0]);
        } else {
            vf scale[R];
            unroll<R>([&](auto r) LR_LAMBDA { scale[r] = splat(scales[r * blocks + b]); });
            for (int64_t s = b * step; s < (b + 1) * step; s += Lanes) {
                vf upper[R], lower[R];
                unroll<R>([&](auto r) LR_LAMBDA {
                    const vi pair = Codes::bytes(codes + r * half + s);
                    upper[r] = scale[r] * w.lookup(pair >> 4);
                    lower[r] = scale[r] * w.lookup(pair);
                });
                unroll<T>([&](auto t) LR_LAMBDA {
                    const vf even = load(x.even + t * half + s), odd = load(x.odd + t * half + s);
                    unroll<R>([&](auto r) LR_LAMBDA { total[r][t] = fma(lower[r], odd, fma(upper[r], even, total[r][t])); });
                });
            }
        }
    for (int i = 0; i < R * T; ++i) sums[i] = sum(total[i / T][i % T]);
}

template <int T, int R> LR_INLINE void rows_of_bytes(const Codes& w, int64_t row, const Activations& x, float* sums) {
    const uint8_t* codes = w.codes + row * w.k;
    constexpr int Chains = T * R > 2 ? 1 : 4; // so many sums that do not wait for each other
    vf total[R][T][Chains] = {};
    int64_t s = 0;
    for (; s + Chains * Lanes <= w.k; s += Chains * Lanes)
        unroll<Chains>([&](auto c) LR_LAMBDA {
            vf v[R];
            unroll<R>([&](auto r) LR_LAMBDA { v[r] = Codes::signed_bytes(codes + r * w.k + s + c * Lanes); });
            unroll<T>([&](auto t) LR_LAMBDA {
                const vf in = load(x.plain + t * w.k + s + c * Lanes);
                unroll<R>([&](auto r) LR_LAMBDA { total[r][t][c] = fma(v[r], in, total[r][t][c]); });
            });
        });
    for (; s < w.k; s += Lanes) {
        const int64_t count = least(Lanes, w.k - s);
        for (int r = 0; r < R; ++r) {
            uint8_t rest[Lanes] = {};
            memcpy(rest, codes + r * w.k + s, static_cast<size_t>(count));
            for (int t = 0; t < T; ++t) total[r][t][0] = fma(Codes::signed_bytes(rest), load_some(x.plain + t * w.k + s, count), total[r][t][0]);
        }
    }
    for (int i = 0; i < R * T; ++i) sums[i] = w.scales[row + i / T] * sum(gathered(total[i / T][i % T]));
}

template <int T> LR_INLINE void row_of_floats(const float* row, int64_t k, const float* x, float* sums) {
    vf total[T] = {};
    for (int64_t s = 0; s < k; s += Lanes) {
        const int64_t count = least(Lanes, k - s);
        const vf v = load_some(row + s, count);
        for (int t = 0; t < T; ++t) total[t] = fma(v, load_some(x + t * k + s, count), total[t]);
    }
    for (int t = 0; t < T; ++t) sums[t] = sum(total[t]);
}

template <int T> int32_t few(const LoraArgs* p) {
    constexpr int64_t Several = T == 1 ? 1 : T > 4 || Lanes < 16 ? 2 : 4; // rows of W at a time
    const int64_t n = p->n, k = p->k, r = p->r, half = k / 2;
    const Codes w(p->w, p->w_layout, n, k);
    const bool by_blocks = w.four && k % w.block == 0 && w.block % (2 * Lanes) == 0;
    Workspace memory;
    float *x = memory.take(T * k), *xa = p->xa ? memory.take(T * k) : x, *even = memory.take(by_blocks ? T * half : 0), *odd = memory.take(by_blocks ? T * half : 0);
    float* low = memory.take(T * r);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    by_type(p->dtype, [&](auto* type) {
        const auto widened = [&](const void* from, float* to) { for (int64_t i = 0; i < T * k; ++i) to[i] = widen(static_cast<const std::remove_pointer_t<decltype(type)>*>(from)[i]); };
        widened(p->x, x);
        if (p->xa) widened(p->xa, xa);
    });
    for (int64_t t = 0; by_blocks && t < T; ++t)
        for (int64_t i = 0; i < half; ++i) {
            even[t * half + i] = x[t * k + 2 * i];
            odd[t * half + i] = x[t * k + 2 * i + 1];
        }
    lr::parallel_range(r, 4 * T * k, [&](int64_t q0, int64_t q1) {
        for (int64_t q = q0; q < q1; ++q) {
            float sums[T];
            row_of_floats<T>(static_cast<const float*>(p->a) + q * k, k, xa, sums);
            for (int t = 0; t < T; ++t) static_cast<float*>(p->t)[t * r + q] = low[t * r + q] = static_cast<float>(p->scale) * sums[t];
        }
    });
    const float *b = static_cast<const float*>(p->b), *c = static_cast<const float*>(p->c), *bias = static_cast<const float*>(p->bias);
    const Activations in{x, even, odd};
    by_type(p->dtype, [&](auto* type) {
        auto *y = static_cast<decltype(type)>(p->y), *y0 = static_cast<decltype(type)>(p->y0);
        lr::parallel_range(n, T * k / 4, [&](int64_t i0, int64_t i1) {
            const auto write = [&](int64_t i, const float* sums) {
                for (int64_t t = 0; t < T; ++t) {
                    float v = sums[t];
                    for (int64_t q = 0; q < r; ++q) v += low[t * r + q] * b[i * r + q];
                    if (y0) narrow(v, y0[t * n + i]);
                    if (c) v *= c[i];
                    if (bias) v += bias[i];
                    narrow(v, y[t * n + i]);
                }
            };
            float sums[Several * T];
            int64_t i = i0;
            for (; (by_blocks || !w.four) && i + Several <= i1; i += Several) {
                if (by_blocks) rows_by_blocks<T, Several>(w, i, in, sums);
                else rows_of_bytes<T, Several>(w, i, in, sums);
                for (int64_t e = 0; e < Several; ++e) write(i + e, sums + e * T);
            }
            for (; i < i1; ++i) {
                if (by_blocks) rows_by_blocks<T, 1>(w, i, in, sums);
                else if (!w.four) rows_of_bytes<T, 1>(w, i, in, sums);
                else {
                    float* row = lr::scratch(8, k + Lanes);
                    for (int64_t s = 0; s < k; s += Lanes) store(row + s, w.some(i, s, least(Lanes, k - s)));
                    row_of_floats<T>(row, k, x, sums);
                }
                write(i, sums);
            }
        });
    });
    return LR_OK;
}

} // namespace

int32_t coded_forward(const LoraArgs* p) {
    switch (p->tokens) {
    case 0: return LR_OK;
    case 1: return few<1>(p);
    case 2: return few<2>(p);
    case 3: return few<3>(p);
    case 4: return few<4>(p);
    case 5: return few<5>(p);
    default: return few<6>(p);
    }
}

} // namespace LR_NS
