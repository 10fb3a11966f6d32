// Losses. Floor: logits read once forward, read and gradient written once backward; a row's second pass comes from L1 or L2. Sums over rows are
// made in float64 in the order of rows.
// Reached (Zen 4, AVX-512, one thread, share of the copy ceiling): cross-entropy 8192x1000 forward 44 % (bound by exp), backward 82 %; 2048x32000
// 36 % and 99 %; squared error all of it.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

// Largest logit of a row, and their sum where it is asked for
template <class T> LR_INLINE float row_top(const T* x, int64_t cols, bool want_total, double& total) {
    const vf lowest = splat(-__builtin_inff());
    vf top[4] = {lowest, lowest, lowest, lowest}, sums[4] = {};
    const int64_t whole = cols / Lanes * Lanes;
    fan<4>(0, whole, [&](auto at, auto c) LR_LAMBDA {
        const vf v = at.get(x);
        top[c] = v > top[c] ? v : top[c];
        if (want_total) sums[c] = sums[c] + v;
    });
    unroll<3>([&](auto c) LR_LAMBDA { top[0] = top[c + 1] > top[0] ? top[c + 1] : top[0]; });
    float high = largest(top[0]);
    total = sum(gathered(sums));
    for (int64_t c = whole; c < cols; ++c) {
        const float v = widen(x[c]);
        high = v > high ? v : high;
        total += v;
    }
    return high;
}

// Sum of e^(x - top): vectors of float32 over stretches of 1024, the stretches in float64
template <class T> LR_INLINE double row_exps(const T* x, int64_t cols, float top) {
    double total = 0;
    for (int64_t c0 = 0; c0 < cols; c0 += 1024) {
        vf sums[4] = {};
        fan<4>(c0, c0 + 1024 < cols ? c0 + 1024 : cols, [&](auto at, auto c) LR_LAMBDA { sums[c] = sums[c] + within(at, vexp(at.get(x) - splat(top))); });
        total += sum(gathered(sums));
    }
    return total;
}

} // namespace

int32_t cross_entropy_forward(const CrossEntropyArgs* p) {
    const int32_t* labels = static_cast<const int32_t*>(p->labels);
    float* lse = static_cast<float*>(p->lse);
    float* losses = lr::scratch(0, p->rows + 16);
    if (!losses) return LR_OUT_OF_MEMORY;
    const int64_t cols = p->cols;
    const bool known = by_float(p->dtype, [](auto*) {});
    for (int64_t r = 0; known && r < p->rows; ++r)
        if (labels[r] != p->ignore && (labels[r] < 0 || labels[r] >= cols)) return LR_BAD_ARGUMENT;
    by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                double total;
                const float top = row_top(x, cols, p->smoothing != 0, total);
                const double log = top + __builtin_log(row_exps(x, cols, top));
                lse[r] = float(log);
                const double mean = p->smoothing != 0 ? total / double(cols) : 0; // a logit of -inf is well where it has no share
                losses[r] = labels[r] == p->ignore ? 0 : float(log - (1 - p->smoothing) * widen(x[labels[r]]) - p->smoothing * mean);
            }
        });
    });
    if (!known) return LR_UNSUPPORTED;
    double total = 0;
    int64_t counted = 0;
    for (int64_t r = 0; r < p->rows; ++r) {
        total += losses[r];
        counted += labels[r] != p->ignore;
    }
    *static_cast<float*>(p->loss) = counted ? float(total / double(counted)) : 0;
    *static_cast<float*>(p->valid) = float(counted);
    return LR_OK;
}

int32_t cross_entropy_backward(const CrossEntropyGradArgs* p) {
    const int32_t* labels = static_cast<const int32_t*>(p->labels);
    const float* lse = static_cast<const float*>(p->lse);
    const float scale = *static_cast<const float*>(p->dloss) / *static_cast<const float*>(p->valid);
    const float even = float(p->smoothing / p->cols), peak = float(1 - p->smoothing);
    const int64_t cols = p->cols;
    const bool add = p->add & 1;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                T* dx = static_cast<T*>(p->dlogits) + r * cols;
                if (labels[r] == p->ignore) {
                    if (!add) memset(dx, 0, size_t(cols) * sizeof(T));
                    continue;
                }
                const vf log = splat(lse[r]);
                const float share = vexp(splat(widen(x[labels[r]])) - log)[0], before = add ? widen(dx[labels[r]]) : 0;
                sweep(0, cols, [&](auto at) LR_LAMBDA { at.put(dx, splat(scale) * (vexp(at.get(x) - log) - splat(even)), add); });
                narrow(before + scale * (share - even - peak), dx[labels[r]]);
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t squared_error_forward(const SquaredErrorArgs* p) {
    constexpr int64_t Stretch = 4096; // summed in vectors of float32 by 256, then in float64
    const int64_t stretches = (p->count + Stretch - 1) / Stretch;
    double* parts = reinterpret_cast<double*>(lr::scratch(0, 2 * stretches + 16));
    if (!parts) return LR_OUT_OF_MEMORY;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        lr::parallel_range(stretches, Stretch, [&](int64_t s0, int64_t s1) {
            for (int64_t s = s0; s < s1; ++s) {
                const int64_t last = (s + 1) * Stretch < p->count ? (s + 1) * Stretch : p->count;
                parts[s] = 0;
                for (int64_t i = s * Stretch; i < last; i += 256) {
                    vf sums[4] = {};
                    fan<4>(i, i + 256 < last ? i + 256 : last, [&](auto at, auto c) LR_LAMBDA { const vf d = at.get(y) - at.get(target); sums[c] = fma(d, d, sums[c]); });
                    parts[s] += sum(gathered(sums));
                }
            }
        });
    });
    if (!known) return LR_UNSUPPORTED;
    double total = 0;
    for (int64_t s = 0; s < stretches; ++s) total += parts[s];
    *static_cast<float*>(p->loss) = p->count ? float(p->scale * total / double(p->count)) : 0;
    return LR_OK;
}

int32_t squared_error_backward(const SquaredErrorGradArgs* p) {
    const vf scale = splat(float(*static_cast<const float*>(p->dloss) * 2 * p->scale / double(p->count)));
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        T* dy = static_cast<T*>(p->dy);
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
            sweep(i0, i1, [&](auto at) LR_LAMBDA { at.put(dy, scale * (at.get(y) - at.get(target)), p->add & 1); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// A logit a label: small, so in plain order and float64.
int32_t binary_cross_entropy_forward(const SquaredErrorArgs* p) {
    double total = 0;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        for (int64_t i = 0; i < p->count; ++i) {
            const double v = widen(y[i]);
            total += (v > 0 ? v : 0) + __builtin_log1p(__builtin_exp(v > 0 ? -v : v)) - v * widen(target[i]);
        }
    });
    if (!known) return LR_UNSUPPORTED;
    *static_cast<float*>(p->loss) = p->count ? float(p->scale * total / double(p->count)) : 0;
    return LR_OK;
}

int32_t binary_cross_entropy_backward(const SquaredErrorGradArgs* p) {
    const vf scale = splat(float(*static_cast<const float*>(p->dloss) * p->scale / double(p->count)));
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        T* dy = static_cast<T*>(p->dy);
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
            sweep(i0, i1, [&](auto at) LR_LAMBDA { at.put(dy, scale * (vsigmoid(at.get(y)) - at.get(target)), p->add & 1); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
