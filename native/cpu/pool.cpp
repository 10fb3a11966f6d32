// See pool.h. A worker spins for some 50 us after its last chunk, then sleeps on a futex, so short loops follow each other cheaply and an idle
// pool costs nothing. The caller waits for the last chunk in the same way.
// Reached, two threads on two cores, one of them shared with a busy process: LoRA steps of 544 x 128 x 512 and 512 x 1024 x 1024 take 2.0 and 1.9 x
// their quiet time (1.33 x is what the cores allow; a helper that loses its core in the middle of a chunk is waited for).
#include "pool.h"
#include <atomic>
#include <mutex>
#include <new>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <vector>

namespace lr {
namespace {

constexpr int Spins = 4000;
thread_local bool inside = false;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

struct Loop {
    void (*body)(void*, int64_t);
    void* context;
    int64_t chunks;
};

class Pool {
  public:
    Pool() {
        const char* wish = getenv("LR_CPU_THREADS");
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
        const int cores = CPU_COUNT(&allowed) > 0 ? CPU_COUNT(&allowed) : 1;
        const int asked = wish ? atoi(wish) : cores;
        count = asked < 1 ? 1 : asked > 64 ? 64 : asked;
    }

    int32_t threads() const { return count; }

    int32_t resize(int32_t wanted) {
        std::lock_guard<std::mutex> guard(owner);
        const int32_t before = count;
        count = wanted < 1 ? 1 : wanted > 64 ? 64 : wanted;
        return before;
    }

    void run(const Loop& work) {
        if (inside || work.chunks <= 1 || count == 1 || !owner.try_lock()) {
            for (int64_t i = 0; i < work.chunks; ++i) work.body(work.context, i);
            return;
        }
        while (static_cast<int>(workers.size()) < count - 1) {
            const int id = static_cast<int>(workers.size());
            workers.emplace_back([this, id] { work_loop(id); });
            workers.back().detach();
        }
        loop = work;
        next.store(0, std::memory_order_relaxed);
        open.store(count - 1, std::memory_order_relaxed);
        closed.store(false, std::memory_order_seq_cst);
        generation.fetch_add(1, std::memory_order_release);
        generation.notify_all();
        inside = true;
        const int64_t began = now_ns();
        if (const int64_t first = next.fetch_add(1, std::memory_order_relaxed); first < work.chunks) work.body(work.context, first);
        if (active.load(std::memory_order_relaxed) == 0 && now_ns() - began > Awake) spread();
        take();
        inside = false;
        // Helpers that have not woken yet are told not to start: closing the door beats waiting for a sleeper.
        closed.store(true, std::memory_order_seq_cst);
        // A helper that lost its core in the middle of a chunk is slept for: the core left idle is where the system moves it.
        int32_t left = active.load(std::memory_order_seq_cst);
        for (int spin = 0; left != 0 && spin < Spins; ++spin) {
            relax();
            left = active.load(std::memory_order_seq_cst);
        }
        for (; left != 0; left = active.load(std::memory_order_seq_cst)) active.wait(left, std::memory_order_seq_cst);
        owner.unlock();
    }

  private:
    static constexpr int64_t Awake = 100000; // ns after which a helper should be running

    static int64_t now_ns() {
        timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return int64_t(t.tv_sec) * 1000000000 + t.tv_nsec;
    }

    // Bars the helpers from the core this thread runs on; one that is queued there moves at once.
    void spread() {
        cpu_set_t others = allowed;
        const int here = sched_getcpu();
        if (here < 0 || here >= CPU_SETSIZE) return;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (int i = 0; i < count - 1; ++i)
            if (const pid_t id = ids[i].load(std::memory_order_relaxed)) sched_setaffinity(id, sizeof others, &others);
    }

    void take() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < loop.chunks;) loop.body(loop.context, i);
    }

    // A worker counts itself active before it looks at the door, and run() shuts the door before it waits for the count: so either it sees the
    // door shut, or run() waits for it.
    void work_loop(int id) {
        ids[id].store(gettid(), std::memory_order_relaxed);
        inside = true;
        uint32_t seen = 0;
        for (;;) {
            uint32_t now = generation.load(std::memory_order_acquire);
            for (int spin = 0; now == seen && spin < Spins; ++spin) {
                relax();
                now = generation.load(std::memory_order_acquire);
            }
            if (now == seen) {
                generation.wait(seen, std::memory_order_acquire);
                continue;
            }
            seen = now;
            if (id >= open.load(std::memory_order_relaxed)) continue;
            active.fetch_add(1, std::memory_order_seq_cst);
            if (!closed.load(std::memory_order_seq_cst)) take();
            if (active.fetch_sub(1, std::memory_order_seq_cst) == 1) active.notify_one();
        }
    }

    std::mutex owner;
    std::vector<std::thread> workers;
    std::atomic<int32_t> count{1}; // read before the owner is locked
    Loop loop{};
    std::atomic<int64_t> next{0};
    cpu_set_t allowed{};
    std::atomic<pid_t> ids[64] = {};
    std::atomic<int32_t> open{0}, active{0};
    std::atomic<bool> closed{true};
    std::atomic<uint32_t> generation{0};
};

Pool& pool() {
    static Pool* shared = new Pool; // never destroyed: workers may outlive main
    return *shared;
}

struct Buffers {
    float* data[Slots] = {};
    int64_t size[Slots] = {};
    ~Buffers() {
        for (float* p : data) free(p);
    }
};
thread_local Buffers buffers;

constexpr int64_t Keep = int64_t(64) << 18;  // floats of a buffer that stays: 64 MiB
constexpr int64_t Large = int64_t(4) << 20;  // bytes worth huge pages
constexpr int64_t Most = INT64_MAX / 64;     // floats; more is no size

} // namespace

int32_t threads() { return pool().threads(); }
int32_t set_threads(int32_t count) { return pool().resize(count); }

void run_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context) { pool().run({body, context, chunks}); }

void* allocate(int64_t bytes) {
    if (bytes < 0 || bytes > INT64_MAX / 2) return nullptr;
    const size_t page = bytes < Large ? 4096 : size_t(2) << 20, whole = (static_cast<size_t>(bytes) + page - 1) / page * page;
    void* block = aligned_alloc(page, whole > 0 ? whole : page);
    if (block && bytes >= Large) madvise(block, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return block;
}

float* scratch(int slot, int64_t floats) {
    Buffers& b = buffers;
    if (floats > b.size[slot]) {
        if (floats > Most) return nullptr;
        free(b.data[slot]);
        const int64_t rounded = (floats + 1023) / 1024 * 1024;
        b.data[slot] = static_cast<float*>(allocate(rounded * int64_t(sizeof(float))));
        b.size[slot] = b.data[slot] ? rounded : 0;
    }
    return b.data[slot];
}

void trim_scratch() {
    for (int slot = 0; slot < Slots; ++slot)
        if (buffers.size[slot] > Keep) {
            free(buffers.data[slot]);
            buffers.data[slot] = nullptr;
            buffers.size[slot] = 0;
        }
}

} // namespace lr
