// See pool.h. A worker spins for some 30 us after its last chunk, then sleeps on a futex, so short loops follow each other cheaply and an idle
// pool costs nothing.
#include "pool.h"
#include <atomic>
#include <mutex>
#include <new>
#include <sched.h>
#include <stdlib.h>
#include <thread>
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
        cpu_set_t set;
        const int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
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
        take();
        inside = false;
        // Helpers that have not woken yet are told not to start: closing the door beats waiting for a sleeper.
        closed.store(true, std::memory_order_seq_cst);
        for (int spin = 0; active.load(std::memory_order_seq_cst) != 0; ++spin) {
            if (spin < Spins) relax();
            else std::this_thread::yield();
        }
        owner.unlock();
    }

  private:
    void take() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < loop.chunks;) loop.body(loop.context, i);
    }

    // A worker counts itself active before it looks at the door, and run() shuts the door before it waits for the count: so either it sees the
    // door shut, or run() waits for it.
    void work_loop(int id) {
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
            active.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex owner;
    std::vector<std::thread> workers;
    int32_t count = 1;
    Loop loop{};
    std::atomic<int64_t> next{0};
    std::atomic<int> open{0}, active{0};
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

} // namespace

int32_t threads() { return pool().threads(); }
int32_t set_threads(int32_t count) { return pool().resize(count); }

void run_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context) { pool().run({body, context, chunks}); }

float* scratch(int slot, int64_t floats) {
    Buffers& b = buffers;
    if (floats > b.size[slot]) {
        free(b.data[slot]);
        const int64_t rounded = (floats + 1023) / 1024 * 1024;
        b.data[slot] = static_cast<float*>(aligned_alloc(4096, static_cast<size_t>(rounded) * sizeof(float)));
        b.size[slot] = b.data[slot] ? rounded : 0;
    }
    return b.data[slot];
}

} // namespace lr
