// The mask of Concrete merging: a sample of the binary Concrete distribution over its own mean (lowrank.h has the formulas). Forward makes m in the place of
// s, sums it in float64 and divides; backward makes m from s and the mean, so u is not needed again.
// Floor: forward reads x and u and writes s twice, backward reads ds and s twice and x once and writes dx.
#include "kernels.h"
#include "math.h"
#include "philox.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int64_t Stretch = 4096; // summed in vectors of float32 by 512, then in float64
constexpr float Unit = 0x1p-23f, Tiny = 0x1p-126f, Edge = 15.942385f; // log((1 - Unit)/Unit)

// Sum of each(place) over stretch s of count elements, in a fixed order
template <class F> LR_INLINE double stretch_sum(int64_t s, int64_t count, F&& each) {
    const int64_t last = (s + 1) * Stretch < count ? (s + 1) * Stretch : count;
    double total = 0;
    for (int64_t i = s * Stretch; i < last; i += 512) {
        vf sums = {};
        sweep(i, i + 512 < last ? i + 512 : last, [&](auto at) LR_LAMBDA { sums = sums + within(at, each(at)); });
        total += sum(sums);
    }
    return total;
}

// The mean of each(stretch) over all elements; false where there is no memory
template <class F> bool mean_of(int64_t count, double& mean, F&& each) {
    const int64_t stretches = (count + Stretch - 1) / Stretch;
    double* parts = reinterpret_cast<double*>(lr::scratch(0, 2 * stretches + 16));
    if (!parts) return false;
    lr::parallel_range(stretches, 8 * Stretch, [&](int64_t s0, int64_t s1) {
        for (int64_t s = s0; s < s1; ++s) parts[s] = each(s);
    });
    double total = 0;
    for (int64_t s = 0; s < stretches; ++s) total += parts[s];
    mean = total / double(count);
    return true;
}

LR_INLINE vf clamped(vf low, vf x, vf high) { return at_most(high, at_least(low, x)); }

} // namespace

int32_t concrete_mask_forward(const ConcreteMaskArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float *x = static_cast<const float*>(p->x), *u = static_cast<const float*>(p->u);
    float* s = static_cast<float*>(p->s);
    const vf cool = splat(float(1 / p->temperature)), unit = splat(Unit), most = splat(1.0f - Unit);
    double mean = 0;
    const bool made = mean_of(p->count, mean, [&](int64_t stretch) {
        alignas(64) float drawn[Stretch];
        const int64_t first = stretch * Stretch;
        for (int64_t i = 0; !u && i < Stretch && first + i < p->count; i += DrawGroup) uniforms(uint64_t(first + i) / 4, p->seed, p->stream, drawn + i);
        return stretch_sum(stretch, p->count, [&](auto at) LR_LAMBDA {
            const vf draw = clamped(unit, u ? at.get(u) : load(drawn + at.i - first), most);
            const vf z = cool * (vlog(draw / (splat(1.0f) - draw)) + clamped(splat(-Edge), at.get(x), splat(Edge)));
            const vf m = clamped(splat(Tiny), vsigmoid(z), most);
            at.set(s, m);
            return m;
        });
    });
    if (!made) return LR_OUT_OF_MEMORY;
    *static_cast<float*>(p->mean) = float(mean);
    const vf level = splat(float(mean));
    lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) { sweep(i0, i1, [&](auto at) LR_LAMBDA { at.set(s, at.get(s) / level); }); });
    return LR_OK;
}

int32_t concrete_mask_backward(const ConcreteMaskGradArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float *x = static_cast<const float*>(p->x), *s = static_cast<const float*>(p->s), *ds = static_cast<const float*>(p->ds);
    double shared = 0;
    if (!mean_of(p->count, shared, [&](int64_t stretch) { return stretch_sum(stretch, p->count, [&](auto at) LR_LAMBDA { return at.get(ds) * at.get(s); }); })) return LR_OUT_OF_MEMORY;
    const vf level = splat(float(shared)), mean = splat(*static_cast<const float*>(p->mean)), cool = splat(float(1 / p->temperature));
    lr::parallel_range(p->count, 2, [&](int64_t i0, int64_t i1) {
        sweep(i0, i1, [&](auto at) LR_LAMBDA {
            const vf scaled = at.get(s), m = scaled * mean;
            const vf slope = (at.get(ds) - level) * scaled * (splat(1.0f) - m) * cool;
            const vi free = (magnitude(at.get(x)) <= splat(Edge)) & (m < splat(1.0f - 2 * Unit)) & (m > splat(2 * Tiny));
            at.put(static_cast<float*>(p->dx), select(free, slope, vf{}), p->add & 1);
        });
    });
    return LR_OK;
}

} // namespace LR_NS
