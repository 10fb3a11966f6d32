// The fused low-rank linear, forward and backward.
// Floor (T tokens, n x k weight, rank r): forward 2T(nk + rk + nr) FLOPs; x, W and y touched once, the rank is r more steps of the same tiles.
// Backward: dx 2Tnk, u and dB and dA 2Tr(2n + k) FLOPs; dy is read for (u, dx) packed once and for (dB, dbias, dc), x once for dA.
#include "linear.h"
#include "kernels.h"

namespace LR_NS {

namespace {

constexpr int64_t Steps = 64; // tokens a block of the gradient sums
constexpr int64_t Cols = 96;  // columns a chunk of the gradient sums: 8 tiles of 12

const float* floats(const void* p) { return static_cast<const float*>(p); }

// Strips of a frozen W [n,k]: as they are where it is packed in F32, else packed (or widened) into scratch. Null: no memory.
const float* weight_strips(const void* w, int32_t dtype, int32_t layout, int64_t n, int64_t k, int slot) {
    if (layout == LR_PANELS && dtype == LR_F32) return floats(w);
    const int64_t strips = ceil_div(n, Wide);
    float* to = lr::scratch(slot, strips * Wide * k + 16);
    if (!to) return nullptr;
    lr::parallel_for(strips, [&](int64_t j) {
        float* strip = to + j * Wide * k;
        if (layout == LR_ROWS) {
            pack_strip({w, dtype, k, 1}, n, k, j, Wide, strip);
            return;
        }
        const bf16* from = static_cast<const bf16*>(w) + j * ((k + 1) / 2) * Wide * 2;
        for (int64_t s = 0; s < k; ++s)
            for (int c = 0; c < Wide; ++c) strip[s * Wide + c] = widen(from[((s / 2) * Wide + c) * 2 + s % 2]);
    });
    return to;
}

// Low-rank product of one panel: out[12 tokens][r] = scale * panel x strips, into rows of `rows` [T,r], of strips [low][T][16], and a tail panel [r][12].
void low_rank(const float* panel, int64_t k, const float* strips, int64_t r, float scale, int64_t first, int64_t tokens, float* rows, float* by_strip, float* tail) {
    alignas(64) float sums[Rows * Narrow];
    const int64_t have = tokens - first < Rows ? tokens - first : Rows;
    for (int64_t l = 0; l < ceil_div(r, Narrow); ++l) {
        tile<Narrow>(k, panel, Rows, strips + l * Narrow * k, sums, Narrow, false);
        for (int64_t i = 0; i < Rows; ++i)
            for (int64_t q = 0; q < Narrow; ++q) {
                const float value = scale * sums[i * Narrow + q];
                if (l * Narrow + q < r) {
                    tail[(l * Narrow + q) * Rows + i] = value;
                    if (rows && i < have) rows[(first + i) * r + l * Narrow + q] = value;
                }
                if (by_strip && i < have) by_strip[(l * tokens + first + i) * Narrow + q] = l * Narrow + q < r ? value : 0;
            }
    }
}

// out[cols][r] = m[T,cols]^T s[T,r] with s in strips; each chunk owns 96 columns. finish(first column, columns, sums [low][96][16], block sums).
// each(block [64][96], t0, steps, c0, cols) sees every block of m while it is hot.
template <class T, class Each, class Finish>
void column_products(const T* m, int64_t tokens, int64_t cols, const float* strips, int64_t low, Each&& each, Finish&& finish) {
    lr::parallel_for(ceil_div(cols, Cols), [&](int64_t chunk) {
        const int64_t c0 = chunk * Cols, have = cols - c0 < Cols ? cols - c0 : Cols;
        float* sums = lr::scratch(9, (low + 1) * Cols * Narrow);
        alignas(64) float block[Steps * Cols];
        memset(sums, 0, static_cast<size_t>(low * Cols * Narrow) * sizeof(float));
        memset(block, 0, sizeof block);
        for (int64_t t0 = 0; t0 < tokens; t0 += Steps) {
            const int64_t steps = tokens - t0 < Steps ? tokens - t0 : Steps;
            for (int64_t t = 0; t < steps; ++t)
                for (int64_t c = 0; c < have; ++c) block[t * Cols + c] = widen(m[(t0 + t) * cols + c0 + c]);
            for (int64_t l = 0; l < low; ++l)
                for (int64_t g = 0; g < ceil_div(have, Rows); ++g)
                    tile<Narrow>(steps, block + g * Rows, Cols, strips + (l * tokens + t0) * Narrow, sums + (l * Cols + g * Rows) * Narrow, Narrow, true);
            each(block, t0, steps, c0, have);
        }
        finish(c0, have, sums);
    });
}

} // namespace

int32_t lora_forward(const LoraArgs* p) {
    if (!is_activation(p->dtype) || !is_activation(p->w_dtype)) return LR_UNSUPPORTED;
    const int64_t t = p->tokens, n = p->n, k = p->k, r = p->r, panels = ceil_div(t, Rows), strips = ceil_div(n, Wide), low = ceil_div(r, Narrow);
    float* left = lr::scratch(0, panels * Rows * k + 16);
    const float* right = weight_strips(p->w, p->w_dtype, p->w_layout, n, k, 1);
    float* a = lr::scratch(2, low * Narrow * k + 16);
    float* b = lr::scratch(3, strips * Wide * r + 16);
    float* tails = lr::scratch(4, panels * Rows * r + 16);
    if (!left || !right || !a || !b || !tails) return LR_OUT_OF_MEMORY;
    lr::parallel_range(low, k * Narrow, [&](int64_t l0, int64_t l1) { for (int64_t l = l0; l < l1; ++l) pack_strip({p->a, LR_F32, k, 1}, r, k, l, Narrow, a + l * Narrow * k); });
    lr::parallel_range(r ? strips : 0, r * Wide, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_strip({p->b, LR_F32, r, 1}, n, r, j, Wide, b + j * Wide * r); });
    lr::parallel_range(panels, Rows * k, [&](int64_t i0, int64_t i1) {
        for (int64_t i = i0; i < i1; ++i) {
            float* panel = left + i * Rows * k;
            pack_panels({p->x, p->dtype, k, 1}, t, k, i, nullptr, panel);
            if (r == 0) continue;
            const float* input = panel;
            if (p->xa) {
                float* own = lr::scratch(8, Rows * k + 16);
                pack_panels({p->xa, p->dtype, k, 1}, t, k, i, nullptr, own);
                input = own;
            }
            low_rank(input, k, a, r, static_cast<float>(p->scale), i * Rows, t, static_cast<float*>(p->t), nullptr, tails + i * Rows * r);
        }
    });
    const float *bias = floats(p->bias), *c = floats(p->c);
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T *y = static_cast<T*>(p->y), *y0 = static_cast<T*>(p->y0);
        multiply({left, k, r ? tails : nullptr, r}, t, n, false, [&](int64_t j) { return right + j * Wide * k; }, b, [&](const Place& at, const float* sums) {
            for (int i = 0; i < at.rows; ++i) {
                const float* from = sums + i * Wide;
                const int64_t to = (at.row + i) * n + at.col;
                int e = 0;
                for (; e + Lanes <= at.cols; e += Lanes) {
                    vf v = load(from + e);
                    if (y0) store(y0 + to + e, v);
                    if (c) v = v * load(c + at.col + e);
                    if (bias) v = v + load(bias + at.col + e);
                    store(y + to + e, v);
                }
                for (; e < at.cols; ++e) {
                    float v = from[e];
                    if (y0) narrow(v, y0[to + e]);
                    if (c) v *= c[at.col + e];
                    if (bias) v += bias[at.col + e];
                    narrow(v, y[to + e]);
                }
            }
        });
    });
    return LR_OK;
}

int32_t lora_backward(const LoraGradArgs* p) {
    if (!is_activation(p->dtype) || !is_activation(p->w_dtype)) return LR_UNSUPPORTED;
    const int64_t t = p->tokens, n = p->n, k = p->k, r = p->r, panels = ceil_div(t, Rows), low = ceil_div(r, Narrow);
    const bool want_u = r > 0 && (p->dx || p->dxa || p->da), fused = r > 0 && !p->xa;
    float* left = lr::scratch(0, panels * Rows * n + 16);
    float* b = lr::scratch(2, low * Narrow * n + 16);
    float* a = lr::scratch(3, ceil_div(k, Wide) * Wide * r + 16);
    float* tails = lr::scratch(4, panels * Rows * r + 16);
    float* u = lr::scratch(5, low * t * Narrow + 16);
    float* ts = lr::scratch(6, low * t * Narrow + 16);
    if (!left || !a || !b || !tails || !u || !ts) return LR_OUT_OF_MEMORY;
    const float* c = floats(p->c);
    if (want_u || p->dx) {
        if (want_u) {
            lr::parallel_range(low, n * Narrow, [&](int64_t l0, int64_t l1) { for (int64_t l = l0; l < l1; ++l) pack_strip({p->b, LR_F32, 1, r}, r, n, l, Narrow, b + l * Narrow * n); });
            lr::parallel_range(ceil_div(k, Wide), r * Wide, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_strip({p->a, LR_F32, 1, k}, k, r, j, Wide, a + j * Wide * r); });
        }
        lr::parallel_range(panels, Rows * n, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) {
                pack_panels({p->dy, p->dtype, n, 1}, t, n, i, c, left + i * Rows * n);
                if (want_u) low_rank(left + i * Rows * n, n, b, r, static_cast<float>(p->scale), i * Rows, t, nullptr, u, tails + i * Rows * r);
            }
        });
    }
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        auto write = [k](T* to, bool add) {
            return [=](const Place& at, const float* sums) {
                for (int i = 0; i < at.rows; ++i) {
                    T* row = to + (at.row + i) * k + at.col;
                    int e = 0;
                    for (; e + Lanes <= at.cols; e += Lanes) put(row + e, load(sums + i * Wide + e), add);
                    for (; e < at.cols; ++e) put(row + e, sums[i * Wide + e], add);
                }
            };
        };
        if (p->dx) {
            auto strip = [&](int64_t j) {
                float* to = lr::scratch(8, n * Wide + 16);
                pack_transposed_strip(p->w, p->w_dtype, p->w_layout, n, k, j, to);
                return to;
            };
            multiply({left, n, fused ? tails : nullptr, r}, t, k, true, strip, a, write(static_cast<T*>(p->dx), p->add & 1));
        }
        if (p->dxa) multiply({tails, r, nullptr, 0}, t, k, false, [&](int64_t j) { return a + j * Wide * r; }, nullptr, write(static_cast<T*>(p->dxa), p->add >> 1 & 1));
        if (p->da) {
            float* da = static_cast<float*>(p->da);
            const T* xa = static_cast<const T*>(p->xa ? p->xa : p->x);
            column_products(xa, t, k, u, low, [](auto&&...) {}, [&](int64_t c0, int64_t have, const float* sums) {
                for (int64_t q = 0; q < r; ++q)
                    for (int64_t e = 0; e < have; ++e) put(da + q * k + c0 + e, sums[((q / Narrow) * Cols + e) * Narrow + q % Narrow], p->add >> 2 & 1);
            });
        }
        if (p->db || p->dbias || p->dc) {
            float *db = static_cast<float*>(p->db), *dbias = static_cast<float*>(p->dbias), *dc = static_cast<float*>(p->dc);
            const T* y0 = static_cast<const T*>(p->y0);
            const int64_t used = db ? low : 0;
            lr::parallel_range(used, t * Narrow, [&](int64_t l0, int64_t l1) { for (int64_t l = l0; l < l1; ++l) pack_strip({p->t, LR_F32, 1, r}, r, t, l, Narrow, ts + l * t * Narrow); });
            column_products(
                static_cast<const T*>(p->dy), t, n, ts, used,
                [&](const float* block, int64_t t0, int64_t steps, int64_t c0, int64_t have) {
                    for (int64_t e = 0; dbias && e < have; ++e) {
                        float part = 0;
                        for (int64_t s = 0; s < steps; ++s) part += block[s * Cols + e];
                        put(dbias + c0 + e, part, t0 > 0 || (p->add >> 4 & 1));
                    }
                    for (int64_t e = 0; dc && e < have; ++e) {
                        float part = 0;
                        for (int64_t s = 0; s < steps; ++s) part += block[s * Cols + e] * widen(y0[(t0 + s) * n + c0 + e]);
                        put(dc + c0 + e, part, t0 > 0 || (p->add >> 5 & 1));
                    }
                },
                [&](int64_t c0, int64_t have, const float* sums) {
                    for (int64_t e = 0; db && e < have; ++e)
                        for (int64_t q = 0; q < r; ++q) put(db + (c0 + e) * r + q, (c ? c[c0 + e] : 1.0f) * sums[((q / Narrow) * Cols + e) * Narrow + q % Narrow], p->add >> 3 & 1);
                });
        }
    });
    return LR_OK;
}

// y[n,k] = w + scale b a, or w + scale (b a)^T
int32_t add_matmul(const AddMatMulArgs* p) {
    if (!is_activation(p->dtype) || p->w_dtype != p->dtype) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, r = p->r, panels = ceil_div(n, Rows), strips = ceil_div(k, Wide);
    float* left = lr::scratch(0, panels * Rows * r + 16);
    float* right = lr::scratch(1, strips * Wide * r + 16);
    if (!left || !right) return LR_OUT_OF_MEMORY;
    const View rows = p->transpose ? View{p->a, LR_F32, 1, n} : View{p->b, LR_F32, r, 1}, cols = p->transpose ? View{p->b, LR_F32, r, 1} : View{p->a, LR_F32, 1, k};
    lr::parallel_range(panels, r * Rows, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) pack_panels(rows, n, r, i, nullptr, left + i * Rows * r); });
    lr::parallel_range(strips, r * Wide, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_strip(cols, k, r, j, Wide, right + j * Wide * r); });
    const float scale = static_cast<float>(p->scale);
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* w = static_cast<const T*>(p->w);
        T* y = static_cast<T*>(p->y);
        multiply({left, r, nullptr, 0}, n, k, false, [&](int64_t j) { return right + j * Wide * r; }, nullptr, [&](const Place& at, const float* sums) {
            for (int i = 0; i < at.rows; ++i)
                for (int e = 0; e < at.cols; ++e) {
                    const int64_t to = (at.row + i) * k + at.col + e;
                    narrow(widen(w[to]) + scale * sums[i * Wide + e], y[to]);
                }
        });
    });
    return LR_OK;
}

// Row norms of w + scale b a by the Gram trick; floor: W read once, 2 n k r FLOPs for a w^T.
int32_t row_norm(const RowNormArgs* p) {
    if (p->dtype != LR_F32 || !is_activation(p->w_dtype)) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, r = p->a ? p->r : 0, strips = ceil_div(n, Wide), panels = ceil_div(r, Rows);
    const float *a = floats(p->a), *b = floats(p->b);
    const float* right = weight_strips(p->w, p->w_dtype, p->w_layout, n, k, 1);
    float* left = lr::scratch(2, panels * Rows * k + 16);
    float* gram = lr::scratch(3, r * r + 16);
    if (!right || !left || !gram) return LR_OUT_OF_MEMORY;
    lr::parallel_for(panels, [&](int64_t i) { pack_panels({a, LR_F32, k, 1}, r, k, i, nullptr, left + i * Rows * k); });
    lr::parallel_range(r, r * k, [&](int64_t q0, int64_t q1) {
        for (int64_t q = q0; q < q1; ++q)
            for (int64_t s = 0; s < r; ++s) {
                float dot = 0;
                for (int64_t e0 = 0; e0 < k; e0 += 256) {
                    float part = 0;
                    for (int64_t e = e0; e < e0 + 256 && e < k; ++e) part += a[q * k + e] * a[s * k + e];
                    dot += part;
                }
                gram[q * r + s] = dot;
            }
    });
    float *w2 = static_cast<float*>(p->w2), *norm = static_cast<float*>(p->norm), *inverse = static_cast<float*>(p->inverse);
    lr::parallel_for(strips, [&](int64_t j) {
        const float* strip = right + j * Wide * k;
        const int64_t have = n - j * Wide < Wide ? n - j * Wide : Wide;
        double cross[Wide] = {}, quad[Wide] = {};
        alignas(64) float sums[Rows * Wide];
        for (int64_t i = 0; i < panels; ++i) {
            tile<Wide>(k, left + i * Rows * k, Rows, strip, sums, Wide, false);
            for (int64_t e = 0; e < have; ++e)
                for (int64_t q = 0; q < Rows && i * Rows + q < r; ++q) cross[e] += double(sums[q * Wide + e]) * b[(j * Wide + e) * r + i * Rows + q];
        }
        for (int64_t e = 0; e < have; ++e) {
            const float* row = b + (j * Wide + e) * r;
            for (int64_t q = 0; q < r; ++q) {
                float part = 0;
                for (int64_t s = 0; s < r; ++s) part += gram[q * r + s] * row[s];
                quad[e] += double(row[q]) * part;
            }
        }
        for (int64_t e = 0; e < have; ++e) {
            const int64_t i = j * Wide + e;
            if (p->want_w2) {
                double square = 0;
                for (int64_t s = 0; s < k; ++s) square += double(strip[s * Wide + e]) * strip[s * Wide + e];
                w2[i] = static_cast<float>(square);
            }
            const double square = w2[i] + 2 * p->scale * cross[e] + p->scale * p->scale * quad[e];
            const float length = static_cast<float>(__builtin_sqrt(square > 0 ? square : 0));
            if (norm) norm[i] = length;
            if (inverse) inverse[i] = 1 / (length > 1e-30f ? length : 1e-30f);
        }
    });
    return LR_OK;
}

} // namespace LR_NS
