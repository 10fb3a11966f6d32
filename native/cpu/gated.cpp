// The gated middle of a feed-forward: two products of one x, of which the second one's epilogue takes the first one's tile from cache.
// Floor (T tokens, n x k weights, ranks rg and ru): 2T(2nk + (rg + ru)(n + k)) FLOPs; x and both weights touched once, y written once, g and u where the
// backward pass wants them. Apart, y costs five passes over [T,n] beside the products; here it is one, and x is packed once for both.
#include "activations.h"
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

namespace {

template <class T> LR_INLINE vf rounded(vf v) { // as it would be in memory
    if constexpr (std::is_same_v<T, float>) return v;
    else {
        T as[Lanes];
        store(as, v);
        return load(as);
    }
}

template <class Dot, class F> int32_t gated(const GatedLinearArgs* p) {
    const int64_t t = p->tokens, n = p->n, k = p->k, ku = Dot::units(k), apart = p->rg + p->rg % 2, r = apart + p->ru, pitch = Narrow * k;
    Workspace memory;
    const ForwardProduct<Dot> product(memory, p->x, p->dtype, t, {p->wg, p->w_dtype, p->w_layout, n, k}, p->wu);
    float *ag = memory.take(ceil_div(p->rg, Narrow) * pitch), *au = memory.take(ceil_div(p->ru, Narrow) * pitch);
    float *b = memory.take(2 * ceil_div(n, Wide) * Wide * r), *tails = memory.take(ceil_div(t, Rows) * Rows * r);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    // The rank steps of both products are one tail, up's after gate's from an even step on; in the strips of either the other's factors are 0.
    if (p->rg) pack_low<Dot, Narrow>({p->ag, LR_F32, k, 1}, p->rg, k, ag);
    if (p->ru) pack_low<Dot, Narrow>({p->au, LR_F32, k, 1}, p->ru, k, au);
    lr::parallel_range(r ? 2 * ceil_div(n, Wide) : 0, Wide * r, [&](int64_t j0, int64_t j1) {
        for (int64_t j = j0; j < j1; ++j) {
            float* to = b + j * Wide * r;
            memset(to, 0, static_cast<size_t>(Wide * r) * sizeof(float));
            const int64_t rank = j % 2 ? p->ru : p->rg;
            if (rank) pack_group<Wide>({j % 2 ? p->bu : p->bg, LR_F32, rank, 1}, n, rank, j / 2, nullptr, to + (j % 2 ? apart * Wide : 0));
            finish_pack<Dot>(to, r, Wide);
        }
    });
    product.pack([&](int64_t i, const float* panel) {
        if (r == 0) return;
        float* tail = tails + i * Rows * r;
        memset(tail, 0, static_cast<size_t>(Rows * r) * sizeof(float));
        low_rank<Dot>(panel, ku, ag, pitch, p->rg, static_cast<float>(p->scale_g), i * Rows, t, static_cast<float*>(p->tg), tail);
        low_rank<Dot>(panel, ku, au, pitch, p->ru, static_cast<float>(p->scale_u), i * Rows, t, static_cast<float*>(p->tu), tail + apart * Rows);
        finish_pack<Dot>(tail, r, Rows);
    });
    const float *bias_g = floats(p->bias_g), *bias_u = floats(p->bias_u);
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T *y = static_cast<T*>(p->y), *g = p->save ? static_cast<T*>(p->g) : nullptr, *u = p->save ? static_cast<T*>(p->u) : nullptr;
        product.run_both({tails, b, Dot::units(r), Rows * r, Wide * r}, [&](const Place& at, bool up, const float* sums) {
            float* gate = lr::scratch(10, KeptPanels * TileSize) + at.row / Rows % KeptPanels * TileSize;
            by_rows(at, sums, [&](int64_t row, int64_t col, vf v, auto some) LR_LAMBDA {
                float* kept = gate + (row - at.row) * Wide + (col - at.col);
                if (const float* bias = up ? bias_u : bias_g) v = v + load_some(bias + col, some);
                v = rounded<T>(v);
                if (T* to = up ? u : g) store_some(to + row * n + col, v, some);
                if (!up) store(kept, v);
                else store_some(y + row * n + col, F::at(load(kept)) * v, some);
            });
        });
    });
    return LR_OK;
}

template <class Dot> int32_t by_gate(const GatedLinearArgs* p) { return p->gate == LR_SILU ? gated<Dot, Silu>(p) : gated<Dot, GeluTanh>(p); }

} // namespace

int32_t gated_linear_forward(const GatedLinearArgs* p) {
    if (!is_activation(p->dtype) || !is_activation(p->w_dtype) || is_coded(p->w_layout)) return LR_UNSUPPORTED;
#if defined(__AVX512BF16__)
    if (paired(p->dtype, p->w_dtype, p->w_layout)) return by_gate<Pairs>(p);
#endif
    return by_gate<Floats>(p);
}

} // namespace LR_NS
