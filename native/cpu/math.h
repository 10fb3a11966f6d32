// Elementary functions on vectors, float32, relative errors of a few units in the last place (stated at each).
#pragma once
#include "simd.h"

namespace LR_NS {

LR_INLINE vf round_nearest(vf x) { // |x| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits
    const vf magic = splat(12582912.0f);
    return (x + magic) - magic;
}

// e^x, 2 ulp; 0 below -87.3 (no denormals), inf above 88.7, NaN stays
LR_INLINE vf vexp(vf x) {
    const vf low = splat(-87.33f), high = splat(88.72f);
    const vf clamped = select(x < low, low, select(x > high, high, x));
    const vf n = round_nearest(clamped * splat(1.44269504f));
    const vf r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), clamped)); // ln 2 in two parts
    vf y = splat(1.9875691500e-4f);
    y = fma(y, r, splat(1.3981999507e-3f));
    y = fma(y, r, splat(8.3334519073e-3f));
    y = fma(y, r, splat(4.1665795894e-2f));
    y = fma(y, r, splat(1.6666665459e-1f));
    y = fma(y, r, splat(5.0000001201e-1f));
    y = fma(y, r * r, r) + splat(1.0f);
    vi e;
    for (int i = 0; i < Lanes; ++i) e[i] = int32_t(n[i]);
    const vi half = e >> 1; // 2^n in two factors, so that n = 128 does not overflow on the way
    y = y * as_float((half + 127) << 23) * as_float((e - half + 127) << 23);
    y = select(x > high, splat(__builtin_inff()), select(x < low, vf{}, y));
    return select(x != x, x, y);
}

// tanh x, 3 ulp: odd polynomial below 0.3, else 1 - 2/(e^2x + 1)
LR_INLINE vf vtanh(vf x) {
    const vf a = select(x < vf{}, -x, x), z = x * x;
    vf p = splat(-0.00886323553f);
    p = fma(p, z, splat(0.0218694885f));
    p = fma(p, z, splat(-0.0539682540f));
    p = fma(p, z, splat(0.133333333f));
    p = fma(p, z, splat(-0.333333333f));
    const vf small = fma(p * z, x, x);
    const vf large = splat(1.0f) - splat(2.0f) / (vexp(a + a) + splat(1.0f));
    const vf y = select(a < splat(0.3f), small, select(x < vf{}, -large, large));
    return select(x != x, x, y);
}

LR_INLINE vf vsigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + vexp(-x)); }

// Normal distribution function by erfc's rational-exponential form (Abramowitz & Stegun 7.1.26, absolute error 1.5e-7), and its density
LR_INLINE void normal(vf x, vf& phi, vf& density) {
    const vf z = select(x < vf{}, -x, x) * splat(0.70710678f);
    const vf e = vexp(-z * z);
    const vf t = splat(1.0f) / fma(splat(0.3275911f), z, splat(1.0f));
    vf p = splat(1.061405429f);
    p = fma(p, t, splat(-1.453152027f));
    p = fma(p, t, splat(1.421413741f));
    p = fma(p, t, splat(-0.284496736f));
    p = fma(p, t, splat(0.254829592f));
    const vf tail = splat(0.5f) * p * t * e;
    phi = select(x < vf{}, tail, splat(1.0f) - tail);
    density = splat(0.39894228f) * e;
}

} // namespace LR_NS
