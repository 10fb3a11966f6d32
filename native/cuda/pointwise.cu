// Elementwise kernels. Floor: each operand read once, the result written once, at copy bandwidth (H100: 3.0 TB/s); 16 bytes a thread and operand.
#include "common.cuh"

// f(group) for every group of an array of count elements
template <class F> LR_DEV void lr_groups(int64_t count, F f) {
    const int64_t groups = (count + Lanes - 1) / Lanes;
    for (int64_t g = int64_t(LR_BX) * 256 + LR_TID; g < groups; g += int64_t(LR_GX) * 256) f(g);
}

// ---- unary ---------------------------------------------------------------------------------------------------------------
struct Gelu {
    LR_DEV float at(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
    LR_DEV float slope(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x); }
};
struct GeluTanh {
    LR_DEV float inner(float x) { return 0.79788456f * (x + 0.044715f * x * x * x); }
    LR_DEV float at(float x) { return 0.5f * x * (1.0f + tanhf(inner(x))); }
    LR_DEV float slope(float x) {
        const float t = tanhf(inner(x));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * x * x);
    }
};
struct Tanh {
    LR_DEV float at(float x) { return tanhf(x); }
    LR_DEV float slope(float x) {
        const float t = tanhf(x);
        return 1.0f - t * t;
    }
};
struct Relu {
    LR_DEV float at(float x) { return x < 0 ? 0 : x; }
    LR_DEV float slope(float x) { return x > 0 ? 1 : 0; }
};
struct Sigmoid {
    LR_DEV float at(float x) { return 1.0f / (1.0f + expf(-x)); }
    LR_DEV float slope(float x) {
        const float s = at(x);
        return s * (1.0f - s);
    }
};

struct Exp {
    LR_DEV float at(float x) { return expf(x); }
    LR_DEV float slope(float x) { return expf(x); }
};
struct Silu {
    LR_DEV float at(float x) { return x * Sigmoid::at(x); }
    LR_DEV float slope(float x) {
        const float s = Sigmoid::at(x);
        return lr_fma(x * s, 1.0f - s, s);
    }
};
struct Sqrt { // slope 0 at 0
    LR_DEV float at(float x) { return sqrtf(x); }
    LR_DEV float slope(float x) { return x == 0 ? 0 : 0.5f / sqrtf(x); }
};
struct QuickGelu {
    LR_DEV float at(float x) { return x * Sigmoid::at(1.702f * x); }
    LR_DEV float slope(float x) {
        const float s = Sigmoid::at(1.702f * x);
        return lr_fma(1.702f * x * s, 1.0f - s, s);
    }
};

template <class F> LR_DEV void lr_unary(const UnaryArgs& p) {
    const scalar* x = static_cast<const scalar*>(p.x);
    scalar* y = static_cast<scalar*>(p.y);
    const bool whole = lr_aligned(x) && lr_aligned(y);
    lr_groups(p.count, [&](int64_t g) {
        float v[Lanes];
        const int have = lr_group(g, p.count);
        lr_get(x + g * Lanes, have, whole, v);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) v[e] = F::at(v[e]);
        lr_set(y + g * Lanes, have, whole, v, false);
    });
}
template <class F> LR_DEV void lr_unary_grad(const UnaryGradArgs& p) {
    const scalar *x = static_cast<const scalar*>(p.x), *dy = static_cast<const scalar*>(p.dy);
    scalar* dx = static_cast<scalar*>(p.dx);
    const bool whole = lr_aligned(x) && lr_aligned(dy) && lr_aligned(dx);
    lr_groups(p.count, [&](int64_t g) {
        float v[Lanes], up[Lanes];
        const int have = lr_group(g, p.count);
        lr_get(x + g * Lanes, have, whole, v);
        lr_get(dy + g * Lanes, have, whole, up);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) v[e] = up[e] * F::slope(v[e]);
        lr_set(dx + g * Lanes, have, whole, v, p.add & 1);
    });
}
#define LR_UNARY(name, F) \
    LR_KERNEL(name##_forward, UnaryArgs, 256, 4) { lr_unary<F>(p); } \
    LR_KERNEL(name##_backward, UnaryGradArgs, 256, 4) { lr_unary_grad<F>(p); }
LR_UNARY(gelu, Gelu)
LR_UNARY(gelu_tanh, GeluTanh)
LR_UNARY(tanh, Tanh)
LR_UNARY(relu, Relu)
LR_UNARY(sigmoid, Sigmoid)
LR_UNARY(exp, Exp)
LR_UNARY(silu, Silu)
LR_UNARY(quick_gelu, QuickGelu)
LR_UNARY(sqrt, Sqrt)

// ---- binary with a repeated second operand ---------------------------------------------------------------------------------
LR_DEV float lr_second(const void* z, int32_t dtype, int64_t i) { return dtype == LR_F32 ? static_cast<const float*>(z)[i] : lr_widen(static_cast<const scalar*>(z)[i]); }

// y[i] (+)= f(x[i], z[i % period]); z may be null
template <class F> LR_DEV void lr_binary(const void* x0, const void* z, int32_t z_dtype, void* y0, int64_t count, int64_t period, bool add, F f) {
    const scalar* x = static_cast<const scalar*>(x0);
    scalar* y = static_cast<scalar*>(y0);
    const bool whole = lr_aligned(x) && lr_aligned(y), vectors = period % Lanes == 0 && lr_aligned(z);
    lr_groups(count, [&](int64_t g) {
        float v[Lanes], w[Lanes] = {};
        const int have = lr_group(g, count);
        lr_get(x + g * Lanes, have, whole, v);
        int64_t j = period == count ? g * Lanes : g * Lanes % period;
        if (z && vectors) {
            if (z_dtype == LR_F32) lr_get(static_cast<const float*>(z) + j, have, true, w);
            else lr_get(static_cast<const scalar*>(z) + j, have, true, w);
        } else if (z)
            LR_UNROLL
            for (int e = 0; e < Lanes; ++e) {
                if (e < have) w[e] = lr_second(z, z_dtype, j);
                j = j + 1 == period ? 0 : j + 1;
            }
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) v[e] = f(v[e], w[e]);
        lr_set(y + g * Lanes, have, whole, v, add);
    });
}
template <class F> LR_DEV void lr_binary(const BinaryArgs& p, F f) { lr_binary(p.x, p.z, p.z_dtype, p.y, p.count, p.period, false, f); }
LR_KERNEL(add_forward, BinaryArgs, 256, 4) {
    const float alpha = static_cast<float>(p.alpha);
    lr_binary(p, [alpha](float x, float z) { return lr_fma(alpha, z, x); });
}
LR_KERNEL(mul_forward, BinaryArgs, 256, 4) {
    lr_binary(p, [](float x, float z) { return x * z; });
}

// y = f(x) z and its gradients: x, z, dy of one size and type
template <class F> LR_DEV void lr_gated_grad(const BinaryGradArgs& p) {
    const scalar *x = static_cast<const scalar*>(p.x), *z = static_cast<const scalar*>(p.z), *dy = static_cast<const scalar*>(p.dy);
    scalar *dx = static_cast<scalar*>(p.dx), *dz = static_cast<scalar*>(p.dz);
    const bool whole = lr_aligned(x) && lr_aligned(z) && lr_aligned(dy) && lr_aligned(dx) && lr_aligned(dz);
    lr_groups(p.count, [&](int64_t g) {
        float gate[Lanes], other[Lanes], up[Lanes];
        const int have = lr_group(g, p.count);
        lr_get(x + g * Lanes, have, whole, gate);
        lr_get(z + g * Lanes, have, whole, other);
        lr_get(dy + g * Lanes, have, whole, up);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            other[e] *= up[e] * F::slope(gate[e]);
            up[e] *= F::at(gate[e]);
        }
        if (dx) lr_set(dx + g * Lanes, have, whole, other, p.add & 1);
        if (dz) lr_set(dz + g * Lanes, have, whole, up, p.add >> 1 & 1);
    });
}
#define LR_GATED(name, F) \
    LR_KERNEL(name##_mul_forward, BinaryArgs, 256, 4) { \
        lr_binary(p, [](float x, float z) { return F::at(x) * z; }); \
    } \
    LR_KERNEL(name##_mul_backward, BinaryGradArgs, 256, 4) { lr_gated_grad<F>(p); }
LR_GATED(silu, Silu)
LR_GATED(gelu_tanh, GeluTanh)

// dx[i] (+)= dy[i], or dy[i] z[i % period]
LR_KERNEL(add_backward_x, BinaryGradArgs, 256, 4) {
    lr_binary(p.dy, nullptr, LR_F32, p.dx, p.count, p.count, p.add & 1, [](float dy, float) { return dy; });
}
LR_KERNEL(mul_backward_x, BinaryGradArgs, 256, 4) {
    lr_binary(p.dy, p.z, p.z_dtype, p.dx, p.count, p.period, p.add & 1, [](float dy, float z) { return dy * z; });
}

// dz[j] (+)= factor sum over repeats of dy, or of dy x: a block owns 32 columns j, 8 rows of threads take every eighth repeat
LR_DEV void lr_binary_dz(const BinaryGradArgs& p, bool times, float factor) {
    const scalar *x = static_cast<const scalar*>(p.x), *dy = static_cast<const scalar*>(p.dy);
    const int col = LR_TID % 32, row = LR_TID / 32;
    const int64_t j = int64_t(LR_BX) * 32 + col;
    float sum = 0;
    if (j < p.period)
        for (int64_t i = row * p.period + j; i < p.count; i += 8 * p.period) sum += times ? lr_widen(dy[i]) * lr_widen(x[i]) : lr_widen(dy[i]);
    const float total = lr_column_sum(sum, reinterpret_cast<float*>(LR_SMEM)); // [8][32]
    if (row > 0 || j >= p.period) return;
    if (p.z_dtype == LR_F32) lr_put(static_cast<float*>(p.dz) + j, factor * total, p.add >> 1 & 1);
    else lr_put(static_cast<scalar*>(p.dz) + j, factor * total, p.add >> 1 & 1);
}
LR_KERNEL(add_backward_z, BinaryGradArgs, 256, 4) { lr_binary_dz(p, false, static_cast<float>(p.alpha)); }
LR_KERNEL(mul_backward_z, BinaryGradArgs, 256, 4) { lr_binary_dz(p, true, 1); }

// ---- rows --------------------------------------------------------------------------------------------------------------------
LR_KERNEL(scale_rows_forward, ScaleRowsArgs, 256, 4) {
    const float c = static_cast<const float*>(p.c)[LR_BX];
    const scalar* x = static_cast<const scalar*>(p.x) + int64_t(LR_BX) * p.cols;
    scalar* y = static_cast<scalar*>(p.y) + int64_t(LR_BX) * p.cols;
    const bool whole = lr_aligned(x) && lr_aligned(y);
    for (int g = LR_TID; g * Lanes < p.cols; g += 256) {
        float v[Lanes];
        lr_get(x + g * Lanes, lr_group(g, p.cols), whole, v);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) v[e] *= c;
        lr_set(y + g * Lanes, lr_group(g, p.cols), whole, v, false);
    }
}
LR_KERNEL(scale_rows_backward, ScaleRowsGradArgs, 256, 4) {
    const float scale = static_cast<const float*>(p.c)[LR_BX];
    const scalar *x = static_cast<const scalar*>(p.x) + int64_t(LR_BX) * p.cols, *dy = static_cast<const scalar*>(p.dy) + int64_t(LR_BX) * p.cols;
    scalar* dx = p.dx ? static_cast<scalar*>(p.dx) + int64_t(LR_BX) * p.cols : nullptr;
    const bool whole = lr_aligned(x) && lr_aligned(dy) && lr_aligned(dx);
    float dot = 0;
    for (int g = LR_TID; g * Lanes < p.cols; g += 256) {
        float v[Lanes] = {}, up[Lanes];
        lr_get(dy + g * Lanes, lr_group(g, p.cols), whole, up);
        if (p.dc) lr_get(x + g * Lanes, lr_group(g, p.cols), whole, v);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            dot = lr_fma(up[e], v[e], dot);
            up[e] *= scale;
        }
        if (dx) lr_set(dx + g * Lanes, lr_group(g, p.cols), whole, up, p.add & 1);
    }
    dot = lr_block_sum<256>(dot, reinterpret_cast<float*>(LR_SMEM));
    if (p.dc && LR_TID == 0) lr_put(static_cast<float*>(p.dc) + LR_BX, dot, p.add >> 1 & 1);
}

// ---- dropout: Philox4x32-10 as lowrank.h says; a thread owns the four elements of a counter ---------------------------------------
LR_KERNEL(dropout, DropoutArgs, 256, 4) {
    const float drop = static_cast<float>(p.p), scale = static_cast<float>(1 / (1 - p.p));
    const scalar* x = static_cast<const scalar*>(p.x);
    scalar* y = static_cast<scalar*>(p.y);
    for (int64_t block = int64_t(LR_BX) * 256 + LR_TID; 4 * block < p.count; block += int64_t(LR_GX) * 256) {
        uint32_t c[4];
        lr_philox(static_cast<uint64_t>(block), p.seed, p.stream, c);
        LR_UNROLL
        for (int e = 0; e < 4; ++e) {
            const int64_t i = 4 * block + e;
            if (i < p.count) lr_put(y + i, static_cast<float>(c[e] >> 8) * 5.9604645e-8f >= drop ? lr_widen(x[i]) * scale : 0.0f, p.add & 1);
        }
    }
}

// ---- types: `scalar` is the type of y ------------------------------------------------------------------------------------------------
LR_KERNEL(convert, ConvertArgs, 256, 4) {
    scalar* y = static_cast<scalar*>(p.y);
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.count; i += int64_t(LR_GX) * 256) {
        const float v = p.from == LR_F32 ? static_cast<const float*>(p.x)[i] : p.from == LR_BF16 ? lr_widen(static_cast<const bf16*>(p.x)[i]) : lr_widen(static_cast<const f16*>(p.x)[i]);
        lr_narrow(v, y[i]);
    }
}
LR_KERNEL(fill, FillArgs, 256, 4) {
    scalar value;
    lr_narrow(static_cast<float>(p.value), value);
    scalar* y = static_cast<scalar*>(p.y);
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.count; i += int64_t(LR_GX) * 256) y[i] = value;
}
