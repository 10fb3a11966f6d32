// Elementwise kernels. Floor: each operand read once, the result written once; all are bound by memory bandwidth above L2 sizes.
// Reached (Zen 4, AVX-512, one thread, share of the copy ceiling, 8 M float32, forward and backward): relu and sigmoid over 90 %, gelu 59 % and 74 %,
// tanh 59 % and 75 % (bound by exp and the reciprocal); add, mul, scale_rows and conversions over 90 %; sums over periods 65 %.
#include "activations.h"
#include "kernels.h"
#include "pool.h"

namespace LR_NS {

namespace {

struct Gelu {
    static vf at(vf x) { vf phi, density; normal(x, phi, density); return x * phi; }
    static vf slope(vf x) { vf phi, density; normal(x, phi, density); return fma(x, density, phi); }
};
struct Tanh {
    static vf at(vf x) { return vtanh(x); }
    static vf slope(vf x) { // 4t/(1 + t)^2 with t = e^-2|x|: no difference of nearly equal numbers
        const vf t = vexp(magnitude(x) * splat(-2.0f)), r = reciprocal(splat(1.0f) + t);
        return splat(4.0f) * t * r * r;
    }
};
struct Relu {
    static vf at(vf x) { return select(x < vf{}, vf{}, x); }
    static vf slope(vf x) { return select(x > vf{}, splat(1.0f), vf{}); }
};
struct Sigmoid {
    static vf at(vf x) { return vsigmoid(x); }
    static vf slope(vf x) { const vf s = vsigmoid(x); return s * (splat(1.0f) - s); }
};
struct Exp {
    static vf at(vf x) { return vexp(x); }
    static vf slope(vf x) { return vexp(x); }
};
struct Sqrt { // slope 0 at 0
    static vf at(vf x) { return vsqrt(x); }
    static vf slope(vf x) { return select(x == vf{}, vf{}, splat(0.5f) / vsqrt(x)); }
};
struct QuickGelu {
    static vf at(vf x) { return x * vsigmoid(splat(1.702f) * x); }
    static vf slope(vf x) { const vf s = vsigmoid(splat(1.702f) * x); return fma(splat(1.702f) * x * s, splat(1.0f) - s, s); }
};

template <class F> int32_t unary(const UnaryArgs* p) {
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range(p->count, 4, [&](int64_t i0, int64_t i1) { sweep(i0, i1, [&](auto at) LR_LAMBDA { at.set(y, F::at(at.get(x))); }); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

template <class F> int32_t unary_grad(const UnaryGradArgs* p) {
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        const bool add = p->add & 1;
        lr::parallel_range(p->count, 4, [&](int64_t i0, int64_t i1) {
            sweep(i0, i1, [&](auto at) LR_LAMBDA { at.put(dx, at.get(dy) * F::slope(at.get(x)), add); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// f(first element, first of the period, length) over runs that do not wrap
template <class F> LR_INLINE void runs(int64_t begin, int64_t end, int64_t period, F&& f) {
    for (int64_t i = begin, j = begin % period; i < end;) {
        const int64_t length = period - j < end - i ? period - j : end - i;
        f(i, j, length);
        i += length;
        j = 0;
    }
}

// y[i] = f(x[i], z[i % period]); a period of one is a single run of one value
template <class F> int32_t binary(const BinaryArgs* p, F&& f) {
    if ((p->z_dtype != p->dtype && p->z_dtype != LR_F32) || p->period < 1) return LR_UNSUPPORTED;
    const bool one = p->period == 1;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        auto run = [&](auto* z) {
            lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
                runs(i0, i1, one ? p->count : p->period, [&](int64_t i, int64_t j, int64_t length) {
                    const T* x = static_cast<const T*>(p->x) + i;
                    T* y = static_cast<T*>(p->y) + i;
                    if (one) sweep(0, length, [&](auto at) LR_LAMBDA { at.set(y, f(at.get(x), splat(widen(*z)))); });
                    else sweep(0, length, [&](auto at) LR_LAMBDA { at.set(y, f(at.get(x), at.get(z + j))); });
                });
            });
        };
        if (p->z_dtype == p->dtype) run(static_cast<const T*>(p->z));
        else run(static_cast<const float*>(p->z));
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// dx[i] (+)= fx(dy, z); dz[j] (+)= factor sum over i = j mod period of fz(dy, x): by blocks of periods, the blocks in order
template <class Fx, class Fz> int32_t binary_grad(const BinaryGradArgs* p, float factor, Fx&& fx, Fz&& fz) {
    constexpr int64_t Block = 32, Width = 1024; // periods and columns of a chunk
    if ((p->z_dtype != p->dtype && p->z_dtype != LR_F32) || p->period < 1) return LR_UNSUPPORTED;
    const int64_t period = p->period, blocks = (p->count / period + Block - 1) / Block, widths = (period + Width - 1) / Width;
    const bool one = period == 1;
    float* partial = p->dz && blocks > 1 ? lr::scratch(0, blocks * period + 16) : nullptr;
    if (p->dz && blocks > 1 && !partial) return LR_OUT_OF_MEMORY;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        auto run = [&](auto* z, auto* dz) {
            if (dx)
                lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
                    runs(i0, i1, one ? p->count : period, [&](int64_t i, int64_t j, int64_t length) {
                        if (one) sweep(0, length, [&](auto at) LR_LAMBDA { at.put(dx + i, fx(at.get(dy + i), z ? splat(widen(*z)) : vf{}), p->add & 1); });
                        else sweep(0, length, [&](auto at) LR_LAMBDA { at.put(dx + i, fx(at.get(dy + i), z ? at.get(z + j) : vf{}), p->add & 1); });
                    });
                });
            if (!dz) return;
            const bool add = p->add >> 1 & 1;
            lr::parallel_for(blocks * widths, [&](int64_t chunk) {
                const int64_t block = chunk / widths, first = chunk % widths * Width, last = first + Width < period ? first + Width : period;
                const int64_t end = (block + 1) * Block * period < p->count ? (block + 1) * Block * period : p->count;
                sweep(first, last, [&](auto at) LR_LAMBDA {
                    vf sums{};
                    for (int64_t i = block * Block * period; i < end; i += period) sums = sums + fz(at.get(dy + i), x ? at.get(x + i) : vf{});
                    if (partial) at.set(partial + block * period, sums);
                    else at.put(dz, splat(factor) * sums, add);
                });
            });
            if (!partial) return;
            lr::parallel_for(widths, [&](int64_t chunk) {
                sweep(chunk * Width, (chunk + 1) * Width < period ? (chunk + 1) * Width : period, [&](auto at) LR_LAMBDA {
                    vf sums{};
                    for (int64_t b = 0; b < blocks; ++b) sums = sums + at.get(partial + b * period);
                    at.put(dz, splat(factor) * sums, add);
                });
            });
        };
        if (p->z_dtype == p->dtype) run(static_cast<const T*>(p->z), static_cast<T*>(p->dz));
        else run(static_cast<const float*>(p->z), static_cast<float*>(p->dz));
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// y = f(x) z, both whole
template <class F> int32_t gated(const BinaryArgs* p) {
    if (p->z_dtype != p->dtype || p->period != p->count) return LR_UNSUPPORTED;
    return binary(p, [](vf x, vf z) { return F::at(x) * z; });
}
template <class F> int32_t gated_grad(const BinaryGradArgs* p) {
    if (p->z_dtype != p->dtype || p->period != p->count) return LR_UNSUPPORTED;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *z = static_cast<const T*>(p->z), *dy = static_cast<const T*>(p->dy);
        T *dx = static_cast<T*>(p->dx), *dz = static_cast<T*>(p->dz);
        lr::parallel_range(p->count, 4, [&](int64_t i0, int64_t i1) {
            sweep(i0, i1, [&](auto at) LR_LAMBDA {
                const vf gate = at.get(x), up = at.get(dy);
                if (dx) at.put(dx, up * at.get(z) * F::slope(gate), p->add & 1);
                if (dz) at.put(dz, up * F::at(gate), p->add >> 1 & 1);
            });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace

#define LR_UNARY(name, F) \
    int32_t name##_forward(const UnaryArgs* p) { return unary<F>(p); } \
    int32_t name##_backward(const UnaryGradArgs* p) { return unary_grad<F>(p); }
LR_UNARY(gelu, Gelu)
LR_UNARY(gelu_tanh, GeluTanh)
LR_UNARY(tanh, Tanh)
LR_UNARY(relu, Relu)
LR_UNARY(sigmoid, Sigmoid)
LR_UNARY(exp, Exp)
LR_UNARY(silu, Silu)
LR_UNARY(quick_gelu, QuickGelu)
LR_UNARY(sqrt, Sqrt)
#define LR_GATED(name, F) \
    int32_t name##_mul_forward(const BinaryArgs* p) { return gated<F>(p); } \
    int32_t name##_mul_backward(const BinaryGradArgs* p) { return gated_grad<F>(p); }
LR_GATED(silu, Silu)
LR_GATED(gelu_tanh, GeluTanh)

int32_t add_forward(const BinaryArgs* p) {
    const vf alpha = splat(float(p->alpha));
    return binary(p, [alpha](vf x, vf z) { return fma(alpha, z, x); });
}
int32_t mul_forward(const BinaryArgs* p) {
    return binary(p, [](vf x, vf z) { return x * z; });
}
int32_t add_backward(const BinaryGradArgs* p) {
    return binary_grad(p, float(p->alpha), [](vf dy, vf) { return dy; }, [](vf dy, vf) { return dy; });
}
int32_t mul_backward(const BinaryGradArgs* p) {
    return binary_grad(p, 1.0f, [](vf dy, vf z) { return dy * z; }, [](vf dy, vf x) { return dy * x; });
}

int32_t scale_rows_forward(const ScaleRowsArgs* p) {
    const float* c = static_cast<const float*>(p->c);
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, p->cols, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->x) + r * p->cols;
                T* y = static_cast<T*>(p->y) + r * p->cols;
                sweep(0, p->cols, [&](auto at) LR_LAMBDA { at.set(y, splat(c[r]) * at.get(x)); });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t scale_rows_backward(const ScaleRowsGradArgs* p) {
    const float* c = static_cast<const float*>(p->c);
    float* dc = static_cast<float*>(p->dc);
    const int64_t cols = p->cols;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* dy = static_cast<const T*>(p->dy) + r * cols;
                if (p->dx) {
                    T* dx = static_cast<T*>(p->dx) + r * cols;
                    sweep(0, cols, [&](auto at) LR_LAMBDA { at.put(dx, splat(c[r]) * at.get(dy), p->add & 1); });
                }
                if (!dc) continue;
                const T* x = static_cast<const T*>(p->x) + r * cols;
                double total = 0; // vectors of float32 over stretches of 1024, the stretches in float64
                for (int64_t i = 0; i < cols; i += 1024) {
                    vf dot[4] = {};
                    fan<4>(i, i + 1024 < cols ? i + 1024 : cols, [&](auto at, auto c) LR_LAMBDA { dot[c] = fma(at.get(dy), at.get(x), dot[c]); });
                    total += sum(gathered(dot));
                }
                put(dc + r, float(total), p->add >> 1 & 1);
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t convert(const ConvertArgs* p) {
    if (!by_float(p->to, [](auto*) {})) return LR_UNSUPPORTED;
    const bool known = by_float(p->from, [&](auto* from) {
        const auto* x = static_cast<const std::remove_pointer_t<decltype(from)>*>(p->x);
        by_float(p->to, [&](auto* to) {
            auto* y = static_cast<decltype(to)>(p->y);
            lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { sweep(i0, i1, [&](auto at) LR_LAMBDA { at.set(y, at.get(x)); }); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t fill(const FillArgs* p) {
    const bool known = by_float(p->dtype, [&](auto* type) {
        auto* y = static_cast<decltype(type)>(p->y);
        const vf value = splat(float(p->value));
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { sweep(i0, i1, [&](auto at) LR_LAMBDA { at.set(y, value); }); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
