// Asynchronous copies: cp.async, mbarrier and TMA with the real driver's rules for tensor maps.
#pragma once
#include "block.h"

// ---- cp.async: 16 bytes a thread, `bytes` of them from memory, the rest zero -----------------------------------------------
LR_DEV void lr_cp_async16(uint32_t to, const void* from, int bytes) {
    if (to % 16) emu::fail("lr_cp_async16: the shared address is not a multiple of 16");
    if (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16) emu::fail("lr_cp_async16: the global address is not a multiple of 16");
    unsigned char* place = emu::shared_at(to, 16, "lr_cp_async16");
    auto copy = [=] {
        memset(place, 0, 16);
        memcpy(place, from, static_cast<size_t>(bytes));
    };
    if (emu::schedule->lazy) emu::fibre->open_copies.push_back(copy);
    else copy();
}
LR_DEV void lr_cp_async_commit() {
    emu::fibre->copies.push_back(std::move(emu::fibre->open_copies));
    emu::fibre->open_copies.clear();
}
template <int Left> LR_DEV void lr_cp_async_wait() {
    while (emu::fibre->copies.size() > Left) {
        for (auto& copy : emu::fibre->copies.front()) copy();
        emu::fibre->copies.pop_front();
    }
}

// ---- mbarrier: 8 bytes in shared memory -------------------------------------------------------------------------------------
struct lr_mbar_state {
    uint32_t phase : 1, expected : 15, pending : 16;
    int32_t bytes;
};
static_assert(sizeof(lr_mbar_state) == 8, "an mbarrier has 8 bytes");

LR_DEV lr_mbar_state* lr_mbar_of(uint64_t* bar, const char* what) { return reinterpret_cast<lr_mbar_state*>(emu::shared_at(lr_smem_addr(bar), 8, what)); }
LR_DEV void lr_mbar_turn(lr_mbar_state* m) {
    if (m->pending || m->bytes) return;
    m->phase ^= 1;
    m->pending = m->expected;
    emu::schedule->progress = emu::schedule->round;
}
LR_DEV void lr_mbar_init(uint64_t* bar, int count) {
    lr_mbar_state* m = lr_mbar_of(bar, "lr_mbar_init");
    m->phase = 0;
    m->expected = m->pending = static_cast<uint32_t>(count);
    m->bytes = 0;
}
LR_DEV void lr_mbar_arrive(uint64_t* bar) {
    lr_mbar_state* m = lr_mbar_of(bar, "lr_mbar_arrive");
    if (m->pending == 0) emu::fail("lr_mbar_arrive: more arrivals than the barrier was initialised for");
    m->pending = m->pending - 1;
    lr_mbar_turn(m);
}
LR_DEV void lr_mbar_expect(uint64_t* bar, int bytes) {
    lr_mbar_of(bar, "lr_mbar_expect")->bytes += bytes;
    lr_mbar_arrive(bar);
}
LR_DEV void lr_mbar_wait(uint64_t* bar, int parity) {
    const volatile lr_mbar_state* m = lr_mbar_of(bar, "lr_mbar_wait");
    emu::wait_until("lr_mbar_wait", [&] { return static_cast<int>(m->phase) != parity; });
}
LR_DEV void lr_mbar_fence() {}

// ---- tensor maps: rows x cols of 2-byte or 4-byte elements, a box [box_rows][box_cols] at a time ------------------------------
// `swizzle` 0 none, 1 32 bytes, 2 64, 3 128, as CUtensorMapSwizzle
struct alignas(64) LrTensorMap {
    const unsigned char* base;
    uint64_t rows, cols, pitch; // pitch in bytes
    uint32_t box_rows, box_cols, element, swizzle;
    uint64_t reserved[10];
};
static_assert(sizeof(LrTensorMap) == 128, "a tensor map has 128 bytes");

// Bits 4.. of an address in a swizzled tile: 128 B: 4-6 ^= 7-9; 64 B: 4-5 ^= 7-8; 32 B: 4 ^= 7
LR_DEV uint32_t lr_swizzled(uint32_t address, uint32_t swizzle) { return address ^ ((address >> 7 & ((1u << swizzle) - 1)) << 4); }

LR_DEV void lr_tma_check(const LrTensorMap& m, uint32_t at, const char* what) {
    if (at % (m.swizzle ? 1024 : 128)) emu::fail(std::string(what) + ": the tile at " + std::to_string(at) + " is not aligned to " + (m.swizzle ? "1024" : "128") + " bytes");
}
template <class Each> LR_DEV void lr_tma_box(const LrTensorMap& m, uint32_t at, int col, int row, Each&& each) {
    for (uint32_t i = 0; i < m.box_rows; ++i)
        for (uint32_t j = 0; j < m.box_cols; ++j) {
            const int64_t r = int64_t(row) + i, c = int64_t(col) + j;
            const bool inside = r >= 0 && c >= 0 && uint64_t(r) < m.rows && uint64_t(c) < m.cols;
            each(lr_swizzled(at + (i * m.box_cols + j) * m.element, m.swizzle), inside ? m.base + r * int64_t(m.pitch) + c * m.element : nullptr);
        }
}
// Box (col, row) to shared memory; its whole size, zero-filled parts too, is taken from the barrier's bytes when it lands.
LR_DEV void lr_tma_load(void* to, const LrTensorMap* map, uint64_t* bar, int col, int row) {
    const LrTensorMap m = *map;
    const uint32_t at = lr_smem_addr(to), size = m.box_rows * m.box_cols * m.element;
    lr_tma_check(m, at, "lr_tma_load");
    emu::shared_at(at, size, "lr_tma_load");
    lr_mbar_state* state = lr_mbar_of(bar, "lr_tma_load");
    unsigned char* shared = emu::block->shared;
    auto land = [=] {
        lr_tma_box(m, at, col, row, [&](uint32_t place, const unsigned char* from) {
            if (from) memcpy(shared + place, from, m.element);
            else memset(shared + place, 0, m.element);
        });
        state->bytes -= static_cast<int32_t>(size);
        lr_mbar_turn(state);
    };
    const uint32_t late = emu::schedule->draw() >> 8;
    if (emu::schedule->lazy) emu::block->landings.push_back({late % 2 ? emu::Landing::Last : emu::schedule->round + 3 + late % 18, land});
    else land();
}
LR_DEV void lr_prefetch_map(const LrTensorMap*) {}
