// wgmma: the product of a warpgroup. Operands in shared memory are read through their descriptors when the instruction is done: at issue in eager
// mode, at the wait that retires its group in lazy mode. Descriptor: start >> 4 in bits 0-13, leading >> 4 in bits 16-29, stride >> 4 in bits 32-45,
// base offset in bits 49-51 (0 here: tiles start on 1024 bytes), swizzle in bits 62-63 (0: none, 1: 128 B, 2: 64 B, 3: 32 B).
#pragma once
#include "copies.h"

template <int R> LR_DEV void lr_setmaxnreg_inc() {}
template <int R> LR_DEV void lr_setmaxnreg_dec() {}
LR_DEV void lr_wgmma_fence() {}

// Where element (row, k) of an operand lies, by the canonical layouts of the PTX manual, in bytes; w is the width that the swizzle mixes, 16 without one.
// K-major, swizzled:  start + row/8 stride + row%8 w + 2k                                          leading is not read
// K-major, none:      start + row/8 stride + row%8 16 + k/8 leading + k%8 2
// MN-major, swizzled: start + row/(w/2) leading + row%(w/2) 2 + k/8 stride + k%8 w                 w/2 rows of one k are a line of memory
// MN-major, none:     start + row/8 stride + row%8 2 + k/8 leading + k%8 16
struct lr_operand {
    uint32_t start, leading, stride, swizzle, width;
    bool by_k;

    lr_operand(uint64_t d, bool mn_major) : start(uint32_t(d & 0x3FFF) << 4), leading(uint32_t(d >> 16 & 0x3FFF) << 4), stride(uint32_t(d >> 32 & 0x3FFF) << 4), by_k(mn_major) {
        const uint32_t mode = uint32_t(d >> 62);
        swizzle = mode == 1 ? 3 : mode == 2 ? 2 : mode == 3 ? 1 : 0;
        width = 16u << swizzle;
        if (d & 0x3FFFC000C000C000) emu::fail("lr_wgmma: a descriptor with bits that this layer never sets");
    }
    uint32_t at(uint32_t row, uint32_t k) const {
        const uint32_t line = swizzle ? width / 2 : 8, lines = swizzle ? leading : stride, steps = swizzle ? stride : leading;
        const uint32_t plain = by_k ? row / line * lines + row % line * 2 + k / 8 * steps + k % 8 * width
                               : swizzle ? row / 8 * stride + row % 8 * width + 2 * k
                                         : row / 8 * stride + row % 8 * width + k / 8 * leading + k % 8 * 2;
        return lr_swizzled(start + plain, swizzle);
    }
};

// d[64,N] = (scale_d ? d : 0) + A[64,16] B[16,N]; A from registers where given. N accumulators: N/2 a thread.
template <class Half, int N, bool TransA, bool TransB>
LR_DEV void lr_wgmma_issue(float (&d)[N / 2], const uint32_t* fragment, uint64_t desc_a, uint64_t desc_b, int scale_d) {
    emu::Warpgroup& g = emu::group();
    const uint32_t t = emu::fibre->thread % emu::GroupSize;
    g.accumulators[t] = d;
    g.fragments[t] = fragment;
    emu::meet(g.meeting, emu::GroupSize, "lr_wgmma", [&] {
        std::vector<float*> out(g.accumulators, g.accumulators + emu::GroupSize);
        std::vector<uint32_t> left;
        if (fragment)
            for (int i = 0; i < emu::GroupSize; ++i) left.insert(left.end(), g.fragments[i], g.fragments[i] + 4);
        emu::Block* home = emu::block;
        auto work = [=] {
            auto read = [&](const lr_operand& from, uint32_t row, uint32_t k) {
                const uint32_t at = from.at(row, k);
                if (at + 2 > home->shared_bytes) emu::fail("lr_wgmma: a descriptor reads past shared memory");
                Half h;
                memcpy(&h.bits, home->shared + at, 2);
                return lr_widen(h);
            };
            const lr_operand a(desc_a, TransA), b(desc_b, TransB);
            static thread_local float A[64][16], B[N][16];
            for (uint32_t r = 0; r < 64; ++r)
                for (uint32_t k = 0; k < 16; ++k)
                    A[r][k] = left.empty() ? read(a, r, k) : lr_half_of<Half>(left[(r / 16 * 32 + r % 8 * 4 + k % 8 / 2) * 4 + (r % 16 >= 8) + 2 * (k >= 8)], k & 1);
            for (uint32_t n = 0; n < N; ++n)
                for (uint32_t k = 0; k < 16; ++k) B[n][k] = read(b, n, k);
            for (uint32_t r = 0; r < 64; ++r)
                for (uint32_t n = 0; n < N; ++n) {
                    float sum = 0;
                    for (uint32_t k = 0; k < 16; ++k) sum += A[r][k] * B[n][k];
                    float& to = out[r / 16 * 32 + r % 8 * 4 + n % 8 / 2][n / 8 * 4 + (r % 16 >= 8) * 2 + (n & 1)];
                    to = scale_d ? to + sum : sum;
                }
        };
        if (emu::schedule->lazy) g.open.push_back(work);
        else work();
    });
}
template <class Half, int N, bool TransA = false, bool TransB = false> LR_DEV void lr_wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b) {
    lr_wgmma_issue<Half, N, TransA, TransB>(d, nullptr, a, b, 1);
}
template <class Half, int N, bool TransB = false> LR_DEV void lr_wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) {
    lr_wgmma_issue<Half, N, false, TransB>(d, a, 0, b, 1);
}
LR_DEV void lr_wgmma_commit() {
    emu::Warpgroup& g = emu::group();
    emu::meet(g.meeting, emu::GroupSize, "lr_wgmma_commit", [&] {
        g.committed.push_back(std::move(g.open));
        g.open.clear();
    });
}
template <int Left> LR_DEV void lr_wgmma_wait() {
    emu::Warpgroup& g = emu::group();
    emu::meet(g.meeting, emu::GroupSize, "lr_wgmma_wait", [&] {
        while (g.committed.size() > Left) {
            for (auto& work : g.committed.front()) work();
            g.committed.pop_front();
        }
    });
    asm volatile("" ::: "memory");
}
