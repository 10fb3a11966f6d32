// A CUDA block on the host: every thread is a fibre with a stack of its own, and a thread that waits gives way to the others. Nothing runs in
// parallel inside a block, so what a kernel computes depends only on the order in which its threads are scheduled, which tests vary.
#pragma once
#include <deque>
#include <functional>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <string>
#include <vector>

namespace emu {

constexpr int WarpSize = 32, GroupSize = 128, BarrierCount = 16, SlotWords = 12;

struct Dim {
    uint32_t x = 1, y = 1, z = 1;
};

struct Fibre {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    void* sanitizer = nullptr; // the fake stack that AddressSanitizer keeps beside it
    uint32_t thread = 0;
    bool done = false;
    const char* where = ""; // what it waits for, for deadlock reports
    std::vector<std::function<void()>> open_copies; // cp.async since the last commit
    std::deque<std::vector<std::function<void()>>> copies;
};

// Lanes leave their operands in slots, meet, read the others' slots, and meet again before the slots are used anew.
struct Warp {
    uint64_t slot[WarpSize][SlotWords];
    uint32_t arrived = 0, generation = 0, alive = 0;
};

struct Barrier {
    uint32_t arrived = 0, generation = 0;
};

// Four warps that issue wgmma together
struct Warpgroup {
    float* accumulators[GroupSize];
    const uint32_t* fragments[GroupSize];
    Barrier meeting;
    std::vector<std::function<void()>> open;
    std::deque<std::vector<std::function<void()>>> committed;
};

// A TMA copy on its way: it lands in a later round, or (round Last) only when no thread can go on without it
struct Landing {
    static constexpr uint64_t Last = UINT64_MAX;
    uint64_t round;
    std::function<void()> copy;
};

struct Block {
    Dim index, grid;
    uint32_t threads = 0, live = 0, shared_bytes = 0;
    unsigned char* shared = nullptr;
    Barrier barriers[BarrierCount];
    std::vector<Fibre> fibres;
    std::vector<Warp> warps;
    std::vector<Warpgroup> groups;
    std::vector<Landing> landings;
};

// How a launch is scheduled. Eager: asynchronous work is done when it is issued. Lazy: it is done as late as the kernel's own waits allow, so a
// missing wait shows. A correct kernel gives the same bits in both, in every order.
struct Schedule {
    bool lazy = false;
    int order = 0; // of threads in a round: 0 forward, 1 backward, 2 strided; 1 and 2 with warps of different pace
    uint32_t random = 1;
    uint64_t round = 0, progress = 0; // round of the last event that was not a wait
    std::string failure;

    uint32_t draw() { return random = random * 1664525u + 1013904223u; }
};

extern thread_local Fibre* fibre;
extern thread_local Block* block;
extern thread_local Schedule* schedule;

void give_way();                      // runs the other threads for a round
[[noreturn]] void fail(std::string what); // ends the launch with a message; the kernel's threads are abandoned

inline uint32_t lane() { return fibre->thread % WarpSize; }
inline Warp& warp() { return block->warps[fibre->thread / WarpSize]; }
inline Warpgroup& group() { return block->groups[fibre->thread / GroupSize]; }

template <class Condition> void wait_until(const char* where, Condition&& ready) {
    fibre->where = where;
    while (!ready()) give_way();
    schedule->progress = schedule->round;
}

// Waits until `count` threads have arrived; the last one runs `last` first.
template <class Last> void meet(Barrier& barrier, uint32_t count, const char* where, Last&& last) {
    const uint32_t generation = barrier.generation;
    if (++barrier.arrived >= count) {
        last();
        barrier.arrived = 0;
        ++barrier.generation;
        schedule->progress = schedule->round;
        return;
    }
    wait_until(where, [&] { return barrier.generation != generation; });
}

// All living lanes of mask meet.
inline void meet_lanes(uint32_t mask, const char* where) {
    Warp& w = warp();
    if (!(mask >> lane() & 1)) fail(std::string(where) + ": the mask leaves out the lane that calls");
    const uint32_t generation = w.generation;
    w.arrived |= 1u << lane();
    if ((w.arrived & mask) == (mask & w.alive)) {
        w.arrived &= ~mask;
        ++w.generation;
        schedule->progress = schedule->round;
        return;
    }
    wait_until(where, [&] { return w.generation != generation; });
}

template <class T> void leave(const T& value, int word = 0) { memcpy(&warp().slot[lane()][word], &value, sizeof value); }
template <class T> T left_by(uint32_t from, int word = 0) {
    T value;
    memcpy(&value, &warp().slot[from % WarpSize][word], sizeof value);
    return value;
}

inline unsigned char* shared_at(uint32_t address, uint32_t bytes, const char* what) {
    if (address > block->shared_bytes || bytes > block->shared_bytes - address)
        fail(std::string(what) + ": shared memory [" + std::to_string(address) + ", +" + std::to_string(bytes) + ") of " + std::to_string(block->shared_bytes) + " bytes");
    return block->shared + address;
}

// Kernels of this library: a .cu file compiled for one element type adds its entries.
struct Entry {
    const char *name, *file;
    int32_t dtype;
    uint32_t args_bytes, threads;
    void (*body)(const void* args);
    Entry* next;
    static Entry* first;

    Entry(const char* name, const char* file, int32_t dtype, uint32_t args_bytes, uint32_t threads, void (*body)(const void*)) : name(name), file(file), dtype(dtype), args_bytes(args_bytes), threads(threads), body(body), next(first) { first = this; }
};

} // namespace emu
