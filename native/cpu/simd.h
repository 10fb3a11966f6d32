// Vectors of the instruction set this file is compiled for: `vf` of `Lanes` floats. LR_NS is the namespace of that set.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef LR_NS
#define LR_NS lr_portable
#endif

namespace LR_NS {

#if defined(__AVX512F__)
constexpr int Lanes = 16;
#elif defined(__AVX2__)
constexpr int Lanes = 8;
#else
constexpr int Lanes = 4;
#endif

typedef float vf __attribute__((vector_size(Lanes * 4)));
typedef int32_t vi __attribute__((vector_size(Lanes * 4)));
typedef uint32_t vu __attribute__((vector_size(Lanes * 4)));
typedef int16_t words __attribute__((vector_size(Lanes * 4)));

#define LR_INLINE inline __attribute__((always_inline))
#define LR_LAMBDA __attribute__((always_inline))

LR_INLINE vf load(const float* p) { vf v; memcpy(&v, p, sizeof v); return v; }
LR_INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
// Past the caches, to a place that is a multiple of the vector: what is not read soon is neither fetched first nor in the way of what is
LR_INLINE void stream(float* p, vf v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}
// Before others read what was streamed
LR_INLINE void streamed() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}
// All lanes x; not vf{} + x, which would turn -0 into 0 and cost an addition
LR_INLINE vf splat(float x) {
#if defined(__AVX512F__)
    return (vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (vf)_mm256_set1_ps(x);
#else
    return vf{x, x, x, x};
#endif
}
LR_INLINE vf as_float(vi v) { vf r; memcpy(&r, &v, sizeof r); return r; }
LR_INLINE vi as_int(vf v) { vi r; memcpy(&r, &v, sizeof r); return r; }
LR_INLINE vf select(vi mask, vf yes, vf no) { return as_float((mask & as_int(yes)) | (~mask & as_int(no))); }
LR_INLINE vf vmax(vf a, vf b) { return select(a > b, a, b); }

// a*b + c, rounded once where the set has FMA
LR_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// All lanes, halves first: short chains of additions
LR_INLINE float sum(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
    const __m128 q = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1)), h = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// f(0), f(1), ... f(N-1), each index a constant
template <int N, class F> LR_INLINE void unroll(F&& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (f(std::integral_constant<int, I>{}), ...); }
    (std::make_integer_sequence<int, N>{});
}

// Two rows of a matrix whose lanes are groups of D: the even groups of both (High false), or the odd ones
template <int D, bool High> LR_INLINE vf squares(vf a, vf b) {
    return [&]<int... L>(std::integer_sequence<int, L...>) LR_LAMBDA {
        return __builtin_shufflevector(a, b, (L / D % 2 == 0 ? L + (High ? D : 0) : Lanes + L - (High ? 0 : D))...);
    }(std::make_integer_sequence<int, Lanes>{});
}

// Lane j of v[i] goes to lane i of v[j]: each round swaps the off-diagonal squares of side D
template <int D = Lanes / 2> LR_INLINE void transpose(vf (&v)[Lanes]) {
    unroll<Lanes / 2>([&](auto h) LR_LAMBDA {
        constexpr int i = h / D * 2 * D + h % D;
        const vf low = squares<D, false>(v[i], v[i + D]), high = squares<D, true>(v[i], v[i + D]);
        v[i] = low;
        v[i + D] = high;
    });
    if constexpr (D > 1) transpose<D / 2>(v);
}

// Of the 16-bit words of a, then b: those at even places, in order; those at odd places
LR_INLINE vi even_words(vi a, vi b) {
    return [&]<int... L>(std::integer_sequence<int, L...>) LR_LAMBDA { return (vi)__builtin_shufflevector((words)a, (words)b, 2 * L...); }(std::make_integer_sequence<int, 2 * Lanes>{});
}
LR_INLINE vi odd_words(vi a, vi b) {
    return [&]<int... L>(std::integer_sequence<int, L...>) LR_LAMBDA { return (vi)__builtin_shufflevector((words)a, (words)b, 2 * L + 1 ...); }(std::make_integer_sequence<int, 2 * Lanes>{});
}

struct bf16 { uint16_t bits; };

LR_INLINE float widen(float x) { return x; }
LR_INLINE float widen(bf16 x) {
    const uint32_t u = uint32_t(x.bits) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
LR_INLINE void narrow(float x, float& y) { y = x; }
LR_INLINE void narrow(float x, bf16& y) { // nearest even; NaN stays a quiet NaN
    uint32_t u;
    memcpy(&u, &x, 4);
    y.bits = x != x ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

LR_INLINE vf load(const bf16* p) {
#if defined(__AVX512F__)
    __m256i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#elif defined(__AVX2__)
    __m128i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
#else
    vf v;
    for (int i = 0; i < Lanes; ++i) v[i] = widen(p[i]);
    return v;
#endif
}
LR_INLINE void store(bf16* p, vf v) {
#if defined(__AVX512F__)
    const __m512i u = _mm512_castps_si512((__m512)v), even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
    const __m512i bits = _mm512_mask_or_epi32(near, _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    const __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
    memcpy(p, &h, sizeof h);
#else
    const vi u = as_int(v), even = (u >> 16) & 1;
    const vi nan = v != v;
    const vi rounded = (nan & (u | 0x400000)) | (~nan & (u + 0x7FFF + even));
#if defined(__AVX2__)
    const __m256i wide = _mm256_srli_epi32((__m256i)rounded, 16);
    const __m128i h = _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08));
    memcpy(p, &h, sizeof h);
#else
    for (int i = 0; i < Lanes; ++i) p[i].bits = uint16_t(uint32_t(rounded[i]) >> 16);
#endif
#endif
}

// The first `count` lanes, 0 to Lanes; the others are zero, and nothing past them is touched
LR_INLINE vf load_some(const float* p, int64_t count) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
    vf v{};
    memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
    return v;
#endif
}
LR_INLINE void store_some(float* p, vf v, int64_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#else
    memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
#endif
}
LR_INLINE vf load_some(const bf16* p, int64_t count) {
    bf16 whole[Lanes] = {};
    memcpy(whole, p, static_cast<size_t>(count) * sizeof(bf16));
    return load(whole);
}
LR_INLINE void store_some(bf16* p, vf v, int64_t count) {
    bf16 whole[Lanes];
    store(whole, v);
    memcpy(p, whole, static_cast<size_t>(count) * sizeof(bf16));
}

LR_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// y = value, or y += value
template <class T> LR_INLINE void put(T* y, float value, bool add) { narrow(add ? widen(*y) + value : value, *y); }
template <class T> LR_INLINE void put(T* y, vf value, bool add) { store(y, add ? load(y) + value : value); }
template <class T> LR_INLINE void put_some(T* y, vf value, int64_t count, bool add) { store_some(y, add ? load_some(y, count) + value : value, count); }

// Calls f with a null pointer of the activations' type; false where no kernel takes it.
template <class F> LR_INLINE bool by_type(int32_t dtype, F&& f) {
    if (dtype == 1) f(static_cast<float*>(nullptr));
    else if (dtype == 2) f(static_cast<bf16*>(nullptr));
    else return false;
    return true;
}

} // namespace LR_NS
