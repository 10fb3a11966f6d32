// Losses. Floor: logits read once forward, read and gradient written once backward. Sums over rows are made in float64 in the order of rows.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

int32_t cross_entropy_forward(const CrossEntropyArgs* p) {
    const int32_t* labels = static_cast<const int32_t*>(p->labels);
    float* lse = static_cast<float*>(p->lse);
    float* losses = lr::scratch(0, p->rows + 16);
    if (!losses) return LR_OUT_OF_MEMORY;
    const int64_t cols = p->cols;
    for (int64_t r = 0; r < p->rows; ++r)
        if (labels[r] != p->ignore && (labels[r] < 0 || labels[r] >= cols)) return LR_BAD_ARGUMENT;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 8, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                float top = widen(x[0]);
                double mean = 0, exps = 0;
                for (int64_t c = 0; c < cols; ++c) {
                    const float v = widen(x[c]);
                    top = v > top ? v : top;
                    mean += v;
                }
                for (int64_t c = 0; c < cols; c += Lanes) {
                    float in[Lanes];
                    for (int e = 0; e < Lanes; ++e) in[e] = c + e < cols ? widen(x[c + e]) - top : -1000.0f;
                    exps += sum(vexp(load(in)));
                }
                const double log = top + __builtin_log(exps);
                lse[r] = float(log);
                losses[r] = labels[r] == p->ignore ? 0 : float(log - (1 - p->smoothing) * widen(x[labels[r]]) - p->smoothing * mean / double(cols));
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
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 8, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                T* dx = static_cast<T*>(p->dlogits) + r * cols;
                const bool counts = labels[r] != p->ignore;
                for (int64_t c = 0; c < cols; c += Lanes) {
                    float in[Lanes];
                    for (int e = 0; e < Lanes; ++e) in[e] = c + e < cols ? widen(x[c + e]) - lse[r] : 0;
                    const vf share = vexp(load(in));
                    for (int e = 0; e < Lanes && c + e < cols; ++e)
                        put(dx + c + e, counts ? scale * (share[e] - even - (c + e == labels[r] ? peak : 0)) : 0.0f, p->add & 1);
                }
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t squared_error_forward(const SquaredErrorArgs* p) {
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        double total = 0;
        for (int64_t i = 0; i < p->count; ++i) {
            const double d = double(widen(y[i])) - widen(target[i]);
            total += d * d;
        }
        *static_cast<float*>(p->loss) = p->count ? float(p->scale * total / double(p->count)) : 0;
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t squared_error_backward(const SquaredErrorGradArgs* p) {
    const float scale = float(*static_cast<const float*>(p->dloss) * 2 * p->scale / double(p->count));
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *y = static_cast<const T*>(p->y), *target = static_cast<const T*>(p->target);
        T* dy = static_cast<T*>(p->dy);
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) put(dy + i, scale * (widen(y[i]) - widen(target[i])), p->add & 1); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
