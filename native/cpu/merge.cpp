// Merges of K models, one tensor at a time (lowrank.h has the formulas): a block of 2048 elements of every model is widened to float32 differences that stay
// in cache, trimmed, elected and added up there, so every model is read once and the result written once, whatever their types.
// The trimming's thresholds are exact order statistics: merge_count bins the bits of |v|, which order as magnitudes do, 11 bits a pass.
// Floor: merge K + 1 models read and one written, merge_count K + 1 read a pass. Blocks do not depend on each other, and figures are sums of a block in a
// fixed order, so bits do not depend on the number of threads.
#include "kernels.h"
#include "math.h"
#include "philox.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int64_t Block = LR_MERGE_BLOCK;
constexpr int32_t All = 1 << 24; // draws that there are

// The elements [i, i + n) as floats
LR_INLINE void widened(const void* x, int32_t dtype, int64_t i, int64_t n, float* to) {
    by_float(dtype, [&](auto* type) {
        const auto* from = static_cast<decltype(type)>(const_cast<void*>(x)) + i;
        sweep(0, n, [&](auto at) LR_LAMBDA { at.set(to, at.get(from)); });
    });
}

// v = x - start of the elements [i, i + n), start null: 0
LR_INLINE void difference(const MergeInput& in, const float* start, int64_t i, int64_t n, float* v) {
    widened(in.x, in.dtype, i, n, v);
    if (start) sweep(0, n, [&](auto at) LR_LAMBDA { at.set(v, at.get(v) - at.get(start)); });
}

LR_INLINE float magnitudes(const float* v, int64_t n) {
    vf sums[4] = {};
    fan<4>(0, n, [&](auto at, auto c) LR_LAMBDA { sums[c] = sums[c] + magnitude(at.get(v)); });
    return sum(gathered(sums));
}

LR_INLINE float product(const float* a, const float* b, int64_t n) {
    vf sums[4] = {};
    fan<4>(0, n, [&](auto at, auto c) LR_LAMBDA { sums[c] = fma(at.get(a), at.get(b), sums[c]); });
    return sum(gathered(sums));
}

// What mask and draws drop becomes 0, the rest is multiplied by the factor
LR_INLINE void drop(const MergeInput& in, int64_t i, int64_t n, float* v) {
    if (in.keep) {
        const uint8_t* keep = static_cast<const uint8_t*>(in.keep) + i;
        for (int64_t e = 0; e < n; ++e) v[e] = keep[e] ? v[e] : 0;
    }
    if (in.from > 0 || in.to < All) {
        const vf from = splat(float(in.from) * 0x1p-24f), to = splat(float(in.to) * 0x1p-24f);
        for (int64_t g = 0; g < n; g += DrawGroup) {
            alignas(64) float u[DrawGroup];
            uniforms(uint64_t(i + g) / 4, in.seed, in.stream, u);
            sweep(g, g + DrawGroup < n ? g + DrawGroup : n, [&](auto at) LR_LAMBDA {
                const vf draw = load(u + at.i - g);
                at.set(v, select((draw >= from) & (draw < to), at.get(v), vf{}));
            });
        }
    }
    const vf factor = splat(float(in.factor));
    if (in.factor != 1) sweep(0, n, [&](auto at) LR_LAMBDA { at.set(v, factor * at.get(v)); });
}

// What lies below the threshold becomes 0
LR_INLINE void trim(const MergeInput& in, int64_t i, int64_t n, float* v) {
    if (in.least < 0) return;
    const float least = float(in.least);
    const vf level = splat(least);
    if (in.cut >= i + n) sweep(0, n, [&](auto at) LR_LAMBDA { const vf x = at.get(v); at.set(v, select(magnitude(x) >= level, x, vf{})); });
    else if (in.cut <= i) sweep(0, n, [&](auto at) LR_LAMBDA { const vf x = at.get(v); at.set(v, select(magnitude(x) > level, x, vf{})); });
    else
        for (int64_t e = 0; e < n; ++e) v[e] = __builtin_fabsf(v[e]) > least || (__builtin_fabsf(v[e]) == least && i + e < in.cut) ? v[e] : 0;
}

// True where a lane of a comparison is
LR_INLINE bool any(vi mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    return mask[0] | mask[1] | mask[2] | mask[3];
#endif
}

// Where models moved to both sides, and the products of their moves; rows v [K][Block]
LR_INLINE void compare(const float* v, int32_t models, int64_t n, double* conflicts, double* products) {
    vi both = {};
    sweep(0, n, [&](auto at) LR_LAMBDA {
        vi above = {}, below = {};
        for (int32_t t = 0; t < models; ++t) {
            const vf move = at.get(v + t * Block);
            above |= move > vf{};
            below |= move < vf{};
        }
        both -= above & below;
    });
    *conflicts = 0;
    for (int l = 0; l < Lanes; ++l) *conflicts += both[l];
    for (int32_t a = 0; a < models; ++a)
        for (int32_t b = 0; b <= a; ++b) *products++ = product(v + a * Block, v + b * Block, n);
}

struct Election {
    vi signs = {}, zeros = {};
};

// z of the rows u [K][Block], into z
template <int Rule> LR_INLINE void combine(const MergeArgs* p, const float* u, int64_t n, float* z, Election& election) {
    const vi even = vi{} + (p->even > 0 ? -1 : 0);
    sweep(0, n, [&](auto at) LR_LAMBDA {
        vf all = {};
        for (int32_t t = 0; t < p->input_count; ++t) all = all + at.get(u + t * Block);
        if constexpr (Rule == LR_MERGE_SUM) at.set(z, all);
        else {
            const vi above = all > vf{}, tied = all == vf{}, plus = above | (tied & even), lanes = as_int(within(at, as_float(vi{} - 1)));
            election.signs += ((all < vf{}) & lanes) - (above & lanes);
            election.zeros -= tied & lanes;
            vf total = {}, shares = {};
            for (int32_t t = 0; t < p->input_count; ++t) {
                const vf x = at.get(u + t * Block);
                const vi agrees = (plus & (x > vf{})) | (~plus & (x < vf{}));
                if constexpr (Rule == LR_MERGE_LARGEST) total = vmax(total, select(agrees, magnitude(x), vf{}));
                else total = total + select(agrees, x, vf{});
                if constexpr (Rule == LR_MERGE_MEAN) shares = shares + select(agrees, splat(float(p->inputs[t].share)), vf{});
            }
            if constexpr (Rule == LR_MERGE_MEAN) total = select(shares == vf{}, total, total / shares);
            if constexpr (Rule == LR_MERGE_LARGEST) total = total * select(tied, splat(float(p->even)), select(above, splat(1.0f), splat(-1.0f)));
            at.set(z, total);
        }
    });
}

// y = start + lambda scale z; figures: what was added, squared, the largest rounding, and roundings squared
template <class T> LR_INLINE void finish(const MergeArgs* p, T* y, const float* start, const float* scale, const float* z, int64_t n, double* figures) {
    const vf lambda = splat(float(p->lambda));
    vf moved = {}, most = {}, squares = {};
    sweep(0, n, [&](auto at) LR_LAMBDA {
        vf change = lambda * at.get(z);
        if (scale) change = change * at.get(scale);
        const vf from = start ? at.get(start) : vf{};
        at.set(y, p->lambda != 0 ? from + change : from);
        const vf off = magnitude((from - at.get(y)) + change);
        moved = fma(change, change, moved);
        most = vmax(most, off);
        squares = fma(off, off, squares);
    });
    figures[0] = sum(moved);
    figures[1] = largest(most);
    figures[2] = sum(squares);
}

} // namespace

int32_t merge(const MergeArgs* p) {
    const int32_t models = p->input_count;
    const bool centred = p->compares && !p->start; // compared to their mean
    const int64_t rows = 2 + models + (centred ? models : 0), width = LR_MERGE_FIGURES + 2 * models + int64_t(models) * (models + 1) / 2;
    bool known = by_float(p->y_dtype, [](auto*) {}) && (!p->start || by_float(p->start_dtype, [](auto*) {}));
    for (int32_t t = 0; t < models; ++t) known = known && by_float(p->inputs[t].dtype, [](auto*) {});
    if (!known) return LR_UNSUPPORTED;
    int32_t status = LR_OK;
    lr::parallel_for((p->count + Block - 1) / Block, [&](int64_t block) {
        float* memory = lr::scratch(0, rows * Block);
        if (!memory) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
        float *z = memory + Block, *v = z + Block, *start = p->start ? memory : nullptr;
        double* figures = static_cast<double*>(p->figures) + block * width;
        const int64_t i = block * Block, n = p->count - i < Block ? p->count - i : Block;
        for (int64_t f = 0; f < width; ++f) figures[f] = 0;
        if (start) widened(p->start, p->start_dtype, i, n, start);
        for (int32_t t = 0; t < models; ++t) {
            difference(p->inputs[t], start, i, n, v + t * Block);
            figures[LR_MERGE_FIGURES + 2 * t] = magnitudes(v + t * Block, n);
        }
        const float* moves = v;
        if (centred) {
            float* to = v + models * Block;
            sweep(0, n, [&](auto at) LR_LAMBDA {
                vf mean = {};
                for (int32_t t = 0; t < models; ++t) mean = mean + at.get(v + t * Block);
                mean = mean / splat(float(models));
                for (int32_t t = 0; t < models; ++t) at.set(to + t * Block, at.get(v + t * Block) - mean);
            });
            moves = to;
        }
        if (p->compares) compare(moves, models, n, figures + 2, figures + LR_MERGE_FIGURES + 2 * models);
        for (int32_t t = 0; t < models; ++t) {
            const MergeInput& in = p->inputs[t];
            float* u = v + t * Block;
            drop(in, i, n, u);
            trim(in, i, n, u);
            figures[LR_MERGE_FIGURES + 2 * t + 1] = magnitudes(u, n);
            const vf weight = splat(float(in.weight));
            if (in.weight != 1) sweep(0, n, [&](auto at) LR_LAMBDA { at.set(u, weight * at.get(u)); });
        }
        Election election;
        if (p->rule == LR_MERGE_SUM) combine<LR_MERGE_SUM>(p, v, n, z, election);
        else if (p->rule == LR_MERGE_AGREED) combine<LR_MERGE_AGREED>(p, v, n, z, election);
        else if (p->rule == LR_MERGE_MEAN) combine<LR_MERGE_MEAN>(p, v, n, z, election);
        else combine<LR_MERGE_LARGEST>(p, v, n, z, election);
        for (int l = 0; l < Lanes; ++l) figures[0] += election.signs[l], figures[1] += election.zeros[l];
        if (!p->y) return;
        by_float(p->y_dtype, [&](auto* type) {
            finish(p, static_cast<decltype(type)>(p->y) + i, start, p->scale ? static_cast<const float*>(p->scale) + i : nullptr, z, n, figures + 3);
        });
    });
    return status;
}

int32_t merge_count(const MergeCountArgs* p) {
    constexpr int64_t MostParts = 32;
    const int32_t models = p->input_count;
    const int64_t blocks = (p->count + Block - 1) / Block, parts = blocks < MostParts ? blocks : MostParts, bins = int64_t(models) * LR_MERGE_BINS;
    bool known = !p->start || by_float(p->start_dtype, [](auto*) {});
    for (int32_t t = 0; t < models; ++t) known = known && by_float(p->inputs[t].dtype, [](auto*) {});
    if (!known) return LR_UNSUPPORTED;
    int64_t* counted = reinterpret_cast<int64_t*>(lr::scratch(1, 2 * parts * bins + 16));
    if (!counted) return LR_OUT_OF_MEMORY;
    int32_t status = LR_OK;
    const uint32_t mask = (1u << p->width) - 1;
    const int32_t upper = p->span > 0 ? 0 : p->shift + p->width; // bits below those that are found: 31 in the first pass
    lr::parallel_for(parts, [&](int64_t part) {
        float* memory = lr::scratch(0, 2 * Block);
        if (!memory) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
        float *start = p->start ? memory : nullptr, *v = memory + Block;
        int64_t* counts = counted + part * bins;
        memset(counts, 0, size_t(bins) * sizeof(int64_t));
        for (int64_t block = part; block < blocks; block += parts) {
            const int64_t i = block * Block, n = p->count - i < Block ? p->count - i : Block;
            if (start) widened(p->start, p->start_dtype, i, n, start);
            for (int32_t t = 0; t < models; ++t) {
                const uint32_t found = uint32_t(p->inputs[t].found);
                int64_t* to = counts + int64_t(t) * LR_MERGE_BINS;
                const auto count = [&](int64_t e, uint32_t bits) LR_LAMBDA {
                    const int64_t bin = p->span > 0 ? (i + e - p->origin) / p->span : int64_t(bits >> p->shift & mask);
                    if (p->span > 0 ? bits == found && i + e >= p->origin && bin < LR_MERGE_BINS : bits >> upper == found) ++to[bin];
                };
                difference(p->inputs[t], start, i, n, v);
                drop(p->inputs[t], i, n, v);
                for (int64_t e = 0; e < n; e += Lanes) { // after the first pass few entries still count: most vectors have none
                    const vi bits = as_int(magnitude(load(v + e)));
                    if (!any((bits >> upper) == int32_t(found))) continue;
                    uint32_t lanes[Lanes];
                    memcpy(lanes, &bits, sizeof bits);
                    for (int64_t l = e; l < n && l < e + Lanes; ++l) count(l, lanes[l - e]);
                }
            }
        }
    });
    if (status != LR_OK) return status;
    int64_t* counts = static_cast<int64_t*>(p->counts);
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t b = 0; b < bins; ++b) counts[b] += counted[part * bins + b];
    return LR_OK;
}

} // namespace LR_NS
