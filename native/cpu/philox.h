// Philox4x32-10 on vectors: key = seed (low, high); counter = (index/4 low, high, stream low, high); lane = index mod 4; uniform = (u32 >> 8) 2^-24.
#pragma once
#include "vectors.h"

namespace LR_NS {

constexpr int Counters = Lanes / 2; // counters side by side, each 32-bit word in a 64-bit lane; what a product leaves in the upper half does no harm
constexpr int64_t DrawGroup = 4 * Counters;
typedef uint64_t vwide __attribute__((vector_size(Lanes * 4)));

LR_INLINE vwide times(vwide a, uint32_t m) { // low halves of the lanes, 64-bit products
#if defined(__AVX512F__)
    return (vwide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (vwide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
    return (a & 0xFFFFFFFFu) * uint64_t(m);
#endif
}

// The numbers of elements 4 block .. 4 block + DrawGroup - 1, in [0, 1)
LR_INLINE void uniforms(uint64_t block, uint64_t seed, uint64_t stream, float* out) {
    vwide c0, c1;
    for (int i = 0; i < Counters; ++i) c0[i] = (block + i) & 0xFFFFFFFFu, c1[i] = (block + i) >> 32;
    vwide c2 = vwide{} + (stream & 0xFFFFFFFFu), c3 = vwide{} + (stream >> 32);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const vwide p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0);
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1);
        c3 = p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const vwide first = (c0 & 0xFFFFFFFFu) | c1 << 32, second = (c2 & 0xFFFFFFFFu) | c3 << 32; // words 0, 1 and 2, 3 of every counter
    uint64_t pairs[2 * Counters];
    for (int i = 0; i < Counters; ++i) pairs[2 * i] = first[i], pairs[2 * i + 1] = second[i];
    for (int i = 0; i < 2; ++i) {
        vi u;
        memcpy(&u, pairs + i * Lanes / 2, sizeof u);
        store(out + i * Lanes, __builtin_convertvector(u >> 8 & 0xFFFFFF, vf) * splat(0x1p-24f));
    }
}

} // namespace LR_NS
