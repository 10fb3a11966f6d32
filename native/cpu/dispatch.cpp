// The exports lr_cpu_*: the instruction set is chosen once, at load, from what the processor and the system can do. Products of bf16 pairs are taken
// where a millisecond's trial shows them to be faster than widening to float: on some processors vdpbf16ps runs at half the rate of the FMA.
// LR_CPU_ISA (portable, avx2, avx512, avx512bf16) forces a level the processor has, without a trial; a level it lacks falls to the next lower one.
#include "abi.h"
#include "kernels.h"
#include "pool.h"
#include <stdlib.h>
#include <string.h>

#define LR_SET(ns) \
    namespace ns { \
    LR_KERNELS(LR_DECLARE) \
    double peak_fma(int32_t threads); \
    double copy_bandwidth(int32_t threads); \
    double pairs_gain(); \
    }
#define LR_DECLARE(name, Args) int32_t name(const Args* p);
LR_SET(lr_portable)
#if defined(__x86_64__)
LR_SET(lr_avx2)
LR_SET(lr_avx512)
LR_SET(lr_avx512bf16)
#endif

namespace {

struct Table {
    const char* isa;
#define LR_FIELD(name, Args) int32_t (*name)(const Args*);
    LR_KERNELS(LR_FIELD)
    double (*peak_fma)(int32_t);
    double (*copy_bandwidth)(int32_t);
};

#define LR_ENTRY(name, Args) ns::name,
#define ns lr_portable
const Table portable = {"portable", LR_KERNELS(LR_ENTRY) ns::peak_fma, ns::copy_bandwidth};
#undef ns
#if defined(__x86_64__)
#define ns lr_avx2
const Table avx2 = {"avx2", LR_KERNELS(LR_ENTRY) ns::peak_fma, ns::copy_bandwidth};
#undef ns
#define ns lr_avx512
const Table avx512 = {"avx512", LR_KERNELS(LR_ENTRY) ns::peak_fma, ns::copy_bandwidth};
#undef ns
#define ns lr_avx512bf16
const Table avx512bf16 = {"avx512bf16", LR_KERNELS(LR_ENTRY) ns::peak_fma, ns::copy_bandwidth};
#undef ns
#endif

const Table& choose() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has512 = has2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    const bool has_pairs = has512 && __builtin_cpu_supports("avx512bf16");
    const char* wish = getenv("LR_CPU_ISA");
    const auto asked = [wish](const char* level) { return wish && !strcmp(wish, level); };
    if (asked("portable")) return portable;
    if (has2 && asked("avx2")) return avx2;
    if (has_pairs && !asked("avx512") && (asked("avx512bf16") || lr_avx512bf16::pairs_gain() > 1)) return avx512bf16;
    if (has512) return avx512;
    if (has2) return avx2;
#endif
    return portable;
}

const Table& table() {
    static const Table& chosen = choose();
    return chosen;
}

} // namespace

#define LR_EXPORTED(name, Args) LR_EXPORT int32_t lr_cpu_##name(const Args* p) { return table().name(p); }
LR_KERNELS(LR_EXPORTED)

LR_EXPORT const char* lr_cpu_isa() { return table().isa; }
LR_EXPORT int32_t lr_cpu_threads() { return lr::threads(); }
LR_EXPORT int32_t lr_cpu_set_threads(int32_t count) { return lr::set_threads(count); }
// Lends the thread pool to callers that have loops of their own: body(context, chunk) for every chunk.
LR_EXPORT void lr_cpu_for_chunks(int64_t chunks, void (*body)(void*, int64_t), void* context) { lr::run_chunks(chunks, body, context); }
LR_EXPORT void* lr_cpu_allocate(int64_t bytes) { return lr::allocate(bytes); }
LR_EXPORT void lr_cpu_free(void* block) { free(block); }
LR_EXPORT double lr_cpu_peak_fma(int32_t threads) { return table().peak_fma(threads); }
LR_EXPORT double lr_cpu_copy_bandwidth(int32_t threads) { return table().copy_bandwidth(threads); }
