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
struct alignas(16) lanes {
    scalar v[Lanes];
};
// True where whole vectors may be used: null counts as aligned.
LR_DEV bool lr_aligned(const void* p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; }

// y = value, or y += value
template <class T> LR_DEV void lr_put(T* y, float value, bool add) { lr_narrow(add ? lr_widen(*y) + value : value, *y); }

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
