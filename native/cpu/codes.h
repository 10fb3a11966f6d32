// A quantised matrix, LR_CODES8 or LR_CODES4 (lowrank.h), as vectors of its values.
#pragma once
#include "pack.h"

namespace LR_NS {

struct Codes {
    const float *table, *scales;
    const uint8_t* codes;
    int64_t k, block;
    int shift; // of the block size
    bool four;
    vf low, high; // the table in registers; high: its second half where a vector holds but eight

    Codes(const void* w, int32_t layout, int64_t n, int64_t columns) : table(static_cast<const float*>(w)), k(columns), four(layout == LR_CODES4) {
        int32_t size;
        memcpy(&size, table + 16, sizeof size);
        block = size;
        shift = __builtin_ctz(static_cast<uint32_t>(size));
        codes = static_cast<const uint8_t*>(w) + 128;
        scales = reinterpret_cast<const float*>(codes + ceil_div(four ? ceil_div(n * k, 2) : n * k, 64) * 64);
        low = load(table);
        high = load(table + (Lanes == 8 ? 8 : 0));
    }

    // Values of Lanes 4-bit codes, each in the low bits of its lane; bits above them are of no account
    LR_INLINE vf lookup(vi code) const {
#if defined(__AVX512F__)
        return (vf)_mm512_permutexvar_ps((__m512i)code, (__m512)low);
#elif defined(__AVX2__)
        const __m256 first = _mm256_permutevar8x32_ps((__m256)low, (__m256i)code), second = _mm256_permutevar8x32_ps((__m256)high, (__m256i)code);
        return (vf)_mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32((__m256i)code, 28)));
#else
        vf v;
        for (int i = 0; i < Lanes; ++i) v[i] = table[code[i] & 15];
        return v;
#endif
    }
    // Lanes bytes, each in a lane of its own
    static LR_INLINE vi bytes(const uint8_t* p) {
#if defined(__AVX512F__)
        __m128i b;
        memcpy(&b, p, sizeof b);
        return (vi)_mm512_cvtepu8_epi32(b);
#elif defined(__AVX2__)
        return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
        return vi{p[0], p[1], p[2], p[3]};
#endif
    }
    // Lanes signed bytes as floats
    static LR_INLINE vf signed_bytes(const uint8_t* p) { return __builtin_convertvector((bytes(p) << 24) >> 24, vf); }
    // Lanes codes from Lanes/2 bytes, in order
    LR_INLINE vf nibbles(const uint8_t* p) const {
#if defined(__AVX2__)
        __m128i b = _mm_setzero_si128();
        memcpy(&b, p, Lanes / 2);
        const __m128i order = _mm_unpacklo_epi8(_mm_srli_epi16(b, 4), b); // upper halves first
#if defined(__AVX512F__)
        return lookup((vi)_mm512_cvtepu8_epi32(order));
#else
        return lookup((vi)_mm256_cvtepu8_epi32(order));
#endif
#else
        return lookup(vi{p[0] >> 4, p[0], p[1] >> 4, p[1]});
#endif
    }

    // True where vectors that start at multiples of Lanes lie in one block and on whole bytes
    bool whole() const { return k % Lanes == 0; }
    // Entries [col, col + Lanes) of a row, where whole() and col is a multiple of Lanes
    LR_INLINE vf at(int64_t row, int64_t col) const {
        const int64_t e = row * k + col;
        return four ? splat(scales[e >> shift]) * nibbles(codes + e / 2) : splat(scales[row]) * signed_bytes(codes + e);
    }
    // Entries [col, col + count) of a row anywhere, zeros behind them; count is at most Lanes
    __attribute__((noinline)) vf some(int64_t row, int64_t col, int64_t count) const {
        float values[Lanes] = {};
        for (int64_t i = 0; i < count; ++i) {
            const int64_t e = row * k + col + i;
            values[i] = four ? scales[e >> shift] * table[codes[e / 2] >> (e % 2 ? 0 : 4) & 15] : scales[row] * static_cast<float>(static_cast<int8_t>(codes[e]));
        }
        return load(values);
    }
};

constexpr int64_t FewTokens = 6;
// lora_forward of a few tokens, the codes streamed once
int32_t coded_forward(const LoraArgs* p);

} // namespace LR_NS
