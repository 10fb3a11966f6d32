// The scheduler: fibres of one block, or of all blocks of a grid, in rounds; and the exports lr_emu_*.
#include "../cpu/abi.h"
#include "block.h"
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <stdlib.h>
#include <thread>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define LR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LR_ASAN 1
#endif
#endif
#ifdef LR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif !defined(NDEBUG)
#define LR_GUARD_PAGES 1
#include <sys/mman.h>
#endif

namespace emu {

thread_local Fibre* fibre = nullptr;
thread_local Block* block = nullptr;
thread_local Schedule* schedule = nullptr;
Entry* Entry::first = nullptr;

namespace {

constexpr size_t StackBytes = 256 << 10;
constexpr uint64_t Patience = 20000; // rounds without an event before a launch counts as stuck
constexpr uint64_t Stall = 8;        // rounds without an event before a copy lands that waited for the last moment

thread_local void* scheduler_stack = nullptr;
thread_local void (*body)(const void*) = nullptr;
thread_local const void* arguments = nullptr;

#if defined(__x86_64__)
extern "C" void lr_emu_switch(void** save, void* to);
asm(R"(
.text
.globl lr_emu_switch
.hidden lr_emu_switch
.type lr_emu_switch, @function
lr_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#else
extern "C" void lr_emu_switch(void** save, void* to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}
#endif

#ifdef LR_ASAN
thread_local const void* scheduler_bottom = nullptr;
thread_local size_t scheduler_size = 0;
thread_local void* scheduler_fake = nullptr;
#endif

void to_fibre(Fibre& f) {
    fibre = &f;
#ifdef LR_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake, f.stack, StackBytes);
#endif
    lr_emu_switch(&scheduler_stack, f.stack_pointer);
#ifdef LR_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

void to_scheduler() {
#ifdef LR_ASAN
    __sanitizer_start_switch_fiber(fibre->done ? nullptr : &fibre->sanitizer, scheduler_bottom, scheduler_size);
#endif
    lr_emu_switch(&fibre->stack_pointer, scheduler_stack);
#ifdef LR_ASAN
    __sanitizer_finish_switch_fiber(fibre->sanitizer, &scheduler_bottom, &scheduler_size);
#endif
}

void enter() {
#ifdef LR_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    body(arguments);
    fibre->done = true;
    --block->live;
    warp().alive &= ~(1u << lane());
    schedule->progress = schedule->round;
    // A barrier that waits for the living is complete where this thread was the last one missing.
    Barrier& all = block->barriers[0];
    if (block->live > 0 && all.arrived >= block->live) {
        all.arrived = 0;
        ++all.generation;
    }
    to_scheduler();
    abort(); // a finished fibre is never resumed
}

// Memory of a block: stacks, shared memory. What runs over its end (shared memory) or its beginning (a stack) faults: under AddressSanitizer on the
// byte, in debug builds on a guard page; release builds do without.
constexpr size_t Page = 4096;

size_t pages(size_t bytes) { return (bytes + Page - 1) / Page * Page; }

// Memory that blocks have given back, by size: a launch starts its threads anew, so without this every launch would fault its pages in again.
struct Spare {
    std::mutex guard;
    std::map<size_t, std::vector<unsigned char*>> bySize;
};
Spare& spare() {
    static Spare& all = *new Spare; // never destroyed: a launch may still run when the process ends
    return all;
}

unsigned char* claim(size_t bytes) {
    bytes = pages(bytes);
    {
        std::lock_guard<std::mutex> lock(spare().guard);
        std::vector<unsigned char*>& same = spare().bySize[bytes];
        if (!same.empty()) {
            unsigned char* memory = same.back();
            same.pop_back();
            return memory;
        }
    }
#ifdef LR_GUARD_PAGES
    auto* all = static_cast<unsigned char*>(mmap(nullptr, bytes + 2 * Page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (all == MAP_FAILED || mprotect(all + Page, bytes, PROT_READ | PROT_WRITE)) abort();
    return all + Page;
#else
    return static_cast<unsigned char*>(aligned_alloc(Page, bytes));
#endif
}
void release(unsigned char* memory, size_t bytes) {
    bytes = pages(bytes);
#ifdef LR_ASAN
    __asan_unpoison_memory_region(memory, bytes); // marks of shared memory's end, and of frames that a failed launch abandoned
#endif
    std::lock_guard<std::mutex> lock(spare().guard);
    spare().bySize[bytes].push_back(memory);
}

// Shared memory of `bytes`, 1024-aligned; with guard pages its end lies on one, as far as the alignment allows.
constexpr size_t Aligned = 1024;

size_t shared_size(uint32_t bytes) { return (bytes + Aligned) / Aligned * Aligned; }

unsigned char* claim_shared(uint32_t bytes) {
#ifdef LR_GUARD_PAGES
    const size_t used = (bytes + Aligned - 1) / Aligned * Aligned;
    unsigned char* memory = claim(shared_size(bytes));
    return memory + pages(shared_size(bytes)) - used;
#else
    unsigned char* memory = claim(shared_size(bytes));
#ifdef LR_ASAN
    __asan_poison_memory_region(memory + bytes, pages(shared_size(bytes)) - bytes);
#endif
    return memory;
#endif
}
void release_shared(unsigned char* memory, uint32_t bytes) {
#ifdef LR_GUARD_PAGES
    memory += (bytes + Aligned - 1) / Aligned * Aligned;
    memory -= pages(shared_size(bytes));
#endif
    release(memory, shared_size(bytes));
}

void start(Fibre& f, uint32_t thread) {
    f.thread = thread;
    f.stack = reinterpret_cast<char*>(claim(StackBytes));
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(f.stack + StackBytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(enter);
    top -= 6; // the registers that the first switch pops
    memset(top, 0, 6 * sizeof(void*));
    f.stack_pointer = top;
#else
    auto* context = new (f.stack) ucontext_t;
    getcontext(context);
    context->uc_stack.ss_sp = f.stack + 4096;
    context->uc_stack.ss_size = StackBytes - 4096;
    makecontext(context, enter, 0);
    f.stack_pointer = context;
#endif
}

struct Launch {
    Dim grid;
    uint32_t threads, shared_bytes;
    void (*body)(const void*);
    const void* args;
};

void prepare(Block& b, const Launch& launch, Dim index) {
    b.index = index;
    b.grid = launch.grid;
    b.threads = b.live = launch.threads;
    b.shared_bytes = launch.shared_bytes;
    b.shared = claim_shared(launch.shared_bytes);
    memset(b.shared, 0xFF, launch.shared_bytes); // NaN: reading what nobody wrote shows
    b.warps.resize((launch.threads + WarpSize - 1) / WarpSize);
    b.groups.resize((launch.threads + GroupSize - 1) / GroupSize);
    b.fibres.resize(launch.threads);
    for (uint32_t t = 0; t < launch.threads; ++t) {
        start(b.fibres[t], t);
        b.warps[t / WarpSize].alive |= 1u << (t % WarpSize);
    }
}

void finish(Block& b) {
    for (Fibre& f : b.fibres) release(reinterpret_cast<unsigned char*>(f.stack), StackBytes);
    release_shared(b.shared, b.shared_bytes);
    b.shared = nullptr;
}

std::string stuck(const std::vector<std::unique_ptr<Block>>& blocks) {
    std::string text = "deadlock: no thread can go on;";
    for (const auto& b : blocks) {
        std::string last;
        for (const Fibre& f : b->fibres) {
            if (f.done || last == f.where) continue; // one line a run of threads with the same place
            last = f.where;
            text += " block " + std::to_string(b->index.x) + " thread " + std::to_string(f.thread) + " waits in " + last + ";";
            if (text.size() > 1500) return text + " ...";
        }
    }
    return text;
}

// Runs blocks together until all threads have returned, or the launch fails.
void run(const std::vector<std::unique_ptr<Block>>& blocks, Schedule& plan) {
    schedule = &plan;
    for (uint32_t live = 1; live > 0; ++plan.round) {
        live = 0;
        for (const auto& b : blocks) {
            block = b.get();
            bool stalled = plan.round - plan.progress > Stall; // then one of the late copies lands
            for (size_t i = 0; i < b->landings.size();) {
                const bool late = b->landings[i].round == Landing::Last;
                if (late ? !stalled : b->landings[i].round > plan.round) {
                    ++i;
                    continue;
                }
                if (late) stalled = false;
                auto copy = std::move(b->landings[i].copy);
                b->landings.erase(b->landings.begin() + static_cast<ptrdiff_t>(i));
                copy();
                plan.progress = plan.round;
            }
            const uint32_t n = b->threads;
            for (uint32_t k = 0; k < n && plan.failure.empty(); ++k) {
                // 97 is prime, so the strided order visits every thread once unless n is a multiple of it; then it is forward.
                const uint32_t i = plan.order == 1 ? n - 1 - k : plan.order == 2 && n % 97 ? uint32_t((uint64_t(k) * 97 + 13) % n) : k;
                // Orders other than forward also give each of four warps a pace of its own, so that one runs ahead as far as the kernel's barriers let it.
                const uint32_t warp = i / WarpSize, pace = plan.order == 0 ? 1 : plan.order == 1 ? 1 + warp % 4 : 4 - warp % 4;
                if (!b->fibres[i].done && plan.round % pace == 0) to_fibre(b->fibres[i]);
            }
            live += b->live;
            if (!plan.failure.empty()) return;
        }
        if (live > 0 && plan.round - plan.progress > Patience) {
            plan.failure = stuck(blocks);
            return;
        }
    }
}

} // namespace

void give_way() { to_scheduler(); }

void fail(std::string what) {
    if (schedule->failure.empty())
        schedule->failure = what + " (block " + std::to_string(block->index.x) + "," + std::to_string(block->index.y) + " thread " + std::to_string(fibre ? fibre->thread : 0) + ")";
    for (;;) to_scheduler();
}

} // namespace emu

// How a launch is run: together 1 interleaves all blocks of the grid on one host thread (flags, tickets); else blocks run one after another.
struct LrEmuOptions {
    int32_t together, lazy, order;
    uint32_t seed;
};

LR_EXPORT int32_t lr_emu_find(const char* name, int32_t dtype, uint32_t* args_bytes, uint32_t* threads) {
    for (const emu::Entry* e = emu::Entry::first; e; e = e->next)
        if (e->dtype == dtype && !strcmp(e->name, name)) {
            *args_bytes = e->args_bytes;
            *threads = e->threads;
            return 1;
        }
    return 0;
}

// The kernels one by one: 0 where there are no more
LR_EXPORT int32_t lr_emu_entry(int32_t index, const char** name, const char** file, int32_t* dtype, uint32_t* threads) {
    const emu::Entry* e = emu::Entry::first;
    for (; e && index > 0; --index) e = e->next;
    if (!e) return 0;
    const char* slash = strrchr(e->file, '/');
    *name = e->name, *file = slash ? slash + 1 : e->file, *dtype = e->dtype, *threads = e->threads;
    return 1;
}

#ifdef LR_ASAN
// Device memory that belongs to no tensor, or does again: a kernel that touches it is reported on the spot.
LR_EXPORT void lr_emu_guard(void* memory, uint64_t bytes, int32_t on) { on ? __asan_poison_memory_region(memory, bytes) : __asan_unpoison_memory_region(memory, bytes); }
#endif

// 0 done; 1 no such kernel; 2 failed, with the reason in message
LR_EXPORT int32_t lr_emu_launch(const char* name, int32_t dtype, const uint32_t* grid, uint32_t threads, uint32_t shared_bytes, const void* args, const LrEmuOptions* options, char* message, int32_t capacity) {
    const emu::Entry* entry = emu::Entry::first;
    while (entry && (entry->dtype != dtype || strcmp(entry->name, name))) entry = entry->next;
    if (!entry) return 1;
    const emu::Launch launch = {{grid[0], grid[1], grid[2]}, threads, shared_bytes, entry->body, args};
    const uint64_t count = uint64_t(grid[0]) * grid[1] * grid[2];
    auto index = [&](uint64_t i) { return emu::Dim{uint32_t(i % grid[0]), uint32_t(i / grid[0] % grid[1]), uint32_t(i / grid[0] / grid[1])}; };
    std::mutex guard;
    std::string failure;
    auto batch = [&](uint64_t first, uint64_t last) {
        emu::body = launch.body;
        emu::arguments = launch.args;
        emu::Schedule plan;
        plan.lazy = options->lazy != 0;
        plan.order = options->order;
        plan.random = options->seed + uint32_t(first) * 7919u + 1u;
        std::vector<std::unique_ptr<emu::Block>> blocks;
        for (uint64_t i = first; i < last; ++i) {
            blocks.push_back(std::make_unique<emu::Block>());
            emu::prepare(*blocks.back(), launch, index(i));
        }
        emu::run(blocks, plan);
        for (auto& b : blocks) emu::finish(*b);
        if (plan.failure.empty()) return true;
        std::lock_guard<std::mutex> lock(guard);
        if (failure.empty()) failure = plan.failure;
        return false;
    };
    if (options->together) {
        batch(0, count);
    } else {
        std::atomic<uint64_t> next{0};
        std::atomic<bool> stop{false};
        auto work = [&] {
            for (uint64_t i; !stop && (i = next++) < count;)
                if (!batch(i, i + 1)) stop = true;
        };
        const unsigned cores = std::thread::hardware_concurrency();
        std::vector<std::thread> helpers;
        for (unsigned t = 1; t < cores && t < count && t < 8; ++t) helpers.emplace_back(work);
        work();
        for (auto& t : helpers) t.join();
    }
    if (failure.empty()) return 0;
    if (capacity > 0) {
        strncpy(message, failure.c_str(), size_t(capacity) - 1);
        message[capacity - 1] = 0;
    }
    return 2;
}
