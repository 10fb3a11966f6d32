// A pool of threads for loops over fixed chunks. Chunks are handed out dynamically, so a busy core only takes fewer of them;
// what a chunk computes does not depend on who runs it, so results do not depend on the number of threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace lr {

int32_t threads();
int32_t set_threads(int32_t count);

// Runs body(context, chunk) for every chunk; returns when all are done. Called inside a chunk, or while another thread runs a loop, it runs serially.
void run_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context);

template <class F> void parallel_for(int64_t chunks, F&& f) {
    run_chunks(chunks, [](void* context, int64_t chunk) { (*static_cast<F*>(context))(chunk); }, &f);
}

// Splits count items of about `cost` elementary steps each into chunks worth a hand-over; f(begin, end).
template <class F> void parallel_range(int64_t count, int64_t cost, F&& f) {
    const int64_t grain = 16384 / (cost > 0 ? cost : 1) + 1;
    const int64_t chunks = (count + grain - 1) / grain;
    if (chunks <= 1) {
        if (count > 0) f(int64_t(0), count);
        return;
    }
    parallel_for(chunks, [&](int64_t c) { f(c * grain, (c + 1) * grain < count ? (c + 1) * grain : count); });
}

// Memory on whole pages, huge ones where they are worth it: a walk down a matrix touches a page a row. Null when there is none; free() takes it back.
void* allocate(int64_t bytes);

// Scratch of the calling thread that grows and stays: at most `Slots` buffers at a time. Null when there is no memory.
float* scratch(int slot, int64_t floats);
constexpr int Slots = 12;
// Gives back the calling thread's buffers of more than 64 MiB: calls that need them work long enough to ask again.
void trim_scratch();

} // namespace lr
