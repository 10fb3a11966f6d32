// What the kernel tests share: guarded buffers of any type, every instruction set the machine has, and a comparison with float64 loops.
#pragma once
#include "../../native/cpu/kernels.h"
#include "../../native/cpu/pool.h"
#include <functional>
#include <math.h>
#include <set>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define LR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LR_ASAN 1
#endif
#endif

#define LR_DECLARE(name, Args) int32_t name(const Args* p);
namespace lr_portable { LR_KERNELS(LR_DECLARE) }
#if defined(__x86_64__)
namespace lr_avx2 { LR_KERNELS(LR_DECLARE) }
namespace lr_avx512 { LR_KERNELS(LR_DECLARE) }
#endif
#if defined(LR_TEST_PAIRS)
namespace lr_avx512bf16 { LR_KERNELS(LR_DECLARE) }
#endif
#undef LR_DECLARE

namespace test {

inline int failures = 0;
inline std::set<std::string> covered; // kernels that some case has run

[[gnu::format(printf, 2, 3)]] inline void fail(const std::string& where, const char* format, ...) {
    if (++failures > 40) return;
    fprintf(stderr, "%s: ", where.c_str());
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
}

// A kernel in every instruction set, the portable one first
template <class Args> struct Kernel {
    using Entry = int32_t (*)(const Args*);
    const char* name;
    std::vector<Entry> levels;
};
inline const char* const level_names[] = {"portable", "avx2", "avx512", "avx512bf16"};
inline size_t levels_here() {
#if defined(__x86_64__)
    static const size_t count = [] {
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
        if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return 2;
#if defined(LR_TEST_PAIRS)
        if (__builtin_cpu_supports("avx512bf16")) return 4;
#endif
        return 3;
    }();
    return count;
#else
    return 1;
#endif
}
#if defined(LR_TEST_PAIRS)
#define KERNEL(kernel, Args) test::Kernel<Args>{#kernel, {lr_portable::kernel, lr_avx2::kernel, lr_avx512::kernel, lr_avx512bf16::kernel}}
#elif defined(__x86_64__)
#define KERNEL(kernel, Args) test::Kernel<Args>{#kernel, {lr_portable::kernel, lr_avx2::kernel, lr_avx512::kernel}}
#else
#define KERNEL(kernel, Args) test::Kernel<Args>{#kernel, {lr_portable::kernel}}
#endif

inline uint64_t state = 1;
inline double uniform() { // [-1, 1)
    state = state * 6364136223846793005u + 1442695040888963407u;
    return double(state >> 11) * 0x1p-52 - 1;
}

int size_of(int32_t dtype);
double get(const void* data, int32_t dtype, int64_t i);
void set(void* data, int32_t dtype, int64_t i, double value); // rounds to nearest even

// Memory with guards on both sides; under AddressSanitizer without, so that it sees reads past the end too.
class Buffer {
  public:
    Buffer(int32_t dtype, int64_t count);
    ~Buffer() { free(block); }
    Buffer(Buffer&& o) : dtype(o.dtype), count(o.count), data(o.data), block(o.block), start(std::move(o.start)) { o.block = nullptr; }

    double operator[](int64_t i) const { return get(start.data(), dtype, i); } // as it was before the call
    double now(int64_t i) const { return get(data, dtype, i); }
    void put(int64_t i, double value) { set(data, dtype, i, value), set(start.data(), dtype, i, value); }
    void reset() { if (!start.empty()) memcpy(data, start.data(), start.size()); }
    bool guards_hold() const;
    bool changed() const { return !start.empty() && memcmp(data, start.data(), start.size()) != 0; }
    std::vector<char> bytes() const { return {data, data + start.size()}; }

    int32_t dtype;
    int64_t count;
    char* data;

  private:
    char* block;
    std::vector<char> start;
};

Buffer random_buffer(int32_t dtype, int64_t count, double scale = 1);
Buffer ids_buffer(int64_t count, int limit);
Buffer mask_buffer(int64_t rows, int64_t cols); // zeros and ones, the first of a row one

double philox(uint64_t seed, uint64_t stream, int64_t index); // a draw in [0, 1), word by word

inline double bound(int32_t dtype) { return dtype == LR_BF16 ? 5e-3 : dtype == LR_F16 ? 6e-4 : 2e-6; }

// One output and what it should hold
struct Output {
    Buffer* buffer;
    std::function<double(int64_t)> want; // null: what the portable set gave
    double slack = 1;
};

// ||now - want|| / ||want||
double error_of(const Buffer& b, const std::vector<double>& want);

// Runs `make(dtype)` on every level with 1 and 3 threads: status, guards, inputs untouched, equal bits, closeness; then types no kernel takes.
template <class Args, class Make>
void run(const Kernel<Args>& kernel, const std::string& label, int32_t dtype, std::vector<const Buffer*> inputs, std::vector<Output> outputs, Make&& make) {
    covered.insert(kernel.name);
    std::vector<std::vector<double>> wants(outputs.size());
    for (size_t level = 0; level < levels_here(); ++level) {
        const std::string where = std::string(kernel.name) + " " + label + " type " + std::to_string(dtype) + " " + level_names[level];
        std::vector<std::vector<char>> alone;
        for (int threads : {1, 3}) {
            lr::set_threads(threads);
            for (auto& o : outputs) o.buffer->reset();
            const Args args = make(dtype);
            const int32_t status = kernel.levels[level](&args);
            if (status != LR_OK) return fail(where, "status %d", status);
            for (auto* b : inputs)
                if (!b->guards_hold() || b->changed()) fail(where, "an input was written");
            for (size_t i = 0; i < outputs.size(); ++i) {
                if (!outputs[i].buffer->guards_hold()) fail(where, "output %zu: written past its end", i);
                if (threads == 1) alone.push_back(outputs[i].buffer->bytes());
                else if (alone[i] != outputs[i].buffer->bytes()) fail(where, "output %zu differs between 1 and 3 threads", i);
            }
        }
        for (size_t i = 0; i < outputs.size(); ++i) {
            const Buffer& b = *outputs[i].buffer;
            if (level == 0)
                for (int64_t e = 0; e < b.count; ++e) wants[i].push_back(outputs[i].want ? outputs[i].want(e) : b.now(e));
            const double error = error_of(b, wants[i]);
            if (!(error <= outputs[i].slack * bound(b.dtype))) fail(where, "output %zu: relative error %.2e, want at most %.1e", i, error, outputs[i].slack * bound(b.dtype));
        }
        for (int32_t type : {int32_t(LR_F64), int32_t(LR_I32), 99}) {
            for (auto& o : outputs) o.buffer->reset();
            const Args args = make(type);
            if (const int32_t status = kernel.levels[level](&args); status != LR_UNSUPPORTED) fail(where, "type %d: status %d, want %d", type, status, LR_UNSUPPORTED);
            for (auto& o : outputs)
                if (o.buffer->changed()) fail(where, "type %d: written before it was refused", type);
        }
    }
}

void pointwise();
void rows();
void attention();
void products();
void quantised();
void cosines();
void wavelets();
void sparse();
void merging();

} // namespace test
