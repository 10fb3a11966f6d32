// Dropout by Philox4x32-10: key = seed (low, high); counter = (index/4 low, high, stream low, high); lane = index mod 4; uniform = (u32 >> 8) 2^-24.
// Floor: x read, y written; ten rounds cost two 32-bit products for every two numbers, so it is bound by integer arithmetic, not by memory: 8 GB/s
// with AVX-512 on Zen 4, one thread, 28 % of the copy ceiling; one counter at a time gave 1.2 GB/s.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int Wide = Lanes / 2; // counters side by side, each 32-bit word in a 64-bit lane; what a product leaves in the upper half does no harm
constexpr int64_t Group = 4 * Wide;
typedef uint64_t vw __attribute__((vector_size(Lanes * 4)));

LR_INLINE vw times(vw a, uint32_t m) { // low halves of the lanes, 64-bit products
#if defined(__AVX512F__)
    return (vw)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (vw)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
    return (a & 0xFFFFFFFFu) * uint64_t(m);
#endif
}

// The numbers of elements 4 block .. 4 block + Group - 1, in [0, 1)
LR_INLINE void uniforms(uint64_t block, uint64_t seed, uint64_t stream, float* out) {
    vw c0, c1;
    for (int i = 0; i < Wide; ++i) c0[i] = (block + i) & 0xFFFFFFFFu, c1[i] = (block + i) >> 32;
    vw c2 = vw{} + (stream & 0xFFFFFFFFu), c3 = vw{} + (stream >> 32);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const vw p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0);
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1);
        c3 = p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const vw first = (c0 & 0xFFFFFFFFu) | c1 << 32, second = (c2 & 0xFFFFFFFFu) | c3 << 32; // words 0, 1 and 2, 3 of every counter
    uint64_t pairs[2 * Wide];
    for (int i = 0; i < Wide; ++i) pairs[2 * i] = first[i], pairs[2 * i + 1] = second[i];
    for (int i = 0; i < 2; ++i) {
        vi u;
        memcpy(&u, pairs + i * Wide, sizeof u);
        store(out + i * Lanes, __builtin_convertvector(u >> 8 & 0xFFFFFF, vf) * splat(0x1p-24f));
    }
}

} // namespace

int32_t dropout(const DropoutArgs* p) {
    const vf edge = splat(float(p->p)), scale = splat(float(1 / (1 - p->p)));
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range((p->count + Group - 1) / Group, 4 * Group, [&](int64_t g0, int64_t g1) {
            for (int64_t g = g0; g < g1; ++g) {
                const int64_t first = g * Group;
                alignas(64) float u[Group];
                uniforms(uint64_t(first) / 4, p->seed, p->stream, u);
                sweep(first, first + Group < p->count ? first + Group : p->count, [&](auto at) LR_LAMBDA {
                    const vf keep = load(u + at.i - first) >= edge ? scale * at.get(x) : vf{};
                    at.put(y, keep, p->add & 1);
                });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
