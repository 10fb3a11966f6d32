// What the machine can do, measured on the spot: the ceilings that bench rows are compared with.
#include "gemm.h"
#include <chrono>

namespace LR_NS {

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F> double best_of(int runs, F&& f) {
    double best = 1e30;
    for (int i = 0; i < runs; ++i) {
        const double start = now();
        f();
        const double took = now() - start;
        best = took < best ? took : best;
    }
    return best;
}
} // namespace

// Multiply-adds in registers, GFLOP/s over the given threads
double peak_fma(int32_t threads) {
    constexpr int Chains = 12;
    constexpr int64_t Loops = 2000000;
    const int32_t before = lr::set_threads(threads);
    const double seconds = best_of(5, [&] {
        lr::parallel_for(threads, [&](int64_t chunk) {
            vf acc[Chains];
            unroll<Chains>([&](auto i) { acc[i] = splat(float(chunk) + i); });
            const vf a = splat(0.999f), b = splat(1e-3f);
            for (int64_t l = 0; l < Loops; ++l) {
                unroll<Chains>([&](auto i) { acc[i] = fma(acc[i], a, b); });
                asm volatile("" ::: "memory");
            }
            vf total{};
            unroll<Chains>([&](auto i) { total = total + acc[i]; });
            volatile float keep = sum(total);
            (void)keep;
        });
    });
    lr::set_threads(before);
    return 2.0 * Chains * Lanes * double(Loops) * threads / seconds / 1e9;
}

// Copy of 128 MiB a thread, GB/s read plus written: the better of plain and non-temporal stores, which machines rank differently
double copy_bandwidth(int32_t threads) {
    const int64_t count = (int64_t(128) << 20) / 4;
    float* from = lr::scratch(10, count * threads);
    float* to = lr::scratch(11, count * threads);
    if (!from || !to) return 0;
    memset(from, 1, size_t(count * threads) * 4);
    memset(to, 2, size_t(count * threads) * 4);
    const int32_t before = lr::set_threads(threads);
    auto measure = [&](auto&& put) {
        return best_of(4, [&] {
            lr::parallel_for(threads, [&](int64_t chunk) {
                const float* a = from + chunk * count;
                float* b = to + chunk * count;
                for (int64_t i = 0; i < count; i += Lanes) put(b + i, load(a + i));
            });
        });
    };
    const double stored = measure([](float* p, vf v) LR_LAMBDA { store(p, v); }), past = measure([](float* p, vf v) LR_LAMBDA { stream(p, v); });
    const double seconds = past < stored ? past : stored;
    lr::set_threads(before);
    lr::trim_scratch();
    return 8.0 * double(count) * threads / seconds / 1e9;
}

// How many times faster a tile of bf16 pairs is than one of floats over the same steps; 0 where the set has none. Takes about 1 ms.
double pairs_gain() {
#if defined(__AVX512BF16__)
    constexpr int64_t Steps = 128, Tiles = 64;
    float panel[Steps * Rows] = {}, strip[(Steps + Ahead) * Wide] = {}, sums[Rows * Wide];
    const auto rate = [&](auto dot) {
        const double seconds = best_of(4, [&] {
            for (int64_t i = 0; i < Tiles; ++i) tile<decltype(dot), Rows, Wide>(Steps, Panel<Rows>{panel}, strip, Wide, sums, i > 0);
        });
        return (dot.Paired ? 2 : 1) / seconds;
    };
    return rate(Pairs{}) / rate(Floats{});
#else
    return 0;
#endif
}

} // namespace LR_NS
