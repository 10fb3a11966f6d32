// Elementwise kernels. Floor: each operand read once, the result written once; all are bound by memory bandwidth above L2 sizes.
#include "kernels.h"
#include "math.h"
#include "pool.h"
#include "../abi/lowrank.h"

namespace LR_NS {

namespace {

struct Gelu {
    static vf at(vf x) { vf phi, density; normal(x, phi, density); return x * phi; }
    static vf slope(vf x) { vf phi, density; normal(x, phi, density); return fma(x, density, phi); }
};
struct GeluTanh {
    static vf inner(vf x) { return splat(0.79788456f) * fma(splat(0.044715f) * x * x, x, x); }
    static vf at(vf x) { return splat(0.5f) * x * (splat(1.0f) + vtanh(inner(x))); }
    static vf slope(vf x) {
        const vf t = vtanh(inner(x));
        const vf d = splat(0.79788456f) * fma(splat(0.134145f) * x, x, splat(1.0f));
        return splat(0.5f) * (splat(1.0f) + t) + splat(0.5f) * x * (splat(1.0f) - t * t) * d;
    }
};
struct Tanh {
    static vf at(vf x) { return vtanh(x); }
    static vf slope(vf x) { const vf t = vtanh(x); return splat(1.0f) - t * t; }
};
struct Relu {
    static vf at(vf x) { return select(x < vf{}, vf{}, x); }
    static vf slope(vf x) { return select(x > vf{}, splat(1.0f), vf{}); }
};
struct Sigmoid {
    static vf at(vf x) { return vsigmoid(x); }
    static vf slope(vf x) { const vf s = vsigmoid(x); return s * (splat(1.0f) - s); }
};

// f(offset) with whole vectors; the last partial one through a padded copy: body(load, store) sees pointers of Lanes elements
template <class T, class F> LR_INLINE void vectors(const T* x, T* y, int64_t begin, int64_t end, F&& f) {
    int64_t i = begin;
    for (; i + Lanes <= end; i += Lanes) f(x + i, y + i, i);
    if (i < end) {
        T in[Lanes] = {}, out[Lanes] = {};
        memcpy(in, x + i, size_t(end - i) * sizeof(T));
        memcpy(out, y + i, size_t(end - i) * sizeof(T));
        f(in, out, i);
        memcpy(y + i, out, size_t(end - i) * sizeof(T));
    }
}

template <class F> int32_t unary(const UnaryArgs* p) {
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->count, 4, [&](int64_t i0, int64_t i1) {
            vectors(static_cast<const T*>(p->x), static_cast<T*>(p->y), i0, i1, [](const T* x, T* y, int64_t) { store(y, F::at(load(x))); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

template <class F> int32_t unary_grad(const UnaryGradArgs* p) {
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        lr::parallel_range(p->count, 4, [&](int64_t i0, int64_t i1) {
            vectors(x, dx, i0, i1, [&](const T* in, T* out, int64_t i) {
                T up[Lanes] = {};
                memcpy(up, dy + i, size_t(i1 - i < Lanes ? i1 - i : Lanes) * sizeof(T));
                put(out, load(up) * F::slope(load(in)), p->add & 1);
            });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// y[i] = f(x[i], z[i % period])
template <class F> int32_t binary(const BinaryArgs* p, F&& f) {
    if ((p->z_dtype != p->dtype && p->z_dtype != LR_F32) || p->period < 1) return LR_UNSUPPORTED;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        by_type(p->z_dtype, [&](auto* other) {
            using Z = std::remove_pointer_t<decltype(other)>;
            const Z* z = static_cast<const Z*>(p->z);
            lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
                int64_t j = i0 % p->period;
                for (int64_t i = i0; i < i1;) {
                    const int64_t run = p->period - j < i1 - i ? p->period - j : i1 - i;
                    int64_t e = 0;
                    for (; e + Lanes <= run; e += Lanes) store(y + i + e, f(load(x + i + e), load(z + j + e)));
                    for (; e < run; ++e) narrow(f(splat(widen(x[i + e])), splat(widen(z[j + e])))[0], y[i + e]);
                    i += run;
                    j = 0;
                }
            });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// dx[i] (+)= fx(dy, z); dz[j] (+)= factor sum over i = j mod period of fz(dy, x)
template <class Fx, class Fz> int32_t binary_grad(const BinaryGradArgs* p, float factor, Fx&& fx, Fz&& fz) {
    if ((p->z_dtype != p->dtype && p->z_dtype != LR_F32) || p->period < 1) return LR_UNSUPPORTED;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        by_type(p->z_dtype, [&](auto* other) {
            using Z = std::remove_pointer_t<decltype(other)>;
            const Z* z = static_cast<const Z*>(p->z);
            Z* dz = static_cast<Z*>(p->dz);
            if (dx)
                lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
                    int64_t j = i0 % p->period;
                    for (int64_t i = i0; i < i1; ++i) {
                        put(dx + i, fx(widen(dy[i]), z ? widen(z[j]) : 0.0f), p->add & 1);
                        j = j + 1 == p->period ? 0 : j + 1;
                    }
                });
            if (dz)
                lr::parallel_range(p->period, p->count / p->period, [&](int64_t j0, int64_t j1) {
                    float sums[256];
                    for (int64_t b = j0; b < j1; b += 256) {
                        const int64_t width = j1 - b < 256 ? j1 - b : 256;
                        for (int64_t e = 0; e < width; ++e) sums[e] = 0;
                        for (int64_t i = b; i < p->count; i += p->period)
                            for (int64_t e = 0; e < width; ++e) sums[e] += fz(widen(dy[i + e]), x ? widen(x[i + e]) : 0.0f);
                        for (int64_t e = 0; e < width; ++e) put(dz + b + e, factor * sums[e], p->add >> 1 & 1);
                    }
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

int32_t add_forward(const BinaryArgs* p) {
    const vf alpha = splat(float(p->alpha));
    return binary(p, [alpha](vf x, vf z) { return fma(alpha, z, x); });
}
int32_t mul_forward(const BinaryArgs* p) {
    return binary(p, [](vf x, vf z) { return x * z; });
}
int32_t add_backward(const BinaryGradArgs* p) {
    return binary_grad(p, float(p->alpha), [](float dy, float) { return dy; }, [](float dy, float) { return dy; });
}
int32_t mul_backward(const BinaryGradArgs* p) {
    return binary_grad(p, 1.0f, [](float dy, float z) { return dy * z; }, [](float dy, float x) { return dy * x; });
}

int32_t scale_rows_forward(const ScaleRowsArgs* p) {
    const float* c = static_cast<const float*>(p->c);
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range(p->rows, p->cols, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r)
                for (int64_t i = r * p->cols; i < (r + 1) * p->cols; ++i) narrow(c[r] * widen(x[i]), y[i]);
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t scale_rows_backward(const ScaleRowsGradArgs* p) {
    const float* c = static_cast<const float*>(p->c);
    float* dc = static_cast<float*>(p->dc);
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T *x = static_cast<const T*>(p->x), *dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        lr::parallel_range(p->rows, p->cols, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                double dot = 0;
                for (int64_t i = r * p->cols; i < (r + 1) * p->cols; ++i) {
                    dot += double(widen(dy[i])) * widen(x[i]);
                    if (dx) put(dx + i, c[r] * widen(dy[i]), p->add & 1);
                }
                if (dc) put(dc + r, float(dot), p->add >> 1 & 1);
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// Philox4x32-10: key = seed (low, high); counter = (index/4 low, high, stream low, high); lane = index mod 4; uniform = (u32 >> 8) 2^-24
int32_t dropout(const DropoutArgs* p) {
    const float keep = float(p->p), scale = float(1 / (1 - p->p));
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range((p->count + 3) / 4, 64, [&](int64_t b0, int64_t b1) {
            for (int64_t block = b0; block < b1; ++block) {
                uint32_t c[4] = {uint32_t(block), uint32_t(uint64_t(block) >> 32), uint32_t(p->stream), uint32_t(p->stream >> 32)};
                uint32_t k0 = uint32_t(p->seed), k1 = uint32_t(p->seed >> 32);
                for (int round = 0; round < 10; ++round) {
                    const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
                    const uint32_t n0 = uint32_t(p1 >> 32) ^ c[1] ^ k0, n2 = uint32_t(p0 >> 32) ^ c[3] ^ k1;
                    c[0] = n0, c[1] = uint32_t(p1), c[2] = n2, c[3] = uint32_t(p0);
                    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
                }
                for (int64_t i = 4 * block; i < 4 * block + 4 && i < p->count; ++i)
                    put(y + i, float(c[i & 3] >> 8) * 0x1p-24f >= keep ? widen(x[i]) * scale : 0.0f, p->add & 1);
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t convert(const ConvertArgs* p) {
    if (p->to != LR_F32 && p->to != LR_BF16) return LR_UNSUPPORTED;
    const bool known = by_type(p->from, [&](auto* from) {
        using From = std::remove_pointer_t<decltype(from)>;
        const From* x = static_cast<const From*>(p->x);
        by_type(p->to, [&](auto* to) {
            using To = std::remove_pointer_t<decltype(to)>;
            To* y = static_cast<To*>(p->y);
            lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) narrow(widen(x[i]), y[i]); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t fill(const FillArgs* p) {
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* y = static_cast<T*>(p->y);
        T value;
        narrow(float(p->value), value);
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) y[i] = value; });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
