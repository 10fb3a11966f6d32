// Hopper's part of the device layer: mbarrier, TMA, wgmma, register budgets. The same names are in native/emu; what both share is plain code below.
#pragma once
#ifndef LR_EMU
#include "wgmma.cuh"

struct __align__(64) LrTensorMap {
    uint64_t opaque[16];
};

LR_DEV void lr_mbar_init(uint64_t* bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(lr_smem_addr(bar)), "r"(count) : "memory"); }
LR_DEV void lr_mbar_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
LR_DEV void lr_mbar_arrive(uint64_t* bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(lr_smem_addr(bar)) : "memory"); }
LR_DEV void lr_mbar_expect(uint64_t* bar, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(lr_smem_addr(bar)), "r"(bytes) : "memory"); }
LR_DEV void lr_mbar_wait(uint64_t* bar, int parity) {
    const uint32_t address = lr_smem_addr(bar);
    int done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}" : "=r"(done) : "r"(address), "r"(parity) : "memory");
    } while (!done);
}

LR_DEV void lr_tma_load(void* to, const LrTensorMap* map, uint64_t* bar, int col, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(lr_smem_addr(to)),
                 "l"(reinterpret_cast<uint64_t>(map)), "r"(lr_smem_addr(bar)), "r"(col), "r"(row)
                 : "memory");
}
LR_DEV void lr_prefetch_map(const LrTensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory"); }

template <int R> LR_DEV void lr_setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R)); }
template <int R> LR_DEV void lr_setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R)); }
LR_DEV void lr_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LR_DEV void lr_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Left> LR_DEV void lr_wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory"); }
template <class Half, int N, bool TransA = false, bool TransB = false> LR_DEV void lr_wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b) { lr_wgmma<Half, N>::template ss<TransA, TransB>(d, a, b); }
template <class Half, int N, bool TransB = false> LR_DEV void lr_wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) { lr_wgmma<Half, N>::template rs<TransB>(d, a, b); }
#endif

// Descriptor of a tile in 128-byte rows, swizzled by 128: 8 rows are `stride` bytes apart; `leading` counts for MN-major tiles wider than 64 elements
LR_DEV uint64_t lr_descriptor(uint32_t address, uint32_t stride, uint32_t leading = 16) {
    return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 | 1ull << 62;
}
// Two values as one register of 16-bit types, the first in the low half
template <class Half> LR_DEV uint32_t lr_pair(float low, float high) {
    Half l, h;
    lr_narrow(low, l);
    lr_narrow(high, h);
    return l.bits | static_cast<uint32_t>(h.bits) << 16;
}
// As words, first in memory first
LR_DEV void lr_words(uint32_t (&w)[4], const lr_u4& v) { w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w; }
// Lanes 4q..4q+3 exchange four words each: lane i gets word i of lanes 0..3 of its quad. Its own inverse; every lane of the warp must call.
LR_DEV void lr_quad_transpose(uint32_t (&w)[4]) {
    LR_UNROLL
    for (int step = 1; step < 4; step *= 2) {
        const bool upper = LR_TID & step;
        LR_UNROLL
        for (int i = 0; i < 2; ++i) {
            uint32_t &low = w[step == 1 ? 2 * i : i], &high = w[step == 1 ? 2 * i + 1 : i + 2];
            const uint32_t other = lr_shfl_xor(upper ? low : high, step);
            if (upper) low = other;
            else high = other;
        }
    }
}
