// What every kernel file starts with: the argument structs, the device layer (real or emulated), and the helpers that are plain code.
// LR_DTYPE (1 F32, 2 BF16, 3 F16) is the type of activations in this compilation, LR_ARCH the compute capability times 10.
#pragma once
#include "launch.h"
#ifdef LR_EMU
#include "cuda_emu.h"
#else
#include "device.cuh"
#endif

#if LR_DTYPE == 1
typedef float scalar;
#elif LR_DTYPE == 2
typedef bf16 scalar;
#else
typedef f16 scalar;
#endif

constexpr int Lanes = 16 / sizeof(scalar); // elements of a 16-byte vector
template <class T> struct alignas(16) lr_vector {
    T v[16 / sizeof(T)];
};
typedef lr_vector<scalar> lanes;
// True where whole vectors may be used: null counts as aligned.
LR_DEV bool lr_aligned(const void* p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; }

// Byte offset of a 16-byte piece in a tile of lines of Pitch bytes in shared memory. Pieces of a line change places, so that eight neighbouring lines
// read at one piece lie in different banks.
template <int Pitch> LR_DEV uint32_t lr_piece(int line, int piece) {
    constexpr int LinesOfBanks = Pitch < 128 ? 128 / Pitch : 1, Places = Pitch < 128 ? Pitch / 16 : 8;
    return static_cast<uint32_t>(line * Pitch + ((piece ^ (line / LinesOfBanks & (Places - 1))) * 16));
}

// y = value, or y += value
template <class T> LR_DEV void lr_put(T* y, float value, bool add) { lr_narrow(add ? lr_widen(*y) + value : value, *y); }

// Group g of an array: Lanes elements, fewer at the end
LR_DEV int lr_group(int64_t g, int64_t count) {
    const int64_t left = count - g * Lanes;
    return left < Lanes ? static_cast<int>(left) : Lanes;
}
// Lanes elements, `have` of them in memory, the rest zero; whole: p lies on 16 bytes. T is F32 beside 16-bit activations too.
template <class T> LR_DEV void lr_get(const T* p, int have, bool whole, float (&v)[Lanes]) {
    constexpr int Each = 16 / sizeof(T);
    if (whole && have == Lanes) {
        LR_UNROLL
        for (int i = 0; i < Lanes; i += Each) {
            const lr_vector<T> part = lr_load<lr_vector<T>>(p + i);
            LR_UNROLL
            for (int e = 0; e < Each; ++e) v[i + e] = lr_widen(part.v[e]);
        }
        return;
    }
    LR_UNROLL
    for (int e = 0; e < Lanes; ++e) v[e] = e < have ? lr_widen(p[e]) : 0.0f;
}
LR_DEV void lr_set(scalar* p, int have, bool whole, const float (&v)[Lanes], bool add) {
    if (whole && have == Lanes) {
        float total[Lanes] = {};
        if (add) lr_get(p, have, whole, total);
        lanes all;
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) lr_narrow(add ? total[e] + v[e] : v[e], all.v[e]);
        lr_store(p, all);
        return;
    }
    LR_UNROLL
    for (int e = 0; e < Lanes; ++e)
        if (e < have) lr_put(p + e, v[e], add);
}

LR_DEV float lr_warp_sum(float v) {
    LR_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) v += lr_shfl_xor(v, mask);
    return v;
}
LR_DEV float lr_warp_max(float v) {
    LR_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
        const float other = lr_shfl_xor(v, mask);
        v = v < other || other != other ? other : v; // NaN stays
    }
    return v;
}
// Sum over the block in a fixed order; `parts` holds a float a warp. Every thread must call; all get the sum.
template <int Threads> LR_DEV float lr_block_sum(float v, float* parts) {
    v = lr_warp_sum(v);
    lr_sync();
    if (LR_TID % 32 == 0) parts[LR_TID / 32] = v;
    lr_sync();
    float sum = 0;
    LR_UNROLL
    for (int w = 0; w < Threads / 32; ++w) sum += parts[w];
    return sum;
}
template <int Threads> LR_DEV float lr_block_max(float v, float* parts) {
    v = lr_warp_max(v);
    lr_sync();
    if (LR_TID % 32 == 0) parts[LR_TID / 32] = v;
    lr_sync();
    float most = parts[0];
    LR_UNROLL
    for (int w = 1; w < Threads / 32; ++w) most = most < parts[w] || parts[w] != parts[w] ? parts[w] : most;
    return most;
}
LR_DEV float lr_infinity() { return lr_float(0x7F800000u); }

// Sum over a team of threads that owns a row: a warp, or the whole block, which gives room for a float a warp
template <int Team> LR_DEV float lr_team_sum(float v, float* parts) {
    if constexpr (Team == 32) return lr_warp_sum(v);
    else return lr_block_sum<Team>(v, parts);
}
template <int Team> LR_DEV float lr_team_max(float v, float* parts) {
    if constexpr (Team == 32) return lr_warp_max(v);
    else return lr_block_max<Team>(v, parts);
}
// The sum of v over a block of 256 in float64, in a fixed order; `parts` holds a double a thread
LR_DEV double lr_block_total(double v, double* parts) {
    lr_sync();
    parts[LR_TID] = v;
    for (int half = 128; half > 0; half /= 2) {
        lr_sync();
        if (static_cast<int>(LR_TID) < half) parts[LR_TID] += parts[LR_TID + half];
    }
    lr_sync();
    return parts[0];
}
// A block of 256 owns 32 columns, eight rows of threads each: the sum of a column, in order of these rows, for the threads of the first one
LR_DEV float lr_column_sum(float v, float* parts) {
    parts[LR_TID] = v;
    lr_sync();
    float sum = 0;
    if (LR_TID < 32)
        LR_UNROLL
        for (int r = 0; r < 8; ++r) sum += parts[r * 32 + LR_TID];
    return sum;
}
// The four 32-bit numbers of a Philox4x32-10 counter: key = seed (low, high), counter = (block low, high, stream low, high)
LR_DEV void lr_philox(uint64_t block, uint64_t seed, uint64_t stream, uint32_t (&c)[4]) {
    c[0] = uint32_t(block), c[1] = uint32_t(block >> 32), c[2] = uint32_t(stream), c[3] = uint32_t(stream >> 32);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    LR_UNROLL
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
        const uint32_t n0 = uint32_t(p1 >> 32) ^ c[1] ^ k0, n2 = uint32_t(p0 >> 32) ^ c[3] ^ k1;
        c[0] = n0, c[1] = uint32_t(p1), c[2] = n2, c[3] = uint32_t(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}
