// The CUDA language and LowRank's device layer for a host compiler: what common.cuh and sm90.cuh declare for NVRTC, run by fibres. Names are theirs.
#pragma once
#include "block.h"
#include <math.h>

#define LR_DEV static inline
#define LR_UNROLL
#define LR_ROLLED
// A kernel of one argument struct; `threads` a block, at least `blocks` blocks to a multiprocessor
#define LR_KERNEL(name, Args, threads, blocks) \
    static void name(const Args& p); \
    static emu::Entry entry_##name(#name, __BASE_FILE__, LR_DTYPE, sizeof(Args), threads, [](const void* args) { name(*static_cast<const Args*>(args)); }); \
    static void name(const Args& p)
#define LR_SMEM (emu::block->shared)
#define LR_TID (emu::fibre->thread)
#define LR_BX (emu::block->index.x)
#define LR_BY (emu::block->index.y)
#define LR_BZ (emu::block->index.z)
#define LR_GX (emu::block->grid.x)

LR_DEV uint32_t lr_smem_addr(const void* p) {
    const ptrdiff_t at = static_cast<const unsigned char*>(p) - emu::block->shared;
    if (at < 0 || at > emu::block->shared_bytes) emu::fail("lr_smem_addr: a pointer outside of shared memory");
    return static_cast<uint32_t>(at);
}

// ---- block and warp --------------------------------------------------------------------------------------------------
LR_DEV void lr_sync() { emu::meet(emu::block->barriers[0], emu::block->live, "lr_sync", [] {}); }
template <int Id> LR_DEV void lr_bar_sync(int threads) { emu::meet(emu::block->barriers[Id], static_cast<uint32_t>(threads), "lr_bar_sync", [] {}); }
LR_DEV void lr_warp_sync() { emu::meet_lanes(~0u, "lr_warp_sync"); }
template <class T> LR_DEV T lr_shfl(T value, int lane) {
    emu::leave(value);
    emu::meet_lanes(~0u, "lr_shfl");
    const T got = emu::left_by<T>(static_cast<uint32_t>(lane));
    emu::meet_lanes(~0u, "lr_shfl, leaving");
    return got;
}
template <class T> LR_DEV T lr_shfl_xor(T value, int mask) { return lr_shfl(value, static_cast<int>(emu::lane()) ^ mask); }
LR_DEV uint32_t lr_ballot(bool bit) {
    emu::leave(uint32_t(bit));
    emu::meet_lanes(~0u, "lr_ballot");
    uint32_t bits = 0;
    for (uint32_t i = 0; i < emu::WarpSize; ++i) bits |= (emu::warp().alive >> i & 1 && emu::left_by<uint32_t>(i)) ? 1u << i : 0;
    emu::meet_lanes(~0u, "lr_ballot, leaving");
    return bits;
}
LR_DEV int lr_popcount(uint32_t bits) { return __builtin_popcount(bits); }

// ---- memory order: blocks of a co-resident launch share one host thread, so plain accesses are in order ------------------------
LR_DEV int lr_atomic_add(int* p, int value) {
    const int before = *p;
    *p += value;
    emu::schedule->progress = emu::schedule->round;
    return before;
}
LR_DEV void lr_st_release(int* p, int value) {
    *static_cast<volatile int*>(p) = value;
    emu::schedule->progress = emu::schedule->round;
}
LR_DEV int lr_ld_acquire(const int* p) { return *static_cast<const volatile int*>(p); }
LR_DEV void lr_fence() {}
LR_DEV void lr_spin() {
    emu::fibre->where = "lr_spin";
    emu::give_way();
}

// ---- numbers -----------------------------------------------------------------------------------------------------------
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
LR_DEV float lr_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
LR_DEV uint32_t lr_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}
LR_DEV float lr_widen(float x) { return x; }
LR_DEV float lr_widen(bf16 x) { return lr_float(uint32_t(x.bits) << 16); }
LR_DEV float lr_widen(f16 x) { // exact: the magnitude moved to float's place, the exponent's bias made up by a product
    const uint32_t magnitude = x.bits & 0x7FFF, sign = uint32_t(x.bits & 0x8000) << 16;
    const float value = magnitude >= 0x7C00 ? lr_float(0x7F800000u | (magnitude & 0x3FF) << 13) : lr_float(magnitude << 13) * 0x1p112f;
    return lr_float(lr_bits(value) | sign);
}
LR_DEV void lr_narrow(float x, float& y) { y = x; }
LR_DEV void lr_narrow(float x, bf16& y) {
    const uint32_t u = lr_bits(x);
    y.bits = x != x ? uint16_t(0x7FFF) : uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
LR_DEV void lr_narrow(float x, f16& y) { // nearest even
    const uint32_t bits = lr_bits(x), magnitude = bits & 0x7FFFFFFF, sign = bits >> 16 & 0x8000;
    uint32_t half;
    if (magnitude >= 0x477FF000) half = magnitude > 0x7F800000 ? 0x7FFF : 0x7C00; // 65520 and above, NaN
    else if (magnitude < 0x38800000) half = lr_bits(lr_float(magnitude) + 0.5f) - 0x3F000000; // below 2^-14: the sum leaves the subnormal's bits
    else half = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    y.bits = uint16_t(half | (half == 0x7FFF ? 0 : sign));
}
// Two values in a register, the first in the low half
template <class Half> LR_DEV uint32_t lr_pack(float low, float high) {
    Half a, b;
    lr_narrow(low, a);
    lr_narrow(high, b);
    return a.bits | uint32_t(b.bits) << 16;
}
LR_DEV float lr_exp2(float x) { return exp2f(x); }
LR_DEV float lr_fma(float a, float b, float c) { return fmaf(a, b, c); }

struct alignas(16) lr_u4 {
    uint32_t x, y, z, w;
};
// A value of a type with an alignment of its own, in one access
template <class T> LR_DEV T lr_load(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % alignof(T)) emu::fail("lr_load: the address is not a multiple of " + std::to_string(alignof(T)));
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T> LR_DEV void lr_store(void* p, const T& v) {
    if (reinterpret_cast<uintptr_t>(p) % alignof(T)) emu::fail("lr_store: the address is not a multiple of " + std::to_string(alignof(T)));
    memcpy(p, &v, sizeof v);
}
LR_DEV uint32_t lr_load4_cg(const void* p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

#include "copies.h"
#include "mma.h"
#if LR_ARCH >= 900
#include "wgmma.h"
#endif
