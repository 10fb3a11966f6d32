// Losses. Floor: logits read once forward, read and gradient written once backward; a row's second pass comes from L1 or L2. Sums over rows are
// made in float64 in the order of rows.
// Reached (Zen 4, AVX-512, one thread, share of the copy ceiling): cross-entropy 8192x1000 forward 44 % (bound by exp), backward 82 %; 2048x32000
// 36 % and 99 %; squared error all of it.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

// Largest logit of a row, and the sum of z where it is asked for
template <class T, class Cap> LR_INLINE float row_top(const T* x, int64_t cols, Cap cap, bool want_total, double& total) {
    const vf lowest = splat(-__builtin_inff());
    vf top[4] = {lowest, lowest, lowest, lowest}, sums[4] = {};
    const int64_t whole = cols / Lanes * Lanes;
    fan<4>(0, whole, [&](auto at, auto c) LR_LAMBDA {
        const vf v = at.get(x);
        top[c] = v > top[c] ? v : top[c];
        if (want_total) sums[c] = sums[c] + cap.of(v);
    });
    unroll<3>([&](auto c) LR_LAMBDA { top[0] = top[c + 1] > top[0] ? top[c + 1] : top[0]; });
    float high = largest(top[0]);
    total = sum(gathered(sums));
    for (int64_t c = whole; c < cols; ++c) {
        const float v = widen(x[c]);
        high = v > high ? v : high;
        total += cap.of(splat(v))[0];
    }
    return high;
}

// Sum of e^(z - top): vectors of float32 over stretches of 1024, the stretches in float64
template <class T, class Cap> LR_INLINE double row_exps(const T* x, int64_t cols, Cap cap, float top) {
    double total = 0;
    for (int64_t c0 = 0; c0 < cols; c0 += 1024) {
        vf sums[4] = {};
        fan<4>(c0, c0 + 1024 < cols ? c0 + 1024 : cols, [&](auto at, auto c) LR_LAMBDA { sums[c] = sums[c] + within(at, vexp(cap.of(at.get(x)) - splat(top))); });
        total += sum(gathered(sums));
    }
    return total;
}

// dx (+)= scale (softmax - q) dz/dx of a row whose label counts, by its log-sum-exp; dx may be x
template <class T, class Cap> LR_INLINE void row_gradient(const T* x, T* dx, int64_t cols, int32_t label, float lse, float scale, double smoothing, Cap cap, bool add) {
    const vf log = splat(lse), even = splat(float(smoothing / double(cols)));
    const vf own = cap.of(splat(widen(x[label])));
    const float share = (vexp(own - log) - even)[0] - float(1 - smoothing), slope = cap.slope(own)[0], before = add ? widen(dx[label]) : 0;
    sweep(0, cols, [&](auto at) LR_LAMBDA {
        const vf z = cap.of(at.get(x));
        at.put(dx, splat(scale) * cap.slope(z) * (vexp(z - log) - even), add);
    });
    narrow(before + scale * slope * share, dx[label]);
}

} // namespace

int32_t cross_entropy_forward(const CrossEntropyArgs* p) {
    const int32_t* labels = static_cast<const int32_t*>(p->labels);
    float *lse = static_cast<float*>(p->lse) + p->first, *losses = static_cast<float*>(p->losses), *valid = static_cast<float*>(p->valid);
    const int64_t cols = p->cols;
    if (!by_float(p->dtype, [](auto*) {})) return LR_UNSUPPORTED;
    for (int64_t r = p->first; r < p->first + p->rows; ++r)
        if (labels[r] != p->ignore && (labels[r] < 0 || labels[r] >= cols)) return LR_BAD_ARGUMENT;
    if (p->first == 0) {
        int64_t counted = 0;
        for (int64_t r = 0; r < p->total; ++r) counted += labels[r] != p->ignore;
        *valid = float(counted);
    }
    by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        by_cap(p->cap, [&](auto cap) {
            lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
                for (int64_t r = r0; r < r1; ++r) {
                    const T* x = static_cast<const T*>(p->logits) + r * cols;
                    T* dx = p->dlogits ? static_cast<T*>(p->dlogits) + r * cols : nullptr;
                    const int32_t label = labels[p->first + r];
                    double total;
                    const float top = cap.of(splat(row_top(x, cols, cap, p->smoothing != 0, total)))[0];
                    const double log = top + __builtin_log(row_exps(x, cols, cap, top));
                    lse[r] = float(log);
                    const double mean = p->smoothing != 0 ? total / double(cols) : 0; // a logit of -inf is well where it has no share
                    losses[p->first + r] = label == p->ignore ? 0 : float(log - (1 - p->smoothing) * cap.of(splat(widen(x[label])))[0] - p->smoothing * mean);
                    if (dx && label == p->ignore) memset(dx, 0, size_t(cols) * sizeof(T));
                    else if (dx) row_gradient(x, dx, cols, label, lse[r], 1 / *valid, p->smoothing, cap, false);
                }
            });
        });
    });
    if (p->first + p->rows < p->total) return LR_OK;
    double total = 0;
    for (int64_t r = 0; r < p->total; ++r) total += losses[r];
    *static_cast<float*>(p->loss) = *valid > 0 ? float(total / double(*valid)) : 0;
    return LR_OK;
}

int32_t cross_entropy_backward(const CrossEntropyGradArgs* p) {
    const int32_t* labels = static_cast<const int32_t*>(p->labels);
    const float* lse = static_cast<const float*>(p->lse);
    const float scale = *static_cast<const float*>(p->dloss) / *static_cast<const float*>(p->valid);
    const int64_t cols = p->cols;
    const bool add = p->add & 1;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        by_cap(p->cap, [&](auto cap) {
            lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
                for (int64_t r = r0; r < r1; ++r) {
                    T* dx = static_cast<T*>(p->dlogits) + r * cols;
                    if (labels[r] != p->ignore) row_gradient(static_cast<const T*>(p->logits) + r * cols, dx, cols, labels[r], lse[r], scale, p->smoothing, cap, add);
                    else if (!add) memset(dx, 0, size_t(cols) * sizeof(T));
                }
            });
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

// log(p + epsilon) of a share p = e^log, and its slope in p times p: log(p + epsilon) + p/(p + epsilon)
struct Surprise {
    float epsilon;
    LR_INLINE vf of(vf p, vf log) const { return epsilon > 0 ? vlog(p + splat(epsilon)) : log; }
    LR_INLINE vf slope(vf p, vf log) const { return of(p, log) + (epsilon > 0 ? p / (p + splat(epsilon)) : splat(1.0f)); }
};

int32_t mean_entropy_forward(const MeanEntropyArgs* p) {
    float *losses = static_cast<float*>(p->losses), *stats = static_cast<float*>(p->stats);
    const int64_t cols = p->cols;
    const Surprise surprise{float(p->epsilon)};
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 4, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                double none, entropy = 0, mean = 0, all = 0;
                const float top = row_top(x, cols, SoftCap<false>{0}, false, none);
                const float lse = top + float(__builtin_log(row_exps(x, cols, SoftCap<false>{0}, top)));
                for (int64_t c0 = 0; c0 < cols; c0 += 1024) { // vectors of float32 over stretches of 1024, the stretches in float64
                    vf parts = {}, slopes = {}, shares = {};
                    sweep(c0, c0 + 1024 < cols ? c0 + 1024 : cols, [&](auto at) LR_LAMBDA {
                        const vf log = at.get(x) - splat(lse), share = within(at, vexp(log));
                        shares = shares + share;
                        parts = parts + select(share > vf{}, share * surprise.of(share, log), vf{});
                        slopes = slopes + select(share > vf{}, share * surprise.slope(share, log), vf{});
                    });
                    entropy -= sum(parts);
                    mean += sum(slopes);
                    all += sum(shares);
                }
                losses[r] = float(entropy / all); // the shares sum to 1 but for the rounding of lse, which counts as often as there are nats
                stats[2 * r] = lse;
                stats[2 * r + 1] = float(mean / all);
            }
        });
    });
    if (!known) return LR_UNSUPPORTED;
    double total = 0;
    for (int64_t r = 0; r < p->rows; ++r) total += losses[r];
    *static_cast<float*>(p->loss) = float(total / double(p->rows));
    return LR_OK;
}

int32_t mean_entropy_backward(const MeanEntropyGradArgs* p) {
    const float *stats = static_cast<const float*>(p->stats), scale = *static_cast<const float*>(p->dloss) / float(p->rows);
    const int64_t cols = p->cols;
    const Surprise surprise{float(p->epsilon)};
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->logits) + r * cols;
                const vf lse = splat(stats[2 * r]), mean = splat(stats[2 * r + 1]);
                sweep(0, cols, [&](auto at) LR_LAMBDA {
                    const vf log = at.get(x) - lse, share = vexp(log);
                    at.put(static_cast<T*>(p->dlogits) + r * cols, select(share > vf{}, splat(-scale) * share * (surprise.slope(share, log) - mean), vf{}), p->add & 1);
                });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
