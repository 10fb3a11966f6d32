// What the kernels other than the products share: half floats, and walks over ragged lengths.
#pragma once
#include "simd.h"

namespace LR_NS {

struct f16 { uint16_t bits; };

#if defined(__F16C__)
LR_INLINE float widen(f16 x) { return _cvtsh_ss(x.bits); }
LR_INLINE void narrow(float x, f16& y) { y.bits = uint16_t(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT))); }
#else
LR_INLINE float widen(f16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7FFF;
    float f;
    if (rest < 0x400) { // 0 and denormals: a multiple of 2^-24
        f = float(rest) * 0x1p-24f;
        return sign ? -f : f;
    }
    const uint32_t u = sign | ((rest << 13) + (rest >= 0x7C00 ? uint32_t(255 - 31) << 23 : uint32_t(127 - 15) << 23)) | (rest > 0x7C00 ? 0x400000u : 0);
    memcpy(&f, &u, 4);
    return f;
}
LR_INLINE void narrow(float x, f16& y) { // nearest even; NaN stays a quiet NaN
    uint32_t u;
    memcpy(&u, &x, 4);
    const uint32_t sign = u >> 16 & 0x8000, rest = u & 0x7FFFFFFF;
    uint32_t h;
    if (rest > 0x7F800000) h = 0x7E00 | (rest >> 13 & 0x1FF);
    else if (rest >= 0x477FF000) h = 0x7C00; // 65520 and above round to infinity
    else if (rest < 0x38800000) {            // below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded
        float a;
        memcpy(&a, &rest, 4);
        a += 0.5f;
        memcpy(&h, &a, 4);
        h -= 0x3F000000;
    } else h = (rest - (uint32_t(127 - 15) << 23) + 0xFFF + (rest >> 13 & 1)) >> 13;
    y.bits = uint16_t(sign | h);
}
#endif

LR_INLINE vf load(const f16* p) {
#if defined(__AVX512F__)
    __m256i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm512_cvtph_ps(h);
#elif defined(__F16C__)
    __m128i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm256_cvtph_ps(h);
#else
    vf v;
    for (int i = 0; i < Lanes; ++i) v[i] = widen(p[i]);
    return v;
#endif
}
LR_INLINE void store(f16* p, vf v) {
#if defined(__AVX512F__)
    const __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &h, sizeof h);
#elif defined(__F16C__)
    const __m128i h = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &h, sizeof h);
#else
    for (int i = 0; i < Lanes; ++i) narrow(v[i], p[i]);
#endif
}

LR_INLINE vf load_some(const f16* p, int64_t count) {
    f16 whole[Lanes] = {};
    memcpy(whole, p, size_t(count) * sizeof(f16));
    return load(whole);
}
LR_INLINE void store_some(f16* p, vf v, int64_t count) {
    f16 whole[Lanes];
    store(whole, v);
    memcpy(p, whole, size_t(count) * sizeof(f16));
}

// Calls f with a null pointer of a floating type's storage, F32, BF16 or F16; false for the others.
template <class F> LR_INLINE bool by_float(int32_t dtype, F&& f) {
    if (dtype == 1) f(static_cast<float*>(nullptr));
    else if (dtype == 2) f(static_cast<bf16*>(nullptr));
    else if (dtype == 3) f(static_cast<f16*>(nullptr));
    else return false;
    return true;
}

// Where a walk stands: a whole vector of elements, or the last `n` of them, padded with zeros
struct Whole {
    int64_t i;
    static constexpr int n = Lanes;
    template <class T> LR_INLINE vf get(const T* p) const { return load(p + i); }
    template <class T> LR_INLINE void set(T* p, vf v) const { store(p + i, v); }
    template <class T> LR_INLINE void put(T* p, vf v, bool add) const { set(p, add ? get(p) + v : v); }
};
struct Part {
    int64_t i;
    int n;
    template <class T> LR_INLINE vf get(const T* p) const { return load_some(p + i, n); }
    template <class T> LR_INLINE void set(T* p, vf v) const { store_some(p + i, v, n); }
    template <class T> LR_INLINE void put(T* p, vf v, bool add) const { set(p, add ? get(p) + v : v); }
};
// f(place) for the elements [begin, end)
template <class F> LR_INLINE void sweep(int64_t begin, int64_t end, F&& f) {
    int64_t i = begin;
    for (; i + Lanes <= end; i += Lanes) f(Whole{i});
    if (i < end) f(Part{i, int(end - i)});
}
// f(place, chain), the chains 0 .. N-1 in turn: so many sums that do not wait for each other
template <int N, class F> LR_INLINE void fan(int64_t begin, int64_t end, F&& f) {
    int64_t i = begin;
    for (; i + N * Lanes <= end; i += N * Lanes) unroll<N>([&](auto chain) LR_LAMBDA { f(Whole{i + chain * Lanes}, chain); });
    sweep(i, end, [&](auto at) LR_LAMBDA { f(at, std::integral_constant<int, 0>{}); });
}
template <int N> LR_INLINE vf gathered(const vf (&chains)[N]) {
    vf total = chains[0];
    for (int i = 1; i < N; ++i) total = total + chains[i];
    return total;
}
// v with zeros past the end of a part
LR_INLINE vf within(Whole, vf v) { return v; }
LR_INLINE vf within(Part at, vf v) {
    for (int i = at.n; i < Lanes; ++i) v[i] = 0;
    return v;
}

} // namespace LR_NS
