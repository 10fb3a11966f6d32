// Dropout by Philox4x32-10: key = seed (low, high); counter = (index/4 low, high, stream low, high); lane = index mod 4; uniform = (u32 >> 8) 2^-24.
// Floor: x read, y written; ten rounds cost two 32-bit products for every two numbers, so it is bound by integer arithmetic, not by memory: 8 GB/s
// with AVX-512 on Zen 4, one thread, 28 % of the copy ceiling; one counter at a time gave 1.2 GB/s.
#include "kernels.h"
#include "philox.h"
#include "pool.h"

namespace LR_NS {

int32_t dropout(const DropoutArgs* p) {
    const vf edge = splat(float(p->p)), scale = splat(float(1 / (1 - p->p)));
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range((p->count + DrawGroup - 1) / DrawGroup, 4 * DrawGroup, [&](int64_t g0, int64_t g1) {
            for (int64_t g = g0; g < g1; ++g) {
                const int64_t first = g * DrawGroup;
                alignas(64) float u[DrawGroup];
                uniforms(uint64_t(first) / 4, p->seed, p->stream, u);
                sweep(first, first + DrawGroup < p->count ? first + DrawGroup : p->count, [&](auto at) LR_LAMBDA {
                    const vf keep = load(u + at.i - first) >= edge ? scale * at.get(x) : vf{};
                    at.put(y, keep, p->add & 1);
                });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
