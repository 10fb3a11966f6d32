// Elementary functions on vectors, float32, relative errors of a few units in the last place (stated at each); NaN stays NaN.
#pragma once
#include "vectors.h"

namespace LR_NS {

// max(low, x) and min(high, x); NaN in x stays
LR_INLINE vf at_least(vf low, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)low, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)low, (__m256)x);
#else
    return low > x ? low : x;
#endif
}
LR_INLINE vf at_most(vf high, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)high, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)high, (__m256)x);
#else
    return high < x ? high : x;
#endif
}
LR_INLINE vf magnitude(vf x) { return as_float(as_int(x) & 0x7FFFFFFF); }

// 1/x for finite x away from 0 and from the denormals, 1 ulp: where division is slow, an estimate of 14 bits and a Newton step
LR_INLINE vf reciprocal(vf x) {
#if defined(__AVX512F__)
    const vf r = (vf)_mm512_rcp14_ps((__m512)x);
    return fma(r, fma(-x, r, splat(1.0f)), r);
#else
    return splat(1.0f) / x;
#endif
}

LR_INLINE vf vsqrt(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < Lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// Largest lane; lanes that are NaN are passed over
LR_INLINE float largest(vf v) {
    float m = v[0];
    for (int i = 1; i < Lanes; ++i) m = v[i] > m ? v[i] : m;
    return m;
}

// e^x, 2 ulp; 0 below -87.33 (no denormals), inf above 88.73
LR_INLINE vf vexp(vf x) {
    const vf low = splat(-87.33f), c = at_least(low, at_most(splat(88.9f), x));
#if defined(__AVX512F__)
    const vf n = (vf)_mm512_roundscale_ps((__m512)(c * splat(1.44269504f)), 8);
#else
    const vf magic = splat(12582912.0f), n = (fma(c, splat(1.44269504f), magic)) - magic; // 1.5 2^23 leaves the integer in the low bits
#endif
    const vf r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), c)); // ln 2 in two parts
    vf y = splat(1.9875691500e-4f);
    y = fma(y, r, splat(1.3981999507e-3f));
    y = fma(y, r, splat(8.3334519073e-3f));
    y = fma(y, r, splat(4.1665795894e-2f));
    y = fma(y, r, splat(1.6666665459e-1f));
    y = fma(y, r, splat(5.0000001201e-1f));
    y = fma(y, r * r, r) + splat(1.0f);
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)low, _CMP_NLT_UQ), (__m512)y, (__m512)n);
#else
    const vi e = __builtin_convertvector(n == n ? n : vf{}, vi), half = e >> 1; // 2^n in two factors, so that n = 128 does not overflow on the way
    y = y * as_float((half + 127) << 23) * as_float((e - half + 127) << 23);
    return x < low ? vf{} : y;
#endif
}

// log x for normal x > 0, 2 ulp, near 1 of x - 1: x = 2^e (1 + f) with 1 + f between the roots of 1/2 and 2
LR_INLINE vf vlog(vf x) {
    const vi e = (as_int(x) - 0x3F3504F3) >> 23;
    const vf n = __builtin_convertvector(e, vf), f = as_float(as_int(x) - (e << 23)) - splat(1.0f), z = f * f;
    vf p = splat(7.0376836292e-2f);
    p = fma(p, f, splat(-1.1514610310e-1f));
    p = fma(p, f, splat(1.1676998740e-1f));
    p = fma(p, f, splat(-1.2420140846e-1f));
    p = fma(p, f, splat(1.4249322787e-1f));
    p = fma(p, f, splat(-1.6668057665e-1f));
    p = fma(p, f, splat(2.0000714765e-1f));
    p = fma(p, f, splat(-2.4999993993e-1f));
    p = fma(p, f, splat(3.3333331174e-1f));
    const vf low = fma(n, splat(-2.12194440e-4f), fma(p * f, z, splat(-0.5f) * z));
    return fma(n, splat(0.693359375f), f + low);
}

// tanh x, 3 ulp: odd polynomial below 0.3, else (1 - e^-2x)/(1 + e^-2x)
LR_INLINE vf vtanh(vf x) {
    const vf a = magnitude(x), z = x * x;
    vf p = splat(-0.00886323553f);
    p = fma(p, z, splat(0.0218694885f));
    p = fma(p, z, splat(-0.0539682540f));
    p = fma(p, z, splat(0.133333333f));
    p = fma(p, z, splat(-0.333333333f));
    const vf t = vexp(a * splat(-2.0f)), large = (splat(1.0f) - t) * reciprocal(splat(1.0f) + t);
    return a < splat(0.3f) ? fma(p * z, x, x) : as_float(as_int(large) | (as_int(x) & int32_t(0x80000000)));
}

// z = cap tanh(x/cap), or x itself, and dz/dx by z
template <bool On> struct SoftCap {
    float cap;
    LR_INLINE vf of(vf x) const {
        if constexpr (On) return splat(cap) * vtanh(splat(1 / cap) * x);
        return x;
    }
    LR_INLINE vf slope(vf z) const {
        if constexpr (!On) return splat(1.0f);
        const vf t = splat(1 / cap) * z;
        return (splat(1.0f) - t) * (splat(1.0f) + t);
    }
};
// f of the cap that is wanted; 0: none
template <class F> LR_INLINE void by_cap(double cap, F&& f) {
    if (cap > 0) f(SoftCap<true>{float(cap)});
    else f(SoftCap<false>{});
}

// 1/(1 + e^-x), 3 ulp
LR_INLINE vf vsigmoid(vf x) { return reciprocal(splat(1.0f) + vexp(at_most(splat(87.0f), -x))); }

// Normal distribution function by erfc's rational-exponential form (Abramowitz & Stegun 7.1.26, absolute error 1.5e-7), and its density
LR_INLINE void normal(vf x, vf& phi, vf& density) {
    const vf z = at_most(splat(10.0f), magnitude(x) * splat(0.70710678f));
    const vf e = vexp(-z * z);
    const vf t = reciprocal(fma(splat(0.3275911f), z, splat(1.0f)));
    vf p = splat(0.5f * 1.061405429f);
    p = fma(p, t, splat(0.5f * -1.453152027f));
    p = fma(p, t, splat(0.5f * 1.421413741f));
    p = fma(p, t, splat(0.5f * -0.284496736f));
    p = fma(p, t, splat(0.5f * 0.254829592f));
    const vf tail = p * t * e;
    phi = x < vf{} ? tail : splat(1.0f) - tail;
    density = splat(0.39894228f) * e;
}

} // namespace LR_NS
